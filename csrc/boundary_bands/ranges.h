// Strips with ignored pixels: running minima and maxima over the valid labels, grown by doubling. cpu.cpp says why.
#pragma once
#include <cstring>

#include "../common/scratch.h"
#include "../common/simd.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

template <class T>
struct Limits;
template <>
struct Limits<uint8_t> {
  static constexpr uint8_t low = 0, high = 255;
};
template <>
struct Limits<int32_t> {
  static constexpr int32_t low = INT32_MIN, high = INT32_MAX;
};
template <>
struct Limits<int64_t> {
  static constexpr int64_t low = INT64_MIN, high = INT64_MAX;
};

constexpr int64_t kTileColumns = 512;

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t n = kVectorBytes / int64_t(sizeof(T));
};

template <class T>
DGSEG_INLINE typename Vector<T>::type load_vector(const T* from) {
  typename Vector<T>::type v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
DGSEG_INLINE void store_vector(T* to, typename Vector<T>::type v) {
  std::memcpy(to, &v, sizeof v);
}

// Largest and smallest valid label of every window of one tile, for radii up to R. Rows reach R beyond the tile, and
// `margin` more values stand left and right of each row, so that whole vectors can be read at any shift; what they
// hold is never used for the tile itself.
template <class T>
struct Planes {
  int64_t rows, margin, pitch;
  T *largest, *smallest;
  Planes(int64_t rows_, int64_t columns, int64_t R, T* memory)
      : rows(rows_),
        margin(round_up(R, 64)),
        pitch(round_up(columns, 64) + 2 * margin),
        largest(memory + margin),
        smallest(memory + rows * pitch + margin) {}
  static int64_t size(int64_t rows, int64_t columns, int64_t R) {
    return 2 * rows * (round_up(columns, 64) + 2 * round_up(R, 64));
  }
};

// to = windows of radius r, from windows of radius r - s: the vertical half goes through two rows that stay in cache.
template <class T, bool with_centre>
void grow(const Planes<T>& from, const Planes<T>& to, int64_t r, int64_t s, T* hi_row, T* lo_row) {
  constexpr int64_t n = Vector<T>::n;
  const int64_t begin = -from.margin, end = from.pitch - from.margin;
  auto bigger = [](auto p, auto q) { return p > q ? p : q; };
  auto lesser = [](auto p, auto q) { return p < q ? p : q; };
  for (int64_t y = r; y < from.rows - r; ++y) {
    const T* hi = from.largest + y * from.pitch;
    const T* lo = from.smallest + y * from.pitch;
    const int64_t step = s * from.pitch;
    for (int64_t x = begin; x < end; x += n) {
      auto h = bigger(load_vector(hi + x - step), load_vector(hi + x + step));
      auto l = lesser(load_vector(lo + x - step), load_vector(lo + x + step));
      if (with_centre) h = bigger(h, load_vector(hi + x)), l = lesser(l, load_vector(lo + x));
      store_vector(hi_row + x, h);
      store_vector(lo_row + x, l);
    }
    T* hi_to = to.largest + y * to.pitch;
    T* lo_to = to.smallest + y * to.pitch;
    for (int64_t x = begin; x < end; x += n) {
      auto h = bigger(load_vector(hi_row + x - s), load_vector(hi_row + x + s));
      auto l = lesser(load_vector(lo_row + x - s), load_vector(lo_row + x + s));
      if (with_centre) h = bigger(h, load_vector(hi_row + x)), l = lesser(l, load_vector(lo_row + x));
      store_vector(hi_to + x, h);
      store_vector(lo_to + x, l);
    }
  }
}

// row = band + 1 where it is still 0 and the window holds two classes.
template <class T>
void mark(const T* hi, const T* lo, int64_t columns, uint8_t value, uint8_t* row) {
  if constexpr (sizeof(T) == 1) {
    int64_t x = 0;
    for (; x + kVectorBytes <= columns; x += kVectorBytes) {
      const auto old = load_vector(row + x);
      const auto in = (load_vector(hi + x) > load_vector(lo + x)) & (old == uint8_t(0));
      store_vector(row + x, in ? Vector<uint8_t>::type{} + value : old);
    }
    for (; x < columns; ++x) row[x] = (hi[x] > lo[x]) & (row[x] == 0) ? value : row[x];
  } else {
    for (int64_t x = 0; x < columns; ++x) row[x] = (hi[x] > lo[x]) & (row[x] == 0) ? value : row[x];
  }
}

template <class T>
void tile_by_range(const BoundaryBandsArgs& a, const T* const* label_rows, int64_t y0, int64_t y1, int64_t x0,
                   int64_t x1, bool can_ignore, T ignore, T* memory, uint8_t* out) {
  const int64_t R = a.radii[a.bands - 1], W = a.out_width, H = a.out_height;
  const int64_t rows = y1 - y0 + 2 * R, columns = x1 - x0 + 2 * R;
  Planes<T> window(rows, columns, R, memory), next(rows, columns, R, memory + Planes<T>::size(rows, columns, R));
  // Two rows with a margin on both sides, and room for a vector beyond.
  T* hi_row = memory + 2 * Planes<T>::size(rows, columns, R) + 2 * window.margin;
  T* lo_row = hi_row + window.pitch + 2 * window.margin;
  for (int64_t y = 0; y < rows; ++y) {
    T* hi = window.largest + y * window.pitch;
    T* lo = window.smallest + y * window.pitch;
    const int64_t source_y = y0 - R + y;
    int64_t from = x0 - R < 0 ? R - x0 : 0, to = x1 + R > W ? W - x0 + R : columns;
    if (source_y < 0 || source_y >= H) from = to = columns;
    auto neutral = [&](int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; ++x) hi[x] = Limits<T>::low;
      for (int64_t x = begin; x < end; ++x) lo[x] = Limits<T>::high;
    };
    neutral(-window.margin, from);
    if (from < to) {
      const T* labels = label_rows[y] + x0 - R;
      if (can_ignore) {
        for (int64_t x = from; x < to; ++x) hi[x] = labels[x] == ignore ? Limits<T>::low : labels[x];
        for (int64_t x = from; x < to; ++x) lo[x] = labels[x] == ignore ? Limits<T>::high : labels[x];
      } else {
        std::memcpy(hi + from, labels + from, size_t(to - from) * sizeof(T));
        std::memcpy(lo + from, labels + from, size_t(to - from) * sizeof(T));
      }
    }
    neutral(to, window.pitch - window.margin);
  }
  for (int64_t y = y0; y < y1; ++y) std::memset(out + y * W + x0, 0, size_t(x1 - x0));
  int64_t r = 0;
  for (int band = 0; band < a.bands; ++band) {
    while (r < a.radii[band]) {
      // From radius 0 the centre is needed too: {-1, 0, 1}; later {-s, s} leaves no gap.
      const int64_t s = r == 0 ? 1 : (a.radii[band] - r < r ? a.radii[band] - r : r);
      const bool with_centre = r == 0;
      r += s;
      (with_centre ? grow<T, true> : grow<T, false>)(window, next, r, s, hi_row, lo_row);
      const Planes<T> swap = window;
      window = next;
      next = swap;
    }
    for (int64_t y = y0; y < y1; ++y) {
      const int64_t at = (y - y0 + R) * window.pitch + R;
      mark(window.largest + at, window.smallest + at, x1 - x0, uint8_t(band + 1), out + y * W + x0);
    }
  }
  if (can_ignore)
    for (int64_t y = y0; y < y1; ++y) {
      const T* labels = label_rows[y - y0 + R] + x0;
      uint8_t* row = out + y * W + x0;
      for (int64_t x = 0; x < x1 - x0; ++x) row[x] = labels[x] == ignore ? uint8_t(0) : row[x];
    }
}

template <class T>
void strip_by_range(const BoundaryBandsArgs& a, const T* const* label_rows, int64_t y0, int64_t y1, bool can_ignore,
                    T ignore, uint8_t* out) {
  const int64_t R = a.radii[a.bands - 1];
  const int64_t tile = R * 4 > kTileColumns ? R * 4 : kTileColumns, rows = y1 - y0 + 2 * R, columns = tile + 2 * R;
  const int64_t margin = round_up(R, 64), row = round_up(columns, 64) + 4 * margin;
  Scratch<T> memory(2 * Planes<T>::size(rows, columns, R) + 2 * row + 4 * margin);
  std::memset(memory.get(), 0, size_t(2 * Planes<T>::size(rows, columns, R) + 2 * row + 4 * margin) * sizeof(T));
  for (int64_t x0 = 0; x0 < a.out_width; x0 += tile) {
    int64_t x1 = x0 + tile < a.out_width ? x0 + tile : a.out_width;
    tile_by_range(a, label_rows, y0, y1, x0, x1, can_ignore, ignore, memory.get(), out);
  }
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
