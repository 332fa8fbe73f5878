// Logits and the labels that they are compared with, as the losses' kernels are told about them.
#pragma once
#include "types.h"

namespace dgseg {

// logits [N, C, h, w] with element strides; labels [N, H, W] contiguous, H >= h, W >= w.
struct LogitsAndLabels {
  const void* logits;
  FloatType type;
  int64_t N, C, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;
  const void* labels;
  LabelType label_type;
  int64_t H, W;
  int64_t ignore_index;
};

// Of the logits: [N, C, h, w] in their type, with element strides of its own.
struct LogitsGradient {
  void* data;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

}  // namespace dgseg
