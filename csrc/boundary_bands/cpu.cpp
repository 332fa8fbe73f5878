// Which pixels have more than one class in their (2r+1)x(2r+1) window, for every radius at once.
//
// Must move: one read of the labels, one write of the bands (2 bytes a pixel for uint8 labels).
//
// Without ignored pixels a window holds two classes exactly when it holds two neighbours that differ, so labels are
// turned into one bit per horizontal and per vertical neighbour pair, and windows grow by OR-ing shifted words:
// 512 pixels an instruction. A window of radius r+s (s <= r) is the union of four windows of radius r at (+-s, +-s),
// so radii 1, 2, 4 cost one step each.
// With ignored pixels, neighbours no longer connect a window, and running minima and maxima over the valid bytes
// decide: the same growth, 64 pixels an instruction. The choice is made per strip of rows.
//
// Legend: r radius, R largest radius, y/x output coordinates, strip = rows [y0, y1), halo = rows within R of it.
#include <cstring>

#include "../common/scratch.h"
#include "bits.h"
#include "kernel.h"
#include "ranges.h"

namespace dgseg::DGSEG_ISA {
namespace {

constexpr int64_t kStripRows = 64;

// What a strip's labels look like once they are bytes.
struct Narrowing {
  bool has_ignored = false;
  bool fits = true;  // false: some label needs more than a byte, so the strip is done in its own type
};

template <class T>
void gather_row(const BoundaryBandsArgs& a, int64_t image, int64_t y, T* row) {
  const T* source = static_cast<const T*>(a.labels) + image * a.stride_image + a.rows[y] * a.stride_row;
  if (a.dense_columns) {
    std::memcpy(row, source, size_t(a.out_width) * sizeof(T));
  } else {
    for (int64_t x = 0; x < a.out_width; ++x) row[x] = source[a.columns[x] * a.stride_column];
  }
}

// Wide labels that are 0..254 or ignored become bytes with 255 = ignored.
template <class T>
void narrow_row(const T* wide, uint8_t* row, int64_t width, int64_t ignore_index, Narrowing& state) {
  T ignore = T(ignore_index);
  bool can_ignore = int64_t(ignore) == ignore_index;
  uint8_t ignored = 0, misfit = 0;
  for (int64_t x = 0; x < width; ++x) {
    bool skip = can_ignore & (wide[x] == ignore);
    bool byte = (wide[x] >= 0) & (wide[x] <= 254);
    ignored |= uint8_t(skip);
    misfit |= uint8_t(!(skip | byte));
    row[x] = skip ? uint8_t(255) : uint8_t(wide[x]);
  }
  state.has_ignored |= ignored != 0;
  state.fits &= misfit == 0;
}

template <class T>
void strip(const BoundaryBandsArgs& a, int64_t image, int64_t y0, int64_t y1) {
  const int64_t R = a.radii[a.bands - 1], W = a.out_width, H = a.out_height;
  const int64_t first = y0 - R, rows = y1 - y0 + 2 * R;
  const int64_t low = first < 0 ? 0 : first, high = first + rows > H ? H : first + rows;
  uint8_t* out = a.out + image * H * W;
  constexpr bool byte = sizeof(T) == 1;
  Scratch<const T*> source_rows(rows);
  const bool in_place = a.dense_columns;
  Scratch<T> copies(in_place ? 1 : rows * W);
  for (int64_t y = 0; y < rows; ++y) source_rows[y] = nullptr;
  for (int64_t y = low; y < high; ++y) {
    if (in_place) {
      source_rows[y - first] = static_cast<const T*>(a.labels) + image * a.stride_image + a.rows[y] * a.stride_row;
    } else {
      gather_row(a, image, y, copies.get() + (y - first) * W);
      source_rows[y - first] = copies.get() + (y - first) * W;
    }
  }
  if constexpr (byte) {
    bool can_ignore = a.ignore_index >= 0 && a.ignore_index <= 255;
    uint8_t ignore = uint8_t(a.ignore_index);
    if (!strip_by_bits(a, source_rows.get(), y0, y1, can_ignore, ignore, out))
      strip_by_range<uint8_t>(a, source_rows.get(), y0, y1, can_ignore, ignore, out);
  } else {
    Narrowing state;
    Scratch<uint8_t> narrow(rows * W);
    Scratch<const uint8_t*> narrow_rows(rows);
    for (int64_t y = 0; y < rows; ++y) narrow_rows[y] = nullptr;
    for (int64_t y = low; y < high && state.fits; ++y) {
      uint8_t* row = narrow.get() + (y - first) * W;
      narrow_row(source_rows[y - first], row, W, a.ignore_index, state);
      narrow_rows[y - first] = row;
    }
    if (!state.fits) {
      bool can_ignore = int64_t(T(a.ignore_index)) == a.ignore_index;
      strip_by_range<T>(a, source_rows.get(), y0, y1, can_ignore, T(a.ignore_index), out);
    } else if (state.has_ignored) {
      strip_by_range<uint8_t>(a, narrow_rows.get(), y0, y1, true, 255, out);
    } else {
      strip_by_bits(a, narrow_rows.get(), y0, y1, false, 255, out);
    }
  }
}

int64_t strip_rows(const BoundaryBandsArgs& a) {
  // A halo of 2R rows is read again by every strip: keep it small beside the strip.
  int64_t R = a.radii[a.bands - 1];
  return R * 4 > kStripRows ? R * 4 : kStripRows;
}

void run_strips(int64_t begin, int64_t end, void* context) {
  const auto& a = *static_cast<const BoundaryBandsArgs*>(context);
  const int64_t step = strip_rows(a), strips = (a.out_height + step - 1) / step;
  for (int64_t task = begin; task < end; ++task) {
    int64_t image = task / strips, y0 = task % strips * step;
    int64_t y1 = y0 + step < a.out_height ? y0 + step : a.out_height;
    switch (a.type) {
      case LabelType::u8: strip<uint8_t>(a, image, y0, y1); break;
      case LabelType::i32: strip<int32_t>(a, image, y0, y1); break;
      case LabelType::i64: strip<int64_t>(a, image, y0, y1); break;
    }
  }
}

}  // namespace

void boundary_bands(const BoundaryBandsArgs& args, const Parallel& parallel) {
  if (args.images * args.out_height * args.out_width == 0) return;
  const int64_t step = strip_rows(args), strips = (args.out_height + step - 1) / step;
  parallel.run(args.images * strips, run_strips, const_cast<BoundaryBandsArgs*>(&args));
}

}  // namespace dgseg::DGSEG_ISA
