#include "../common/torch.h"

#include "kernel.h"

namespace dgseg {
namespace {

// Arguments were checked by dgseg.ops.segmentation_counts; what is checked here guards direct calls of the raw
// operator.
Tensor segmentation_counts_cpu(const Tensor& logits, const Tensor& labels, int64_t ignore_index) {
  STD_TORCH_CHECK(logits.dim() == 4 && labels.dim() == 3,
                  "segmentation_counts: logits must be [N, C, h, w], labels [N, H, W]");
  const int64_t N = logits.size(0), C = logits.size(1), h = logits.size(2), w = logits.size(3);
  const int64_t H = labels.size(1), W = labels.size(2);
  STD_TORCH_CHECK(labels.size(0) == N, "segmentation_counts: logits and labels must have one batch size");
  STD_TORCH_CHECK(C >= 1 && C <= 4096, "segmentation_counts: 1 to 4096 classes");
  STD_TORCH_CHECK(h <= H && w <= W && (h * w > 0 || H * W == 0),
                  "segmentation_counts: logits must be at label size or below");
  Tensor counts = torch::stable::empty({C, C + 1}, ScalarType::Long, std::nullopt, logits.device());
  torch::stable::zero_(counts);
  BadLabel bad;
  SegmentationCountsArgs args{logits.const_data_ptr(),
                              float_type(logits),
                              N,
                              C,
                              h,
                              w,
                              logits.stride(0),
                              logits.stride(1),
                              logits.stride(2),
                              logits.stride(3),
                              labels.const_data_ptr(),
                              label_type(labels),
                              H,
                              W,
                              labels.stride(0),
                              labels.stride(1),
                              labels.stride(2),
                              ignore_index,
                              static_cast<int64_t*>(counts.mutable_data_ptr()),
                              &bad};
  DGSEG_PICK(segmentation_counts)(args, torch_parallel());
  check_labels(bad, C, ignore_index);
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) { m.impl("segmentation_counts", TORCH_BOX(&segmentation_counts_cpu)); }

}  // namespace dgseg
