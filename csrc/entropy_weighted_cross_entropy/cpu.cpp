// Cross-entropy whose band pixels are weighted by their prediction entropy: three passes.
//
//   pixels     logits -> per pixel log-sum-exp, entropy (in bands) and cross-entropy; moments of the band entropy
//   loss       those maps -> weights and the sums that make up the loss; touches no logits
//   backward   logits, log-sum-exp, weights -> gradient
//
// Must move: pixels reads the logits once; backward reads them once and writes as much. The maps are 1/C of that.
// Logits below label size are upsampled on the fly: between two source rows, a block of columns is interpolated
// horizontally once per source row and serves all label rows between them; the gradient is summed over those label
// rows first and taken back horizontally once. Full-resolution logits, probabilities or gradients never exist.
//
// Planes of NCHW logits often lie a power of two apart, so that reading C of them in lockstep would fight over one
// cache set: blocks of kBlock pixels are copied into a buffer [C][kBlock] first.
//
// Legend: N images, C classes, h w logits' size, H W labels' size, T compute type, S storage type of the logits,
// P pixels of a block, v vector index within a block.
#include "../common/upsample.h"
#include "../common/scratch.h"
#include "../common/simd.h"
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

// ---- what a block of pixels is made of -----------------------------------------------------------------------------

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

// ---- pixels --------------------------------------------------------------------------------------------------------

template <class T>
struct PixelMaps {
  alignas(64) T log_sum_exp[kBlock];
  alignas(64) T entropy[kBlock];
  alignas(64) T cross_entropy[kBlock];
};

template <class T, bool with_entropy, class Logits>
__attribute__((noinline)) void pixel_block(int64_t C, int64_t count, const Logits& logit, const BlockLabels& labels,
                                           PixelMaps<T>& maps) {
  constexpr int n = Lanes<T>::n;
  alignas(64) T own[kBlock];
  for (int64_t p = 0; p < count; ++p) own[p] = labels.label[p] >= 0 ? logit.at(labels.label[p], p) : T(0);
  for (int64_t v = 0; v * n < count; v += kUnroll) {
    Vf<T> biggest[kUnroll], sum[kUnroll], moment[kUnroll];
    for (int u = 0; u < kUnroll; ++u) biggest[u] = logit(0, v + u), sum[u] = moment[u] = splat(T(0));
    for (int64_t c = 1; c < C; ++c)
      for (int u = 0; u < kUnroll; ++u) biggest[u] = larger(biggest[u], logit(c, v + u));
    for (int64_t c = 0; c < C; ++c)
      for (int u = 0; u < kUnroll; ++u) {
        const Vf<T> shifted = clamp_exponent<T>(logit(c, v + u) - biggest[u]);
        const Vf<T> e = exponential_in_range(shifted);
        sum[u] += e;
        if (with_entropy) moment[u] += e * shifted;
      }
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t p = (v + u) * n;
      const Vf<T> log_sum = logarithm(sum[u]);
      store(maps.log_sum_exp + p, biggest[u] + log_sum);
      store(maps.cross_entropy + p, (biggest[u] - load(own + p)) + log_sum);
      if (with_entropy) store(maps.entropy + p, log_sum - moment[u] / sum[u]);
    }
  }
}

// Masks what does not count, writes the maps and adds the block to the moments.
template <class T>
__attribute__((noinline)) void finish_pixels(const EntropyPixelsArgs& a, int64_t offset, int64_t count,
                                             const BlockLabels& labels, PixelMaps<T>& maps, EntropyMoments& moments) {
  EntropyMoments block;
  block.total = double(count);
  int64_t valid = 0, band = 0;
  T sum = 0, squares = 0;
  for (int64_t p = 0; p < count; ++p) {
    const bool counts = labels.label[p] >= 0;
    valid += counts;
    maps.log_sum_exp[p] = counts ? maps.log_sum_exp[p] : T(0);
    maps.cross_entropy[p] = counts ? maps.cross_entropy[p] : T(0);
  }
  copy_row(static_cast<T*>(a.log_sum_exp) + offset, maps.log_sum_exp, count);
  copy_row(static_cast<T*>(a.cross_entropy) + offset, maps.cross_entropy, count);
  if (a.in.bands) {
    for (int64_t p = 0; p < count; ++p) band += labels.band[p];
    constexpr int n = Lanes<T>::n;
    Vf<T> partial = splat(T(0));
    for (int64_t p = count; p < round_up(count, n); ++p) maps.entropy[p] = 0;
    for (int64_t p = 0; p < count; ++p) maps.entropy[p] = labels.band[p] ? maps.entropy[p] : T(0);
    for (int64_t p = 0; p < count; p += n) partial += load(maps.entropy + p);
    sum = lane_sum<T>(partial);
    if (band > 0) {
      const T mean = sum / T(band);
      partial = splat(T(0));
      alignas(64) T deviation[kBlock];
      for (int64_t p = 0; p < round_up(count, n); ++p) deviation[p] = labels.band[p] ? maps.entropy[p] - mean : T(0);
      for (int64_t p = 0; p < count; p += n) partial += load(deviation + p) * load(deviation + p);
      squares = lane_sum<T>(partial);
      block.mean = double(mean);
    }
    copy_row(static_cast<T*>(a.entropy) + offset, maps.entropy, count);
  }
  block.valid = double(valid);
  block.band = double(band);
  block.squares = double(squares);
  merge(moments, block);
}

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

template <class S>
void pixels_task_full(const Job<EntropyPixelsArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  const EntropyPixelsArgs& a = *job.args;
  const LogitsAndLabels& in = a.in;
  const Flat flat(in);
  const Segment segment(flat, task);
  Scratch<T> copy(in.C * kBlock);
  BlockLabels labels;
  PixelMaps<T> maps;
  TaskResult& result = job.results[task];
  for (int64_t begin = segment.begin; begin < segment.end; begin += kBlock) {
    const int64_t count = segment.end - begin < kBlock ? segment.end - begin : kBlock;
    const int64_t offset = segment.image * in.H * in.W + segment.row * in.W + begin;
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
    if (read_labels(in, offset, count, labels)) note_bad(in, segment.image, offset, count, result.bad);
    const CopiedLogits<T, kBlock> logit{copy.get()};
    if (in.bands)
      pixel_block<T, true>(in.C, count, logit, labels, maps);
    else
      pixel_block<T, false>(in.C, count, logit, labels, maps);
    finish_pixels(a, offset, count, labels, maps, result.moments);
  }
}

// ---- upsampling ----------------------------------------------------------------------------------------------------

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

template <class S>
void pixels_task_up(const Job<EntropyPixelsArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  const EntropyPixelsArgs& a = *job.args;
  const LogitsAndLabels& in = a.in;
  const auto& rows = *static_cast<const Axis<T>*>(job.rows);
  const auto& columns = *static_cast<const Axis<T>*>(job.columns);
  const int64_t image = task / up_groups(in.h), first = task % up_groups(in.h) * kUpTaskRows;
  const int64_t last = first + kUpTaskRows < in.h ? first + kUpTaskRows : in.h;
  UpBuffers<T> buffers(in.C, in.w);
  BlockLabels labels;
  PixelMaps<T> maps;
  TaskResult& result = job.results[task];
  for (int64_t x0 = 0; x0 < in.W; x0 += kUpBlock) {
    const int64_t count = in.W - x0 < kUpBlock ? in.W - x0 : kUpBlock;
    T* below = buffers.one.get();
    T* above = buffers.other.get();
    interpolate_row<S, T>(in, columns, image, first, x0, count, buffers.source.get(), below);
    for (int64_t row = first; row < last; ++row) {
      const int64_t next = row + 1 < in.h ? row + 1 : row;
      interpolate_row<S, T>(in, columns, image, next, x0, count, buffers.source.get(), above);
      for (int64_t y = rows.first(row); y < rows.first(row + 1); ++y) {
        const int64_t offset = (image * in.H + y) * in.W + x0;
        if (read_labels(in, offset, count, labels)) note_bad(in, image, offset, count, result.bad);
        const BetweenRows<T, kUpBlock> logit{below, above, rows.fraction(y)};
        if (in.bands)
          pixel_block<T, true>(in.C, count, logit, labels, maps);
        else
          pixel_block<T, false>(in.C, count, logit, labels, maps);
        finish_pixels(a, offset, count, labels, maps, result.moments);
      }
      T* swap = below;
      below = above;
      above = swap;
    }
  }
}

// ---- loss ----------------------------------------------------------------------------------------------------------

struct LossResult {
  double loss = 0, plain = 0, valid = 0;
};
struct LossJob {
  EntropyLossArgs* args;
  LossResult* results;
};

inline int64_t loss_segments(const LogitsAndLabels& in) { return (in.H * in.W + kTaskPixels - 1) / kTaskPixels; }

template <class T>
void loss_task(const LossJob& job, int64_t task) {
  constexpr int n = Lanes<T>::n;
  const EntropyLossArgs& a = *job.args;
  const LogitsAndLabels& in = a.in;
  const int64_t image = task / loss_segments(in), segment = task % loss_segments(in) * kTaskPixels;
  const int64_t end = segment + kTaskPixels < in.H * in.W ? segment + kTaskPixels : in.H * in.W;
  const T scale = a.denominator > 0 ? T(double(a.ranks) / a.denominator) : T(0);
  const double deviation = a.moments.band > 0 ? std::sqrt(a.moments.squares / a.moments.band) : 0;
  const T mean = T(a.moments.mean), sharpness = T(1 / (deviation + a.eps));
  const T* class_weight = static_cast<const T*>(a.class_weight);
  BlockLabels labels;
  alignas(64) T weight[kBlock], entropy[kBlock], loss[kBlock];
  LossResult& result = job.results[task];
  for (int64_t begin = segment; begin < end; begin += kBlock) {
    const int64_t count = end - begin < kBlock ? end - begin : kBlock, offset = image * in.H * in.W + begin;
    read_labels(in, offset, count, labels);
    std::memset(loss, 0, sizeof loss);
    copy_row(loss, static_cast<const T*>(a.cross_entropy) + offset, count);
    for (int64_t p = 0; p < kBlock; ++p) weight[p] = labels.label[p] >= 0 ? scale : T(0);
    if (class_weight)
      for (int64_t p = 0; p < count; ++p) weight[p] *= labels.label[p] >= 0 ? class_weight[labels.label[p]] : T(0);
    if (in.bands) {
      switch (a.weighting) {
        case Weighting::entropy: {
          std::memset(entropy, 0, sizeof entropy);
          copy_row(entropy, static_cast<const T*>(a.entropy) + offset, count);
          for (int64_t p = 0; p < round_up(count, n); p += n) {
            const Vf<T> z = clamp_exponent<T>((mean - load(entropy + p)) * sharpness);
            const Vf<T> e = exponential_in_range(z > T(80) ? splat(T(80)) : z);
            store(entropy + p, T(1) + T(a.alpha) / (T(1) + e));
          }
          for (int64_t p = 0; p < count; ++p) weight[p] *= labels.band[p] ? entropy[p] : T(1);
          break;
        }
        case Weighting::fixed:
          for (int64_t p = 0; p < count; ++p) weight[p] *= labels.band[p] ? T(a.alpha) : T(1);
          break;
        case Weighting::threshold:
          for (int64_t p = 0; p < count; ++p)
            weight[p] *= (labels.band[p] != 0) & (loss[p] > T(a.threshold)) ? T(a.alpha) : T(1);
          break;
      }
    }
    Vf<T> weighted = splat(T(0)), plain = splat(T(0));
    for (int64_t p = 0; p < round_up(count, n); p += n) {
      // 0 * inf: a masked-out class at a pixel of weight 0 must not turn the loss into NaN.
      weighted += load(weight + p) == T(0) ? splat(T(0)) : load(weight + p) * load(loss + p);
      plain += load(loss + p);
    }
    int64_t valid = 0;
    for (int64_t p = 0; p < count; ++p) valid += labels.label[p] >= 0;
    result.loss += double(lane_sum<T>(weighted));
    result.plain += double(lane_sum<T>(plain));
    result.valid += double(valid);
    copy_row(static_cast<T*>(a.weights) + offset, weight, count);
  }
}

// ---- backward ------------------------------------------------------------------------------------------------------

// weight * (softmax - onehot) of class c, for the vector v of a block.
template <class T>
DGSEG_INLINE Vf<T> pixel_gradient(Vf<T> logit, Vf<T> log_sum_exp, Vf<T> weight, Vi<T> label, int64_t c) {
  const Vf<T> p = exponential<T>(logit - log_sum_exp);
  const Vf<T> difference = label == typename Lanes<T>::integer(c) ? p - T(1) : p;
  // A pixel that does not count has no gradient, whatever its logits are.
  return weight == T(0) ? splat(T(0)) : weight * difference;
}

// weight * grad_loss, log-sum-exp and labels (as wide as T) of a block.
template <class T>
struct BackwardBlock {
  alignas(64) T weight[kBlock];
  alignas(64) T log_sum_exp[kBlock];
  alignas(64) typename Lanes<T>::integer label[kBlock];

  __attribute__((noinline)) void read(const EntropyBackwardArgs& a, BlockLabels& labels, int64_t offset,
                                      int64_t count) {
    const T grad_loss = *static_cast<const T*>(a.grad_loss);
    const T* weights = static_cast<const T*>(a.weights) + offset;
    const T* sums = static_cast<const T*>(a.log_sum_exp) + offset;
    read_labels(a.in, offset, count, labels);
    const int64_t padded = round_up(count, kUnroll * Lanes<T>::n);
    for (int64_t p = 0; p < count; ++p) weight[p] = weights[p] == T(0) ? T(0) : weights[p] * grad_loss;
    for (int64_t p = 0; p < count; ++p) log_sum_exp[p] = sums[p];
    for (int64_t p = count; p < padded; ++p) weight[p] = log_sum_exp[p] = 0;
    for (int64_t p = 0; p < padded; ++p) label[p] = labels.label[p];
  }
};

template <class S>
void backward_task_full(const Job<const EntropyBackwardArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  constexpr int n = Lanes<T>::n;
  const EntropyBackwardArgs& a = *job.args;
  LogitsAndLabels in = a.in;
  in.bands = nullptr;  // the weights know
  const Flat flat(in);
  const Segment segment(flat, task);
  BlockLabels labels;
  BackwardBlock<T> block;
  alignas(64) T row[kBlock];
  constexpr bool direct_type = sizeof(S) == sizeof(T);
  for (int64_t begin = segment.begin; begin < segment.end; begin += kBlock) {
    const int64_t count = segment.end - begin < kBlock ? segment.end - begin : kBlock;
    block.read(a, labels, segment.image * in.H * in.W + segment.row * in.W + begin, count);
    const S* logits = static_cast<const S*>(in.logits) + segment.image * in.stride_n + segment.row * in.stride_h +
                      begin * in.stride_w;
    S* grad = static_cast<S*>(a.grad) + segment.image * a.grad_stride_n + segment.row * a.grad_stride_h +
              begin * a.grad_stride_w;
    for (int64_t c = 0; c < in.C; ++c) {
      if constexpr (direct_type) {
        if (count == kBlock && in.stride_w == 1 && a.grad_stride_w == 1) {
          for (int64_t p = 0; p < kBlock; p += n)
            store(grad + c * a.grad_stride_c + p,
                  pixel_gradient<T>(load(logits + c * in.stride_c + p), load(block.log_sum_exp + p),
                                    load(block.weight + p), load_integers<T>(block.label + p), c));
          continue;
        }
      }
      load_row(row, logits + c * in.stride_c, in.stride_w, count);
      for (int64_t p = count; p < round_up(count, n); ++p) row[p] = 0;
      for (int64_t p = 0; p < count; p += n)
        store(row + p, pixel_gradient<T>(load(row + p), load(block.log_sum_exp + p), load(block.weight + p),
                                         load_integers<T>(block.label + p), c));
      store_row(grad + c * a.grad_stride_c, a.grad_stride_w, row, count);
    }
  }
}

// The task owns source rows [first, last): it visits every label row that touches them, so that nothing is shared.
template <class S>
void backward_task_up(const Job<const EntropyBackwardArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  constexpr int n = Lanes<T>::n;
  const EntropyBackwardArgs& a = *job.args;
  LogitsAndLabels in = a.in;
  in.bands = nullptr;
  const auto& rows = *static_cast<const Axis<T>*>(job.rows);
  const auto& columns = *static_cast<const Axis<T>*>(job.columns);
  const int64_t image = task / up_groups(in.h), first = task % up_groups(in.h) * kUpTaskRows;
  const int64_t last = first + kUpTaskRows < in.h ? first + kUpTaskRows : in.h;
  UpBuffers<T> buffers(in.C, in.w);
  Scratch<T> gradient((last - first) * in.C * in.w);  // [row][c][w]
  std::memset(gradient.get(), 0, size_t((last - first) * in.C * in.w) * sizeof(T));
  Scratch<T> to_below_memory(in.C * kUpBlock), to_above_memory(in.C * kUpBlock);
  BlockLabels labels;
  BackwardBlock<T> block;
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
        block.read(a, labels, (image * in.H + y) * in.W + x0, count);
        const T fraction = rows.fraction(y);
        const BetweenRows<T, kUpBlock> logit{below, above, fraction};
        for (int64_t c = 0; c < in.C; ++c)
          for (int64_t p = 0; p < padded; p += n) {
            const Vf<T> g = pixel_gradient<T>(logit(c, p / n), load(block.log_sum_exp + p), load(block.weight + p),
                                              load_integers<T>(block.label + p), c);
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
      T* swap = below;
      below = above;
      above = swap;
      swap = to_below;
      to_below = to_above;
      to_above = swap;
    }
  }
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = 0; c < in.C; ++c)
      store_row(static_cast<S*>(a.grad) + image * a.grad_stride_n + c * a.grad_stride_c + row * a.grad_stride_h,
                a.grad_stride_w, gradient.get() + ((row - first) * in.C + c) * in.w, in.w);
}

// ---- dispatch ------------------------------------------------------------------------------------------------------

template <class JobType, void (*task)(const JobType&, int64_t)>
void run_tasks(int64_t begin, int64_t end, void* context) {
  for (int64_t i = begin; i < end; ++i) task(*static_cast<const JobType*>(context), i);
}

inline bool same_size(const LogitsAndLabels& in) { return in.h == in.H && in.w == in.W; }
inline bool is_empty(const LogitsAndLabels& in) { return in.N * in.H * in.W * in.C == 0; }

template <class S>
void pixels_typed(EntropyPixelsArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  using ThisJob = Job<EntropyPixelsArgs>;
  const bool full = same_size(args.in);
  const int64_t tasks = full ? Flat(args.in).tasks(args.in.N) : args.in.N * up_groups(args.in.h);
  Scratch<TaskResult> results(tasks);
  for (int64_t i = 0; i < tasks; ++i) results[i] = TaskResult();
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  ThisJob job{&args, results.get(), &rows, &columns};
  parallel.run(tasks, full ? run_tasks<ThisJob, pixels_task_full<S>> : run_tasks<ThisJob, pixels_task_up<S>>, &job);
  for (int64_t i = 0; i < tasks; ++i) {
    merge(args.moments, results[i].moments);
    if (args.bad.image < 0) args.bad = results[i].bad;
  }
}

template <class S>
void backward_typed(const EntropyBackwardArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  using ThisJob = Job<const EntropyBackwardArgs>;
  const bool full = same_size(args.in);
  const int64_t tasks = full ? Flat(args.in).tasks(args.in.N) : args.in.N * up_groups(args.in.h);
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  ThisJob job{&args, nullptr, &rows, &columns};
  parallel.run(tasks, full ? run_tasks<ThisJob, backward_task_full<S>> : run_tasks<ThisJob, backward_task_up<S>>, &job);
}

}  // namespace

void entropy_pixels(EntropyPixelsArgs& args, const Parallel& parallel) {
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return pixels_typed<float>(args, parallel);
    case FloatType::f64: return pixels_typed<double>(args, parallel);
    case FloatType::f16: return pixels_typed<Half>(args, parallel);
    case FloatType::bf16: return pixels_typed<BFloat16>(args, parallel);
  }
}

void entropy_loss(EntropyLossArgs& args, const Parallel& parallel) {
  const int64_t segments = loss_segments(args.in), tasks = args.in.N * segments;
  Scratch<LossResult> results(tasks);
  for (int64_t i = 0; i < tasks; ++i) results[i] = LossResult();
  LossJob job{&args, results.get()};
  const bool wide = args.in.type == FloatType::f64;
  if (tasks > 0)
    parallel.run(tasks, wide ? run_tasks<LossJob, loss_task<double>> : run_tasks<LossJob, loss_task<float>>, &job);
  args.loss = 0;
  for (int64_t image = 0; image < args.in.N; ++image) {
    LossResult sum;
    for (int64_t i = image * segments; i < (image + 1) * segments; ++i) {
      sum.loss += results[i].loss;
      sum.plain += results[i].plain;
      sum.valid += results[i].valid;
    }
    args.loss += sum.loss;
    const double mean = sum.valid > 0 ? sum.plain / sum.valid : 0;
    if (wide)
      static_cast<double*>(args.per_image)[image] = mean;
    else
      static_cast<float*>(args.per_image)[image] = float(mean);
  }
}

void entropy_backward(const EntropyBackwardArgs& args, const Parallel& parallel) {
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return backward_typed<float>(args, parallel);
    case FloatType::f64: return backward_typed<double>(args, parallel);
    case FloatType::f16: return backward_typed<Half>(args, parallel);
    case FloatType::bf16: return backward_typed<BFloat16>(args, parallel);
  }
}

}  // namespace dgseg::DGSEG_ISA
