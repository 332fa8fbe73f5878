#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/logits.h"
#include "../common/parallel.h"

namespace dgseg {

// Entropy statistics of a set of pixels; rows of the moments tensor hold the same five numbers in this order.
struct EntropyMoments {
  double total = 0, valid = 0, band = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean
};

// Maps are [N, H, W] in the compute type (double for f64 logits, else float); `entropy` is not written if bands is
// null.
struct EntropyPixelsArgs {
  LogitsAndLabels in;
  const uint8_t* bands;  // [N, H, W], above 0 inside a band; nullptr: no band anywhere
  void* log_sum_exp;
  void* entropy;
  void* cross_entropy;
  EntropyMoments moments;
  BadLabel bad;
};

enum class Weighting { entropy, fixed, threshold };

struct EntropyLossArgs {
  LogitsAndLabels in;  // logits are not read
  const uint8_t* bands;
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
  LogitsGradient grad;
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
