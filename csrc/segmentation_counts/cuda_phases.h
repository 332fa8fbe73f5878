// The CUDA kernel of segmentation_counts, as phases that the native test runs on the CPU (see common/cuda_phases.h).
//
// Must move: logits and labels once. Threads of a warp stand side by side in x, so logits come in whole lines. A thread
// predicts up to R output pixels of a column that lie between the same two source rows: they share the horizontal
// interpolation, two values per class. Counts gather in the block's shared memory (blocks walk over many tiles) and go
// to the result as integer atomics: exact, so the order does not matter. Where a histogram is too large for shared
// memory, threads count in the result directly.
#pragma once
#include <cmath>

#include "../common/bilinear.h"
#include "../common/cuda_phases.h"

namespace dgseg {
namespace {

constexpr int kCountThreads = 256;

struct CountsOnDevice {
  const void* logits;
  int64_t classes, height, width;
  int64_t logits_image, logits_class, logits_row, logits_column;
  const void* labels;
  LabelType labels_type;
  int64_t label_height, label_width;
  int64_t labels_image, labels_row, labels_column;
  int64_t ignore_index;
  unsigned long long* counts;  // [classes, classes + 1]
  bool shared_histogram;       // uint32 [classes, classes] in shared memory
  int tile_width;              // threads side by side; the rest of the block takes further rows
  int64_t tiles_across, tiles_down, tiles;
};

// Tiles of a launch. `between` source rows (upsampling) or groups of R label rows (logits at label size) are the rows
// that threads take one each.
DGSEG_PHASE void cut_into_tiles(CountsOnDevice& a, int64_t images, int64_t row_groups) {
  a.tile_width = 32;
  while (a.tile_width < kCountThreads && a.tile_width < a.label_width) a.tile_width *= 2;
  const int64_t groups = kCountThreads / a.tile_width;
  a.tiles_across = (a.label_width + a.tile_width - 1) / a.tile_width;
  a.tiles_down = (row_groups + groups - 1) / groups;
  a.tiles = images * a.tiles_across * a.tiles_down;
}

// As torch.argmax: the first of equals, NaN above everything.
template <class T>
struct FirstLargest {
  T value;
  int index;

  DGSEG_PHASE void offer(T v, int c) {  // no NaN among them
    if (v > value) value = v, index = c;
  }
  DGSEG_PHASE void offer_any(T v, int c) {
    if (!(v <= value) && value == value) value = v, index = c;
  }
};

template <class T>
DGSEG_PHASE FirstLargest<T> nothing_yet() {
  return {T(-INFINITY), 0};
}

DGSEG_PHASE void count_pixels(const CountsOnDevice& a, uint32_t* histogram, int64_t bin, uint32_t pixels) {
  if (a.shared_histogram)
    add_atomically(histogram + bin, pixels);
  else
    add_atomically(a.counts + bin / a.classes * (a.classes + 1) + bin % a.classes, (unsigned long long)pixels);
}

// Counts `rows` <= R pixels of column x from row y on; neighbours of one kind make one addition.
template <int R>
DGSEG_PHASE void count_column(const CountsOnDevice& a, uint32_t* histogram, int64_t image, int64_t y, int64_t x,
                              int rows, const int (&predictions)[R]) {
  const int64_t at = image * a.labels_image + y * a.labels_row + x * a.labels_column;
  int64_t bin = -1;
  uint32_t pixels = 0;
  DGSEG_UNROLL_ALL
  for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    const int64_t label = read_label(a.labels, a.labels_type, at + r * a.labels_row);
    // Values outside the classes count for nothing; DGSEG_DEBUG=1 reports them.
    if (label == a.ignore_index || label < 0 || label >= a.classes) continue;
    const int64_t here = label * a.classes + predictions[r];
    if (here == bin) {
      ++pixels;
    } else {
      if (pixels) count_pixels(a, histogram, bin, pixels);
      bin = here;
      pixels = 1;
    }
  }
  if (pixels) count_pixels(a, histogram, bin, pixels);
}

// Logits at label size: R pixels below each other.
template <class S, int R>
DGSEG_PHASE void count_direct(const CountsOnDevice& a, uint32_t* histogram, int64_t image, int64_t group, int64_t x) {
  using T = typename Computed<S>::type;
  const int64_t y = group * R;
  const int rows = a.label_height - y < R ? int(a.label_height - y) : R;
  const S* from = static_cast<const S*>(a.logits) + image * a.logits_image + y * a.logits_row + x * a.logits_column;
  FirstLargest<T> largest[R];
  DGSEG_UNROLL_ALL
  for (int r = 0; r < R; ++r) largest[r] = nothing_yet<T>();
  DGSEG_UNROLL(4)
  for (int c = 0; c < int(a.classes); ++c, from += a.logits_class) DGSEG_UNROLL_ALL
  for (int r = 0; r < R; ++r)
    if (r < rows) largest[r].offer_any(widen(from[r * a.logits_row]), c);
  int predictions[R];
  DGSEG_UNROLL_ALL
  for (int r = 0; r < R; ++r) predictions[r] = largest[r].index;
  count_column<R>(a, histogram, image, y, x, rows, predictions);
}

// The output pixels of column x between source row i and the next.
template <class S, int R>
DGSEG_PHASE void count_between(const CountsOnDevice& a, uint32_t* histogram, int64_t image, int64_t i, int64_t x) {
  using T = typename Computed<S>::type;
  const Source column = source(x, a.width, a.label_width);
  const T right = T(column.numerator) / T(2 * a.label_width);
  // A direction that is not resized has no neighbour, and the last row or column is its own.
  const int64_t next_column = column.index + 1 < a.width && a.width < a.label_width ? a.logits_column : 0;
  const int64_t next_row = i + 1 < a.height && a.height < a.label_height ? a.logits_row : 0;
  const S* corner =
      static_cast<const S*>(a.logits) + image * a.logits_image + i * a.logits_row + column.index * a.logits_column;
  const int64_t end = i + 1 < a.height ? first_output(i + 1, a.height, a.label_height) : a.label_height;
  for (int64_t y = first_output(i, a.height, a.label_height); y < end; y += R) {
    const int rows = end - y < R ? int(end - y) : R;
    T below[R];
    FirstLargest<T> largest[R];
    DGSEG_UNROLL_ALL
    for (int r = 0; r < R; ++r) {
      const int64_t numerator = (2 * (y + r) + 1) * a.height - a.label_height * (2 * i + 1);
      below[r] = r >= rows || numerator < 0 ? T(0) : T(numerator) / T(2 * a.label_height);
      largest[r] = nothing_yet<T>();
    }
    T wild = 0;  // becomes NaN where a value, or a difference, is not finite
    const S* from = corner;
    DGSEG_UNROLL(4)
    for (int c = 0; c < int(a.classes); ++c, from += a.logits_class) {
      const T top_left = widen(from[0]), top_right = widen(from[next_column]);
      const T low_left = widen(from[next_row]), low_right = widen(from[next_row + next_column]);
      const T top = top_left + right * (top_right - top_left);
      const T difference = low_left + right * (low_right - low_left) - top;
      wild += top * 0 + difference * 0;
      DGSEG_UNROLL_ALL
      for (int r = 0; r < R; ++r) largest[r].offer(top + below[r] * difference, c);
    }
    if (wild != wild) {
      // Again with care, products first as torch has it: what infinities do to their neighbours is the same then.
      DGSEG_UNROLL_ALL
      for (int r = 0; r < R; ++r) largest[r] = nothing_yet<T>();
      from = corner;
      DGSEG_UNROLL(1)
      for (int c = 0; c < int(a.classes); ++c, from += a.logits_class) {
        const T top = (1 - right) * widen(from[0]) + right * widen(from[next_column]);
        const T low = (1 - right) * widen(from[next_row]) + right * widen(from[next_row + next_column]);
        DGSEG_UNROLL_ALL
        for (int r = 0; r < R; ++r) largest[r].offer_any((1 - below[r]) * top + below[r] * low, c);
      }
    }
    int predictions[R];
    DGSEG_UNROLL_ALL
    for (int r = 0; r < R; ++r) predictions[r] = largest[r].index;
    count_column<R>(a, histogram, image, y, x, rows, predictions);
  }
}

// One block: tiles block(), block() + blocks(), ...
template <class S, int R, bool Upsample, class Machine>
DGSEG_PHASE void count_tiles(const Machine& machine, const CountsOnDevice& a, uint32_t* histogram) {
  const int bins = a.shared_histogram ? int(a.classes * a.classes) : 0;
  machine.phase([&](int thread) {
    for (int bin = thread; bin < bins; bin += kCountThreads) histogram[bin] = 0;
  });
  machine.phase([&](int thread) {
    const int across = thread % a.tile_width, down = thread / a.tile_width, groups = kCountThreads / a.tile_width;
    const int64_t row_groups = Upsample ? a.height : (a.label_height + R - 1) / R;
    for (int64_t tile = machine.block(); tile < a.tiles; tile += machine.blocks()) {
      const int64_t image = tile / (a.tiles_across * a.tiles_down), rest = tile % (a.tiles_across * a.tiles_down);
      const int64_t x = rest % a.tiles_across * a.tile_width + across, group = rest / a.tiles_across * groups + down;
      if (x >= a.label_width || group >= row_groups) continue;
      if constexpr (Upsample)
        count_between<S, R>(a, histogram, image, group, x);
      else
        count_direct<S, R>(a, histogram, image, group, x);
    }
  });
  machine.phase([&](int thread) {
    for (int bin = thread; bin < bins; bin += kCountThreads)
      if (histogram[bin])
        add_atomically(a.counts + bin / int(a.classes) * (a.classes + 1) + bin % int(a.classes),
                       (unsigned long long)histogram[bin]);
  });
}

}  // namespace
}  // namespace dgseg
