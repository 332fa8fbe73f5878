#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/parallel.h"
#include "../common/types.h"

namespace dgseg {

// logits [images, classes, height, width] and labels [images, label_height, label_width], strides in elements.
struct SegmentationCountsArgs {
  const void* logits;
  FloatType logits_type;
  int64_t images, classes, height, width;
  int64_t logits_image, logits_class, logits_row, logits_column;
  const void* labels;
  LabelType labels_type;
  int64_t label_height, label_width;  // at least height and width
  int64_t labels_image, labels_row, labels_column;
  int64_t ignore_index;
  int64_t* counts;  // [classes, classes + 1], contiguous, zero on entry
  BadLabel* bad;
};

DGSEG_DECLARE_KERNEL(segmentation_counts, const SegmentationCountsArgs& args, const Parallel& parallel)

}  // namespace dgseg
