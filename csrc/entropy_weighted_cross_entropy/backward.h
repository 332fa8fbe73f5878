// Third pass: logits, log-sum-exp and weights -> gradient, gathered where logits were upsampled.
#pragma once
#include "block.h"

namespace dgseg::DGSEG_ISA {
namespace {

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

}  // namespace
}  // namespace dgseg::DGSEG_ISA
