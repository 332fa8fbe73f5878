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
  const EntropyBackwardArgs& a;
  alignas(64) T weight[kBlock];
  alignas(64) T log_sum_exp[kBlock];
  alignas(64) typename Lanes<T>::integer label[kBlock];
  BlockLabels labels;

  explicit BackwardBlock(const EntropyBackwardArgs& args) : a(args) {}

  __attribute__((noinline)) void read(int64_t offset, int64_t count) {
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

  // What gather_upsampled asks of a block.
  template <class Logits>
  DGSEG_INLINE void read(int64_t offset, int64_t count, const Logits&) {
    read(offset, count);
  }
  template <class Logits>
  DGSEG_INLINE Vf<T> gradient(const Logits& logit, int64_t c, int64_t v) const {
    return of(logit(c, v), c, v * Lanes<T>::n);
  }

  DGSEG_INLINE Vf<T> of(Vf<T> logit, int64_t c, int64_t p) const {
    return pixel_gradient<T>(logit, load(log_sum_exp + p), load(weight + p), load_integers<T>(label + p), c);
  }
};

template <class S>
void backward_task_full(const Job<const EntropyBackwardArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  constexpr int n = Lanes<T>::n;
  const EntropyBackwardArgs& a = *job.args;
  const LogitsAndLabels& in = a.in;
  const Flat flat(in);
  const Segment segment(flat, task);
  BackwardBlock<T> block(a);
  alignas(64) T row[kBlock];
  constexpr bool direct_type = sizeof(S) == sizeof(T);
  for (int64_t begin = segment.begin; begin < segment.end; begin += kBlock) {
    const int64_t count = segment.end - begin < kBlock ? segment.end - begin : kBlock;
    block.read(segment.image * in.H * in.W + segment.row * in.W + begin, count);
    const S* logits = static_cast<const S*>(in.logits) + segment.image * in.stride_n + segment.row * in.stride_h +
                      begin * in.stride_w;
    S* grad = static_cast<S*>(a.grad.data) + segment.image * a.grad.stride_n + segment.row * a.grad.stride_h +
              begin * a.grad.stride_w;
    for (int64_t c = 0; c < in.C; ++c) {
      if constexpr (direct_type) {
        if (count == kBlock && in.stride_w == 1 && a.grad.stride_w == 1) {
          for (int64_t p = 0; p < kBlock; p += n)
            store(grad + c * a.grad.stride_c + p, block.of(load(logits + c * in.stride_c + p), c, p));
          continue;
        }
      }
      load_row(row, logits + c * in.stride_c, in.stride_w, count);
      for (int64_t p = count; p < round_up(count, n); ++p) row[p] = 0;
      for (int64_t p = 0; p < count; p += n) store(row + p, block.of(load(row + p), c, p));
      store_row(grad + c * a.grad.stride_c, a.grad.stride_w, row, count);
    }
  }
}

template <class S>
void backward_task_up(const Job<const EntropyBackwardArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  BackwardBlock<T> block(*job.args);
  gather_upsampled<S>(job.args->in, *static_cast<const Axis<T>*>(job.rows), *static_cast<const Axis<T>*>(job.columns),
                      job.args->grad, task, block);
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
