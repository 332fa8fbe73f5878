#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/parallel.h"
#include "../common/types.h"

namespace dgseg {

// An integer map [images, height, width], strides in elements.
struct PixelMap {
  const void* data;
  LabelType type;
  int64_t stride_image, stride_row, stride_column;
};

// Which cells (class, granularity) a pixel feeds: none where its band is 0; else, of its label's class, granularity
// band - 1, and with `nested` all thicker ones too.
struct PrototypeCells {
  PixelMap labels, bands;
  int64_t images, height, width;  // images * height * width < 2^31
  int64_t classes, granularities;
  bool nested;
};

// Per cell, how many pixels feed it, and which of them come last in the pseudo-random order of order.h.
struct PrototypeRanksArgs {
  PrototypeCells cells;
  const int64_t* sample_ids;  // [images]; unused when ranks is null
  int64_t seed, step;
  int64_t limit;    // ranks from here on are not told apart: they become -1
  int64_t* counts;  // [classes, granularities]
  int32_t* ranks;  // [nested ? granularities : 1, images, height, width]: 0 = newest of its cell, -1 = in none; or null
  BadLabel* bad_label;
  BadLabel* bad_band;
};

// sums[cell] = sum over the cell's pixels of weight * feature / max(|feature|, 1e-12),
// weight = scales[cell], times powers[rank] (0 beyond power_count) where fades[cell].
// Pixels of weight 0 are not read. Labels and bands that name no cell count as none: prototype_ranks reports them.
struct PrototypeSumsArgs {
  PrototypeCells cells;
  const void* features;  // [images, depth, height, width]
  FloatType type;
  int64_t stride_image, stride_channel, stride_row, stride_column;
  int64_t depth;
  const int32_t* ranks;  // as above; null: no cell fades
  const double* scales;  // [classes, granularities]
  const bool* fades;     // [classes, granularities]
  const double* powers;  // [power_count]
  int64_t power_count;
  double* sums;  // [classes, granularities, depth]
};

DGSEG_DECLARE_KERNEL(prototype_ranks, const PrototypeRanksArgs& args, const Parallel& parallel)
DGSEG_DECLARE_KERNEL(prototype_sums, const PrototypeSumsArgs& args, const Parallel& parallel)

}  // namespace dgseg
