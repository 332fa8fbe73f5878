#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/parallel.h"
#include "../common/types.h"

namespace dgseg {

// logits [N, C, h, w] with element strides; labels and bands [N, H, W] contiguous, H >= h, W >= w.
struct LogitsAndLabels {
  const void* logits;
  FloatType type;
  int64_t N, C, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;
  const void* labels;
  LabelType label_type;
  const uint8_t* bands;  // nullptr: no band anywhere
  int64_t H, W;
  int64_t ignore_index;
};

// Entropy statistics of a set of pixels; rows of the moments tensor hold the same five numbers in this order.
struct EntropyMoments {
  double total = 0, valid = 0, band = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean
};

// Maps are [N, H, W] in the compute type (double for f64 logits, else float); `entropy` is not written if bands is
// null.
struct EntropyPixelsArgs {
  LogitsAndLabels in;
  void* log_sum_exp;
  void* entropy;
  void* cross_entropy;
  EntropyMoments moments;
  BadLabel bad;
};

enum class Weighting { entropy, fixed, threshold };

struct EntropyLossArgs {
  LogitsAndLabels in;        // logits are not read
  const void* class_weight;  // [C] in the compute type, or nullptr
  const void* entropy;
  const void* cross_entropy;
  EntropyMoments moments;  // of the global batch
  int64_t ranks;
  double alpha, threshold, eps;
  Weighting weighting;
  double denominator;
  void* weights;    // [N, H, W]
  void* per_image;  // [N]
  double loss;
};

struct EntropyBackwardArgs {
  LogitsAndLabels in;
  const void* grad_loss;  // one value in the compute type
  const void* log_sum_exp;
  const void* weights;
  void* grad;  // [N, C, h, w] in the type of the logits
  int64_t grad_stride_n, grad_stride_c, grad_stride_h, grad_stride_w;
};

DGSEG_DECLARE_KERNEL(entropy_pixels, EntropyPixelsArgs& args, const Parallel& parallel)
DGSEG_DECLARE_KERNEL(entropy_loss, EntropyLossArgs& args, const Parallel& parallel)
DGSEG_DECLARE_KERNEL(entropy_backward, const EntropyBackwardArgs& args, const Parallel& parallel)

// Chan's pairwise update: the moments of two disjoint sets of pixels.
static inline void merge(EntropyMoments& a, const EntropyMoments& b) {
  a.total += b.total;
  a.valid += b.valid;
  if (b.band == 0) return;
  const double band = a.band + b.band, delta = b.mean - a.mean;
  a.squares += b.squares + delta * delta * a.band * b.band / band;
  a.mean += delta * b.band / band;
  a.band = band;
}

}  // namespace dgseg
