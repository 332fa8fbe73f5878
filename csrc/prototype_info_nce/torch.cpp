#include "../common/torch.h"

#include <tuple>

#include "kernel.h"

namespace dgseg {
namespace {

MapStrides map_strides(const Tensor& map) { return {map.stride(0), map.stride(1), map.stride(2)}; }
FeatureStrides feature_strides(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

bool is_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes) {
  if (tensor.dim() != int64_t(sizes.size())) return false;
  int64_t dim = 0;
  for (int64_t size : sizes)
    if (tensor.size(dim++) != size) return false;
  return true;
}

// The arguments in the form that the kernels take; `prototypes`, `weights` and `seen` keep converted copies alive.
// dgseg.ops.prototype_info_nce checked them: what is checked here guards direct calls of the raw operators.
struct Arguments {
  Tensor prototypes, weights;
  std::optional<Tensor> seen;
  PrototypeInfoNceArgs args{};

  Arguments(const Tensor& features, const Tensor& labels, const Tensor& bands, const Tensor& prototypes_,
            const Tensor& weights_, const std::optional<Tensor>& seen_, double temperature, bool nested)
      : prototypes(torch::stable::contiguous(torch::stable::to(prototypes_, compute_type(features)))),
        weights(torch::stable::contiguous(torch::stable::to(weights_, compute_type(features)))),
        seen(seen_ ? std::optional<Tensor>(torch::stable::contiguous(*seen_)) : std::nullopt) {
    STD_TORCH_CHECK(features.dim() == 4, "prototype_info_nce: features must be [N, D, h, w]");
    const int64_t N = features.size(0), D = features.size(1), h = features.size(2), w = features.size(3);
    STD_TORCH_CHECK(D >= 1, "prototype_info_nce: features need at least one channel");
    STD_TORCH_CHECK(is_shape(labels, {N, h, w}) && is_shape(bands, {N, h, w}),
                    "prototype_info_nce: labels and bands must be [N, h, w] like features");
    STD_TORCH_CHECK(bands.scalar_type() == ScalarType::Byte, "prototype_info_nce: bands must be uint8");
    STD_TORCH_CHECK(prototypes.dim() == 3 && prototypes.size(2) == D,
                    "prototype_info_nce: prototypes must be [C, G, D] with the features' D");
    const int64_t C = prototypes.size(0), G = prototypes.size(1);
    STD_TORCH_CHECK(is_shape(weights, {C, G}), "prototype_info_nce: weights must be [C, G] like prototypes");
    STD_TORCH_CHECK(!seen || (is_shape(*seen, {C, G}) && seen->scalar_type() == ScalarType::Bool),
                    "prototype_info_nce: seen must be bool [C, G] like prototypes");
    STD_TORCH_CHECK(temperature > 0, "prototype_info_nce: temperature must be positive");
    args.features = features.const_data_ptr();
    args.type = float_type(features);
    args.images = N, args.channels = D, args.height = h, args.width = w;
    args.feature_strides = feature_strides(features);
    args.labels = labels.const_data_ptr();
    args.label_type = label_type(labels);
    args.label_strides = map_strides(labels);
    args.bands = static_cast<const uint8_t*>(bands.const_data_ptr());
    args.band_strides = map_strides(bands);
    args.prototypes = prototypes.const_data_ptr();
    args.weights = weights.const_data_ptr();
    args.seen = seen ? static_cast<const bool*>(seen->const_data_ptr()) : nullptr;
    args.classes = C, args.granularities = G;
    args.temperature = temperature;
    args.nested = nested;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& features, const Tensor& labels, const Tensor& bands,
                                                   const Tensor& prototypes, const Tensor& weights,
                                                   std::optional<Tensor> seen, double temperature, bool nested) {
  Arguments arguments(features, labels, bands, prototypes, weights, seen, temperature, nested);
  PrototypeInfoNceArgs& args = arguments.args;
  const auto device = features.device();
  Tensor log_sum_exp =
      torch::stable::empty({args.images, args.height, args.width}, compute_type(features), std::nullopt, device);
  Tensor count = torch::stable::empty({}, ScalarType::Long, std::nullopt, device);
  Tensor loss_sum = torch::stable::empty({}, ScalarType::Double, std::nullopt, device);
  BadLabel bad_label, bad_band;
  args.log_sum_exp = log_sum_exp.mutable_data_ptr();
  args.loss_sum = static_cast<double*>(loss_sum.mutable_data_ptr());
  args.count = static_cast<int64_t*>(count.mutable_data_ptr());
  args.bad_label = &bad_label;
  args.bad_band = &bad_band;
  DGSEG_PICK(prototype_info_nce_forward)(args, torch_parallel());
  // Worded like dgseg.ops.prototype_info_nce.reference.
  refuse_unless(bad_label.image < 0, "labels hold ", bad_label.value, " at batch index ", bad_label.image,
                " where bands > 0; valid there: 0 to ", args.classes - 1, ": set bands to 0 where labels are ignored");
  refuse_unless(bad_band.image < 0, "bands hold ", bad_band.value, " at batch index ", bad_band.image,
                "; prototypes have ", args.granularities, " per class, so bands must be 0 to ", args.granularities);
  return {torch::stable::to(loss_sum, compute_type(features)), count, log_sum_exp, torch::stable::clone(prototypes)};
}

Tensor backward(const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& bands,
                const Tensor& prototypes, const Tensor& weights, std::optional<Tensor> seen, const Tensor& log_sum_exp,
                double temperature, bool nested) {
  Arguments arguments(features, labels, bands, prototypes, weights, seen, temperature, nested);
  PrototypeInfoNceArgs& args = arguments.args;
  STD_TORCH_CHECK(grad.numel() == 1, "prototype_info_nce: grad must hold one number");
  STD_TORCH_CHECK(is_shape(log_sum_exp, {args.images, args.height, args.width}) &&
                      log_sum_exp.scalar_type() == compute_type(features),
                  "prototype_info_nce: log_sum_exp must be what the forward returned");
  const Tensor log_sums = torch::stable::contiguous(log_sum_exp);
  const Tensor number = torch::stable::to(grad, ScalarType::Double);
  Tensor gradient = torch::stable::empty_like(features);
  want_huge_pages(gradient);
  args.log_sum_exp = const_cast<void*>(log_sums.const_data_ptr());
  args.loss_gradient = *static_cast<const double*>(number.const_data_ptr());
  args.gradient = gradient.mutable_data_ptr();
  args.gradient_strides = feature_strides(gradient);
  DGSEG_PICK(prototype_info_nce_backward)(args, torch_parallel());
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) {
  m.impl("prototype_info_nce_forward", TORCH_BOX(&forward));
  m.impl("prototype_info_nce_backward", TORCH_BOX(&backward));
}

}  // namespace dgseg
