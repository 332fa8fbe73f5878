// LogitsAndLabels of torch tensors. Shapes and types were checked by dgseg.ops; what is checked here keeps direct
// calls of the raw operators in bounds.
#pragma once
#include <torch/csrc/stable/ops.h>

#include "logits.h"
#include "torch.h"

namespace dgseg {

// labels must be contiguous.
inline LogitsAndLabels describe(const Tensor& logits, const Tensor& labels, int64_t ignore_index) {
  STD_TORCH_CHECK(logits.dim() == 4 && labels.dim() == 3, "logits must be [N, C, h, w] and labels [N, H, W]");
  STD_TORCH_CHECK(logits.size(0) == labels.size(0), "logits and labels must have the same batch size");
  STD_TORCH_CHECK(logits.size(2) <= labels.size(1) && logits.size(3) <= labels.size(2),
                  "logits must not be larger than the labels");
  STD_TORCH_CHECK(labels.numel() == 0 || logits.numel() > 0, "logits hold no values, but there are labels");
  return {logits.const_data_ptr(), float_type(logits), logits.size(0),   logits.size(1),   logits.size(2),
          logits.size(3),          logits.stride(0),   logits.stride(1), logits.stride(2), logits.stride(3),
          labels.const_data_ptr(), label_type(labels), labels.size(1),   labels.size(2),   ignore_index};
}

inline LogitsGradient describe_gradient(Tensor& gradient) {
  return {gradient.mutable_data_ptr(), gradient.stride(0), gradient.stride(1), gradient.stride(2), gradient.stride(3)};
}

}  // namespace dgseg
