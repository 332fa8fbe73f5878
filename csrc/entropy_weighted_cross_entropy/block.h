// What the passes share: blocks of pixels, where their logits come from, and how an image is cut into tasks.
// cpu.cpp has the legend. Anonymous: see isa.h.
#pragma once
#include "../common/scratch.h"
#include "../common/simd.h"
#include "../common/upsample.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
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

// Labels (-1 ignored, -2 wrong) and band membership of a block, padded with ignored pixels to whole vectors.
struct BlockLabels {
  alignas(64) int32_t label[kBlock];
  alignas(64) int32_t band[kBlock];  // 1 inside a band, and valid
};

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
  if (in.bands) {
    const uint8_t* bands = in.bands + offset;
    for (int64_t p = 0; p < count; ++p) block.band[p] = (bands[p] != 0) & (block.label[p] >= 0);
    for (int64_t p = count; p < kBlock; ++p) block.band[p] = 0;
  }
  return wrong != 0;
}

// Logits of a block at full resolution: x[c][p].
template <class T, int64_t P>
struct CopiedLogits {
  const T* x;
  DGSEG_INLINE Vf<T> operator()(int64_t c, int64_t v) const { return load(x + c * P + v * Lanes<T>::n); }
  DGSEG_INLINE T at(int64_t c, int64_t p) const { return x[c * P + p]; }
};

// Logits of a block between two source rows, both interpolated horizontally already.
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

struct TaskResult {
  EntropyMoments moments;
  BadLabel bad;
};

// Everything a task function needs beside its number.
template <class Args>
struct Job {
  Args* args;
  TaskResult* results;
  const void* rows;     // Axis<T> of the height, when upsampling
  const void* columns;  // Axis<T> of the width
};

// At full resolution, an image is rows x width pixels; contiguous rows are taken as one long row.
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

// ---- upsampling ------------------------------------------------------------------------------------------------

inline int64_t up_groups(int64_t h) { return (h + kUpTaskRows - 1) / kUpTaskRows; }

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

}  // namespace
}  // namespace dgseg::DGSEG_ISA
