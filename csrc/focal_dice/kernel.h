#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/logits.h"
#include "../common/parallel.h"

namespace dgseg {

// Rows of the [4, C] sums; column c holds the pixels of class c, probability excepted: all valid pixels.
enum FocalDiceRow { kFocal, kIntersection, kProbability, kPixels, kFocalDiceRows };

struct FocalDiceSumsArgs {
  LogitsAndLabels in;
  double gamma;
  void* log_sum_exp;  // [N, H, W] in the compute type (double for f64 logits, else float)
  double* sums;       // [4, C]
  BadLabel bad;
};

struct FocalDiceBackwardArgs {
  LogitsAndLabels in;
  double gamma;
  const double* grad_sums;  // [4, C]
  const void* log_sum_exp;
  LogitsGradient grad;
};

DGSEG_DECLARE_KERNEL(focal_dice_sums, FocalDiceSumsArgs& args, const Parallel& parallel)
DGSEG_DECLARE_KERNEL(focal_dice_backward, const FocalDiceBackwardArgs& args, const Parallel& parallel)

}  // namespace dgseg
