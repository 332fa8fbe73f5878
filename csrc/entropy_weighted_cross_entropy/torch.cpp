#include "../common/torch_logits.h"
#include "kernel.h"

#include <tuple>

namespace dgseg {
namespace {

using torch::stable::contiguous;
using torch::stable::empty;

// The bands of labels that were described already; nullptr where there are none.
const uint8_t* describe_bands(const std::optional<Tensor>& bands, const Tensor& labels) {
  if (!bands) return nullptr;
  STD_TORCH_CHECK(bands->scalar_type() == ScalarType::Byte && bands->numel() == labels.numel(),
                  "bands must be uint8 of the labels' shape");
  return static_cast<const uint8_t*>(bands->const_data_ptr());
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(contiguous(*tensor)) : std::nullopt;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pixels(const Tensor& logits, const Tensor& labels_in,
                                                  std::optional<Tensor> bands_in, int64_t ignore_index) {
  const Tensor labels = contiguous(labels_in);
  const std::optional<Tensor> bands = dense(bands_in);
  EntropyPixelsArgs args{};
  args.in = describe(logits, labels, ignore_index);
  args.bands = describe_bands(bands, labels);
  const ScalarType type = compute_type(logits);
  Tensor log_sum_exp = empty(labels.sizes(), type), cross_entropy = empty(labels.sizes(), type);
  Tensor entropy = bands ? empty(labels.sizes(), type) : empty({0}, type);
  Tensor moments = empty({5}, ScalarType::Double);
  args.log_sum_exp = log_sum_exp.mutable_data_ptr();
  args.cross_entropy = cross_entropy.mutable_data_ptr();
  args.entropy = entropy.mutable_data_ptr();
  DGSEG_PICK(entropy_pixels)(args, torch_parallel());
  check_labels(args.bad, args.in.C, ignore_index);
  auto* out = static_cast<double*>(moments.mutable_data_ptr());
  const EntropyMoments& m = args.moments;
  out[0] = m.total, out[1] = m.valid, out[2] = m.band, out[3] = m.mean, out[4] = m.squares;
  return {log_sum_exp, entropy, cross_entropy, moments};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> loss(const Tensor& logits, const Tensor& labels_in,
                                                std::optional<Tensor> bands_in, std::optional<Tensor> class_weight_in,
                                                const Tensor& /* saved for the backward */, const Tensor& entropy_in,
                                                const Tensor& cross_entropy_in, const Tensor& moments_in, double alpha,
                                                int64_t weighting, double threshold, double eps, int64_t denominator,
                                                int64_t ignore_index) {
  const Tensor labels = contiguous(labels_in), entropy = contiguous(entropy_in),
               cross_entropy = contiguous(cross_entropy_in), moments = contiguous(moments_in);
  const std::optional<Tensor> bands = dense(bands_in), class_weight = dense(class_weight_in);
  const ScalarType type = compute_type(logits);
  EntropyLossArgs args{};
  args.in = describe(logits, labels, ignore_index);
  args.bands = describe_bands(bands, labels);
  STD_TORCH_CHECK(cross_entropy.numel() == labels.numel() && cross_entropy.scalar_type() == type,
                  "cross_entropy must be the map that entropy_weighted_ce_pixels returned");
  STD_TORCH_CHECK(!bands || (entropy.numel() == labels.numel() && entropy.scalar_type() == type),
                  "entropy must be the map that entropy_weighted_ce_pixels returned");
  STD_TORCH_CHECK(!class_weight || (class_weight->numel() == args.in.C && class_weight->scalar_type() == type),
                  "class_weight must hold one value a class, in the compute type");
  STD_TORCH_CHECK(moments.dim() == 2 && moments.size(1) == 5 && moments.scalar_type() == ScalarType::Double,
                  "moments must be float64 [ranks, 5]");
  STD_TORCH_CHECK(weighting >= 0 && weighting <= 2, "weighting must be 0, 1 or 2");
  const auto* rows = static_cast<const double*>(moments.const_data_ptr());
  args.ranks = moments.size(0);
  for (int64_t r = 0; r < args.ranks; ++r)
    merge(args.moments, {rows[5 * r], rows[5 * r + 1], rows[5 * r + 2], rows[5 * r + 3], rows[5 * r + 4]});
  args.class_weight = class_weight ? class_weight->const_data_ptr() : nullptr;
  args.entropy = entropy.const_data_ptr();
  args.cross_entropy = cross_entropy.const_data_ptr();
  args.alpha = alpha, args.threshold = threshold, args.eps = eps;
  args.weighting = static_cast<Weighting>(weighting);
  args.denominator = denominator == 0 ? args.moments.valid : args.moments.total;
  Tensor weights = empty(labels.sizes(), type), per_image = empty({labels.size(0)}, type);
  Tensor value = empty({}, type), band_entropy = empty({}, type);
  args.weights = weights.mutable_data_ptr();
  args.per_image = per_image.mutable_data_ptr();
  DGSEG_PICK(entropy_loss)(args, torch_parallel());
  if (type == ScalarType::Double) {
    *static_cast<double*>(value.mutable_data_ptr()) = args.loss;
    *static_cast<double*>(band_entropy.mutable_data_ptr()) = args.moments.mean;
  } else {
    *static_cast<float*>(value.mutable_data_ptr()) = static_cast<float>(args.loss);
    *static_cast<float*>(band_entropy.mutable_data_ptr()) = static_cast<float>(args.moments.mean);
  }
  return {value, weights, per_image, band_entropy};
}

Tensor backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& labels_in, const Tensor& log_sum_exp_in,
                const Tensor& weights_in, int64_t ignore_index) {
  const Tensor labels = contiguous(labels_in), log_sum_exp = contiguous(log_sum_exp_in),
               weights = contiguous(weights_in);
  const ScalarType type = compute_type(logits);
  EntropyBackwardArgs args{};
  args.in = describe(logits, labels, ignore_index);
  STD_TORCH_CHECK(grad_loss.numel() == 1 && grad_loss.scalar_type() == type, "grad_loss must be one value");
  STD_TORCH_CHECK(log_sum_exp.numel() == labels.numel() && weights.numel() == labels.numel() &&
                      log_sum_exp.scalar_type() == type && weights.scalar_type() == type,
                  "log_sum_exp and weights must be the maps of the forward");
  Tensor grad = torch::stable::empty_like(logits);
  want_huge_pages(grad);
  args.grad_loss = grad_loss.const_data_ptr();
  args.log_sum_exp = log_sum_exp.const_data_ptr();
  args.weights = weights.const_data_ptr();
  args.grad = describe_gradient(grad);
  DGSEG_PICK(entropy_backward)(args, torch_parallel());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) {
  m.impl("entropy_weighted_ce_pixels", TORCH_BOX(&pixels));
  m.impl("entropy_weighted_ce_loss", TORCH_BOX(&loss));
  m.impl("entropy_weighted_ce_backward", TORCH_BOX(&backward));
}

}  // namespace dgseg
