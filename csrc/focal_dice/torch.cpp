#include "../common/torch_logits.h"
#include "kernel.h"

#include <tuple>

namespace dgseg {
namespace {

using torch::stable::contiguous;
using torch::stable::empty;

std::tuple<Tensor, Tensor> sums(const Tensor& logits, const Tensor& labels_in, double gamma, int64_t ignore_index) {
  const Tensor labels = contiguous(labels_in);
  FocalDiceSumsArgs args{};
  args.in = describe(logits, labels, ignore_index);
  Tensor log_sum_exp = empty(labels.sizes(), compute_type(logits));
  Tensor sums = empty({kFocalDiceRows, args.in.C}, ScalarType::Double);
  args.gamma = gamma;
  args.log_sum_exp = log_sum_exp.mutable_data_ptr();
  args.sums = static_cast<double*>(sums.mutable_data_ptr());
  DGSEG_PICK(focal_dice_sums)(args, torch_parallel());
  check_labels(args.bad, args.in.C, ignore_index);
  return {sums, log_sum_exp};
}

Tensor backward(const Tensor& grad_sums_in, const Tensor& logits, const Tensor& labels_in, const Tensor& log_sum_exp_in,
                double gamma, int64_t ignore_index) {
  const Tensor labels = contiguous(labels_in), log_sum_exp = contiguous(log_sum_exp_in),
               grad_sums = contiguous(grad_sums_in);
  FocalDiceBackwardArgs args{};
  args.in = describe(logits, labels, ignore_index);
  STD_TORCH_CHECK(grad_sums.scalar_type() == ScalarType::Double && grad_sums.numel() == kFocalDiceRows * args.in.C,
                  "grad_sums must be float64 [4, C]");
  STD_TORCH_CHECK(log_sum_exp.numel() == labels.numel() && log_sum_exp.scalar_type() == compute_type(logits),
                  "log_sum_exp must be the map that focal_dice_sums returned");
  Tensor grad = torch::stable::empty_like(logits);
  want_huge_pages(grad);
  args.gamma = gamma;
  args.grad_sums = static_cast<const double*>(grad_sums.const_data_ptr());
  args.log_sum_exp = log_sum_exp.const_data_ptr();
  args.grad = describe_gradient(grad);
  DGSEG_PICK(focal_dice_backward)(args, torch_parallel());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) {
  m.impl("focal_dice_sums", TORCH_BOX(&sums));
  m.impl("focal_dice_backward", TORCH_BOX(&backward));
}

}  // namespace dgseg
