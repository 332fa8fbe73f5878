#pragma once
#include <cstdint>

#include "../common/isa.h"
#include "../common/parallel.h"
#include "../common/types.h"

namespace dgseg {

// labels [images, height, width] with element strides; sampled at rows[i], columns[j].
struct BoundaryBandsArgs {
  const void* labels;
  LabelType type;
  int64_t images;
  int64_t stride_image, stride_row, stride_column;
  const int64_t* rows;     // [out_height] source row of every output row
  const int64_t* columns;  // [out_width]
  bool dense_columns;      // columns[j] == j and stride_column == 1
  int64_t out_height, out_width;
  const int64_t* radii;  // increasing, >= 1
  int bands;             // number of radii, 1..254
  int64_t ignore_index;
  uint8_t* out;  // [images, out_height, out_width], contiguous
};

DGSEG_DECLARE_KERNEL(boundary_bands, const BoundaryBandsArgs& args, const Parallel& parallel)

}  // namespace dgseg
