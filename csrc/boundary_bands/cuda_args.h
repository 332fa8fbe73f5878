// What the CUDA kernels of boundary_bands are told.
#pragma once
#include "../common/cuda_phases.h"

namespace dgseg {
namespace {

constexpr int kBandThreads = 224;  // kPitch * kStrips, in whole warps
constexpr int kTileRadius = 16;
constexpr int kTileBands = 6;
constexpr int kFewestTileRows = 16;
constexpr int64_t kTilesWanted = 256;  // about two for each multiprocessor of a large GPU
constexpr int kPlanesAtOnce = 4;
constexpr uint32_t kNoByte = 256;

// Which source rows (or columns) are sampled: floor(i * in / out), or i * stride, as whole * i + floor(part * i / out).
struct Sampling {
  int64_t whole, part, out;

  DGSEG_PHASE int64_t operator()(int64_t i) const { return whole * i + (part ? part * i / out : 0); }
  DGSEG_PHASE bool everything() const { return whole == 1 && part == 0; }
};

// What the blocks of one launch share.
struct BandsOnDevice {
  const void* labels;
  LabelType type;
  int64_t stride_image, stride_row, stride_column;
  int64_t row_step;  // from one sampled row to the next, if rows.part is 0
  Sampling rows, columns;
  int64_t ignore_index;
  uint32_t ignored_byte;  // ignore_index where a byte can hold it, kNoByte where not
  uint8_t* out;           // [images, height, width], contiguous
  int height, width;
  int bands;
  int radii[kTileBands];
  int tile_rows;
  int strip_rows;  // that a thread walks down
  int tiles_across, tiles_down;
  int64_t tiles;

  DGSEG_PHASE int64_t label_offset(int64_t image, int64_t y) const {
    return image * stride_image + rows(y) * stride_row;
  }
  DGSEG_PHASE int64_t column_offset(int64_t x) const { return columns(x) * stride_column; }
  DGSEG_PHASE bool dense() const { return stride_column == 1 && columns.everything(); }
};

}  // namespace
}  // namespace dgseg
