// Where bilinear upsampling (align_corners=False) reads, in whole numbers. Shared by CPU and CUDA kernels.
//
// Output i of `out` looks at source coordinate (i + 1/2) * in / out - 1/2 = ((2i + 1) * in - out) / (2 * out), cut off
// at 0: the neighbours are `index` and the next one. The last row or column is its own neighbour, and so is every one
// in a direction that is not resized: as in torch, which shows where values are infinite.
#pragma once
#include <cstdint>

#include "cuda_phases.h"

namespace dgseg {
namespace {

struct Source {
  int64_t index;
  int64_t numerator;  // the next neighbour's weight, times 2 * out
};

DGSEG_PHASE Source source(int64_t i, int64_t in, int64_t out) {
  const int64_t position = (2 * i + 1) * in - out;
  if (position <= 0) return {0, 0};
  return {position / (2 * out), position % (2 * out)};
}

// The first output whose source index is at least `index`.
[[maybe_unused]] DGSEG_PHASE int64_t first_output(int64_t index, int64_t in, int64_t out) {
  if (index == 0) return 0;
  return (out * (2 * index + 1) - in + 2 * in - 1) / (2 * in);
}

}  // namespace
}  // namespace dgseg
