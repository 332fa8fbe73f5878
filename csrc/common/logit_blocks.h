// How kernels walk over logits beside labels of their size or larger: an image is cut into tasks, a task into blocks of
// pixels, and whoever computes something is shown one block at a time, its logits interpolated. Anonymous: see isa.h.
//
// Logits below label size are upsampled on the fly: between two source rows, a block of columns is interpolated
// horizontally once per source row and serves all label rows between them; a gradient is summed over those label rows
// first and taken back horizontally once. Full-resolution logits, probabilities or gradients never exist.
//
// Planes of NCHW logits often lie a power of two apart, so that reading C of them in lockstep would fight over one
// cache set: blocks of kBlock pixels are copied into a buffer [C][kBlock] first.
//
// Legend: N images, C classes, h w logits' size, H W labels' size, T compute type, S storage type of the logits,
// P pixels of a block, v vector index within a block.
#pragma once
#include "logits.h"
#include "scratch.h"
#include "simd.h"
#include "upsample.h"

namespace dgseg {
namespace {

constexpr int64_t kBlock = 256;  // pixels of a block at full resolution
constexpr int64_t kTaskPixels = 16 * kBlock;
constexpr int64_t kUpBlock = 128;    // columns of a block when upsampling: four buffers of [C][kUpBlock] at once
constexpr int64_t kUpTaskRows = 16;  // source rows of a task when upsampling
constexpr int kUnroll = 4;           // vectors in flight

template <class T>
using Vf = typename Lanes<T>::f;
template <class T>
using Vi = typename Lanes<T>::i;

inline bool same_size(const LogitsAndLabels& in) { return in.h == in.H && in.w == in.W; }
inline bool is_empty(const LogitsAndLabels& in) { return in.N * in.H * in.W * in.C == 0; }

template <class JobType, void (*task)(const JobType&, int64_t)>
void run_tasks(int64_t begin, int64_t end, void* context) {
  for (int64_t i = begin; i < end; ++i) task(*static_cast<const JobType*>(context), i);
}

// ---- labels ----------------------------------------------------------------------------------------------------

// Labels (-1 ignored, -2 wrong) of a block, padded with ignored pixels to whole vectors.
struct BlockLabels {
  alignas(64) int32_t label[kBlock];
};

// Returns whether a label was wrong.
inline bool read_labels(const LogitsAndLabels& in, int64_t offset, int64_t count, BlockLabels& block) {
  switch (in.label_type) {
    case LabelType::u8:
      load_labels(block.label, static_cast<const uint8_t*>(in.labels) + offset, 1, count, in.C, in.ignore_index);
      break;
    case LabelType::i32:
      load_labels(block.label, static_cast<const int32_t*>(in.labels) + offset, 1, count, in.C, in.ignore_index);
      break;
    case LabelType::i64:
      load_labels(block.label, static_cast<const int64_t*>(in.labels) + offset, 1, count, in.C, in.ignore_index);
      break;
  }
  int32_t wrong = 0;
  for (int64_t p = 0; p < count; ++p) wrong |= block.label[p] == -2;
  for (int64_t p = count; p < kBlock; ++p) block.label[p] = -1;
  return wrong != 0;
}

inline void note_bad(const LogitsAndLabels& in, int64_t image, int64_t offset, int64_t count, BadLabel& bad) {
  if (bad.image >= 0) return;
  for (int64_t i = offset; i < offset + count; ++i) {
    const int64_t v = in.label_type == LabelType::u8    ? static_cast<const uint8_t*>(in.labels)[i]
                      : in.label_type == LabelType::i32 ? static_cast<const int32_t*>(in.labels)[i]
                                                        : static_cast<const int64_t*>(in.labels)[i];
    if (v != in.ignore_index && (v < 0 || v >= in.C)) {
      bad = {image, v};
      return;
    }
  }
}

// Where a block lies: its first pixel's row and column in an image, and `offset`, its place in all the labels.
struct Place {
  int64_t image, row, column, offset, count;
};

// ---- logits of a block -----------------------------------------------------------------------------------------

// At full resolution: x[c][p].
template <class T, int64_t P>
struct CopiedLogits {
  const T* x;
  DGSEG_INLINE Vf<T> operator()(int64_t c, int64_t v) const { return load(x + c * P + v * Lanes<T>::n); }
  DGSEG_INLINE T at(int64_t c, int64_t p) const { return x[c * P + p]; }
};

// Between two source rows, both interpolated horizontally already.
template <class T, int64_t P>
struct BetweenRows {
  const T* below;
  const T* above;
  T fraction;
  DGSEG_INLINE Vf<T> operator()(int64_t c, int64_t v) const {
    const Vf<T> b = load(below + c * P + v * Lanes<T>::n);
    return b + fraction * (load(above + c * P + v * Lanes<T>::n) - b);
  }
  DGSEG_INLINE T at(int64_t c, int64_t p) const {
    return below[c * P + p] + fraction * (above[c * P + p] - below[c * P + p]);
  }
};

// ---- at full resolution ----------------------------------------------------------------------------------------

// An image is rows x width pixels; contiguous rows are taken as one long row.
struct Flat {
  int64_t rows, width;
  explicit Flat(const LogitsAndLabels& in) {
    const bool dense = in.stride_h == in.W * in.stride_w;
    rows = dense ? 1 : in.H;
    width = dense ? in.H * in.W : in.W;
  }
  int64_t segments() const { return (width + kTaskPixels - 1) / kTaskPixels; }
  int64_t tasks(int64_t images) const { return images * rows * segments(); }
};

struct Segment {
  int64_t image, row, begin, end;
  Segment(const Flat& flat, int64_t task) {
    image = task / (flat.rows * flat.segments());
    row = task / flat.segments() % flat.rows;
    begin = task % flat.segments() * kTaskPixels;
    end = begin + kTaskPixels < flat.width ? begin + kTaskPixels : flat.width;
  }
};

// visit(place, logits) for every block of the task; rows and columns are those of the flattened image.
template <class S, class Visit>
DGSEG_INLINE void visit_full_size(const LogitsAndLabels& in, int64_t task, const Visit& visit) {
  using T = typename ComputeType<S>::type;
  const Flat flat(in);
  const Segment segment(flat, task);
  Scratch<T> copy(in.C * kBlock);
  for (int64_t begin = segment.begin; begin < segment.end; begin += kBlock) {
    const int64_t count = segment.end - begin < kBlock ? segment.end - begin : kBlock;
    const S* logits = static_cast<const S*>(in.logits) + segment.image * in.stride_n + segment.row * in.stride_h +
                      begin * in.stride_w;
    for (int64_t c = 0; c < in.C; ++c) {
      // The hardware's prefetcher does not follow C planes at once: ask for this plane's next block now.
      if (in.stride_w == 1 && begin + kBlock < segment.end)
        for (int64_t p = 0; p < kBlock; p += 64 / int64_t(sizeof(S)))
          __builtin_prefetch(logits + c * in.stride_c + kBlock + p);
      load_row(copy.get() + c * kBlock, logits + c * in.stride_c, in.stride_w, count);
      for (int64_t p = count; p < kBlock; ++p) copy[c * kBlock + p] = 0;
    }
    const int64_t offset = segment.image * in.H * in.W + segment.row * in.W + begin;
    visit(Place{segment.image, segment.row, begin, offset, count}, CopiedLogits<T, kBlock>{copy.get()});
  }
}

// ---- upsampling ------------------------------------------------------------------------------------------------

inline int64_t up_groups(int64_t h) { return (h + kUpTaskRows - 1) / kUpTaskRows; }

inline int64_t block_tasks(const LogitsAndLabels& in) {
  return same_size(in) ? Flat(in).tasks(in.N) : in.N * up_groups(in.h);
}

// One source row of all classes, interpolated horizontally for a block of columns: to[c][P].
template <class S, class T>
__attribute__((noinline)) void interpolate_row(const LogitsAndLabels& in, const Axis<T>& columns, int64_t image,
                                               int64_t row, int64_t x0, int64_t count, T* source, T* to) {
  // The part of the row that these columns need, in T and contiguous.
  const int64_t from = columns.low(x0), until = columns.high(x0 + count - 1) + 1;
  const S* logits = static_cast<const S*>(in.logits) + image * in.stride_n + row * in.stride_h;
  for (int64_t c = 0; c < in.C; ++c) {
    load_row(source + from, logits + c * in.stride_c + from * in.stride_w, in.stride_w, until - from);
    columns.interpolate(to + c * kUpBlock, source, x0, count);
  }
}

template <class T>
struct UpBuffers {
  Scratch<T> source, one, other;
  UpBuffers(int64_t C, int64_t w) : source(w + 4 * Lanes<T>::n), one(C * kUpBlock), other(C * kUpBlock) {
    std::memset(source.get(), 0, size_t(w + 4 * Lanes<T>::n) * sizeof(T));
    std::memset(one.get(), 0, size_t(C * kUpBlock) * sizeof(T));
    std::memset(other.get(), 0, size_t(C * kUpBlock) * sizeof(T));
  }
};

template <class T>
DGSEG_INLINE void swap_pointers(T*& a, T*& b) {
  T* swap = a;
  a = b;
  b = swap;
}

// visit(place, logits) for every block of the task.
template <class S, class T, class Visit>
DGSEG_INLINE void visit_upsampled(const LogitsAndLabels& in, const Axis<T>& rows, const Axis<T>& columns, int64_t task,
                                  const Visit& visit) {
  const int64_t image = task / up_groups(in.h), first = task % up_groups(in.h) * kUpTaskRows;
  const int64_t last = first + kUpTaskRows < in.h ? first + kUpTaskRows : in.h;
  UpBuffers<T> buffers(in.C, in.w);
  for (int64_t x0 = 0; x0 < in.W; x0 += kUpBlock) {
    const int64_t count = in.W - x0 < kUpBlock ? in.W - x0 : kUpBlock;
    T* below = buffers.one.get();
    T* above = buffers.other.get();
    interpolate_row<S, T>(in, columns, image, first, x0, count, buffers.source.get(), below);
    for (int64_t row = first; row < last; ++row) {
      const int64_t next = row + 1 < in.h ? row + 1 : row;
      interpolate_row<S, T>(in, columns, image, next, x0, count, buffers.source.get(), above);
      for (int64_t y = rows.first(row); y < rows.first(row + 1); ++y)
        visit(Place{image, y, x0, (image * in.H + y) * in.W + x0, count},
              BetweenRows<T, kUpBlock>{below, above, rows.fraction(y)});
      swap_pointers(below, above);
    }
  }
}

// The transpose of upsampling. The task owns source rows [first, last): it visits every label row that touches them, so
// that nothing is shared. block.read(offset, count, logits) prepares a block of one label row, block.gradient(logits,
// c, v) is the gradient of its upsampled logits.
template <class S, class T, class Block>
DGSEG_INLINE void gather_upsampled(const LogitsAndLabels& in, const Axis<T>& rows, const Axis<T>& columns,
                                   const LogitsGradient& to, int64_t task, Block& block) {
  constexpr int n = Lanes<T>::n;
  const int64_t image = task / up_groups(in.h), first = task % up_groups(in.h) * kUpTaskRows;
  const int64_t last = first + kUpTaskRows < in.h ? first + kUpTaskRows : in.h;
  UpBuffers<T> buffers(in.C, in.w);
  Scratch<T> gradient((last - first) * in.C * in.w);  // [row][c][w]
  std::memset(gradient.get(), 0, size_t((last - first) * in.C * in.w) * sizeof(T));
  Scratch<T> to_below_memory(in.C * kUpBlock), to_above_memory(in.C * kUpBlock);
  for (int64_t x0 = 0; x0 < in.W; x0 += kUpBlock) {
    const int64_t count = in.W - x0 < kUpBlock ? in.W - x0 : kUpBlock, padded = round_up(count, kUnroll * n);
    T* below = buffers.one.get();
    T* above = buffers.other.get();
    T* to_below = to_below_memory.get();
    T* to_above = to_above_memory.get();
    std::memset(to_below, 0, size_t(in.C * kUpBlock) * sizeof(T));
    // Label rows between source rows `row` and `row + 1`; the first round only feeds `first` from above.
    int64_t row = first > 0 ? first - 1 : 0;
    interpolate_row<S, T>(in, columns, image, row, x0, count, buffers.source.get(), below);
    for (; row < last; ++row) {
      const int64_t next = row + 1 < in.h ? row + 1 : row;
      interpolate_row<S, T>(in, columns, image, next, x0, count, buffers.source.get(), above);
      std::memset(to_above, 0, size_t(in.C * kUpBlock) * sizeof(T));
      for (int64_t y = rows.first(row); y < rows.first(row + 1); ++y) {
        const T fraction = rows.fraction(y);
        const BetweenRows<T, kUpBlock> logits{below, above, fraction};
        block.read((image * in.H + y) * in.W + x0, count, logits);
        for (int64_t c = 0; c < in.C; ++c)
          for (int64_t p = 0; p < padded; p += n) {
            const Vf<T> g = block.gradient(logits, c, p / n);
            const Vf<T> up = fraction * g;
            T* low = to_below + c * kUpBlock + p;
            T* high = to_above + c * kUpBlock + p;
            store(low, load(low) + (g - up));
            store(high, load(high) + up);
          }
      }
      // At the bottom edge the row above is the row itself.
      if (next == row)
        for (int64_t i = 0; i < in.C * kUpBlock; ++i) to_below[i] += to_above[i];
      if (row >= first)
        for (int64_t c = 0; c < in.C; ++c)
          columns.scatter(gradient.get() + ((row - first) * in.C + c) * in.w, to_below + c * kUpBlock, x0, count);
      swap_pointers(below, above);
      swap_pointers(to_below, to_above);
    }
  }
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = 0; c < in.C; ++c)
      store_row(static_cast<S*>(to.data) + image * to.stride_n + c * to.stride_c + row * to.stride_h, to.stride_w,
                gradient.get() + ((row - first) * in.C + c) * in.w, in.w);
}

}  // namespace
}  // namespace dgseg
