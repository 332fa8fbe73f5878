#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/parallel.h"
#include "../common/types.h"

namespace dgseg {

struct MapStrides {
  int64_t image, row, column;  // in elements
};

struct FeatureStrides {
  int64_t image, channel, row, column;
};

// features [images, channels, height, width]; labels and bands [images, height, width]; the bank is contiguous and
// held in the compute type (double for double features, float for all others).
struct PrototypeInfoNceArgs {
  const void* features;
  FloatType type;
  int64_t images, channels, height, width;
  FeatureStrides feature_strides;
  const void* labels;
  LabelType label_type;
  MapStrides label_strides;
  const uint8_t* bands;  // 0 = none, b+1 = band b
  MapStrides band_strides;
  const void* prototypes;  // [classes, granularities, channels]
  const void* weights;     // [classes, granularities]
  const bool* seen;        // [classes, granularities], or null: all
  int64_t classes, granularities;
  double temperature;
  bool nested;

  void* log_sum_exp;  // [images, height, width], contiguous, compute type; written by forward, read by backward

  // forward
  double* loss_sum;
  int64_t* count;       // number of terms
  BadLabel* bad_label;  // first label of a band pixel that is no class
  BadLabel* bad_band;   // first band beyond the bank's granularities

  // backward
  double loss_gradient;
  void* gradient;  // like features
  FeatureStrides gradient_strides;
};

DGSEG_DECLARE_KERNEL(prototype_info_nce_forward, const PrototypeInfoNceArgs& args, const Parallel& parallel)
DGSEG_DECLARE_KERNEL(prototype_info_nce_backward, const PrototypeInfoNceArgs& args, const Parallel& parallel)

}  // namespace dgseg
