// Photometric distortion of one planar uint8 RGB image.
#pragma once
#include <cstdint>

#include "../common/isa.h"

namespace dgseg {

// In this order, on values in [0, 255], each step clamped to that range, nothing rounded until the end (halves go up):
//   + brightness
//   * contrast                       (where contrast_first)
//   HSV: S = min(1, S * saturation), hue turned by `hue` sixths of a turn
//   * contrast                       (otherwise)
struct Distortion {
  float brightness = 0;
  float contrast = 1;
  float saturation = 1;
  float hue = 0;  // in [-3, 3]
  bool contrast_first = true;
};

// in and out: [3][pixels], not overlapping.
DGSEG_DECLARE_KERNEL(distort, const uint8_t* in, uint8_t* out, int64_t pixels, const Distortion& distortion)

}  // namespace dgseg
