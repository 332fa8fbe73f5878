// Second pass: logits, log-sum-exp and the gradient of the sums -> gradient of the logits.
#pragma once
#include "focal.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

// A block's probabilities and what every class's gradient is made of: p * (through_probability - shift), and `own` more
// for the pixel's own class.
template <class T>
struct BackwardBlock {
  using integer = typename Lanes<T>::integer;
  static constexpr int n = Lanes<T>::n;
  const FocalDiceBackwardArgs& a;
  Scratch<T> probability;                     // [C][kBlock]
  Scratch<T> through_probability;             // [C]
  Scratch<T> through_focal, through_overlap;  // [C], of the own class's focal loss and intersection
  BlockLabels labels;
  alignas(64) T shift[kBlock];
  alignas(64) T own[kBlock];
  alignas(64) integer label[kBlock];

  explicit BackwardBlock(const FocalDiceBackwardArgs& args)
      : a(args),
        probability(args.in.C * kBlock),
        through_probability(args.in.C),
        through_focal(args.in.C),
        through_overlap(args.in.C) {
    for (int64_t c = 0; c < a.in.C; ++c) {
      through_probability[c] = T(a.grad_sums[kProbability * a.in.C + c]);
      through_focal[c] = T(a.grad_sums[kFocal * a.in.C + c]);
      through_overlap[c] = T(a.grad_sums[kIntersection * a.in.C + c]);
    }
  }

  template <class Logits>
  __attribute__((noinline)) void read(int64_t offset, int64_t count, const Logits& logit) {
    read_labels(a.in, offset, count, labels);
    const int64_t padded = round_up(count, kUnroll * n);
    const T* sums = static_cast<const T*>(a.log_sum_exp) + offset;
    alignas(64) T log_sum_exp[kBlock], focal[kBlock], overlap[kBlock];
    for (int64_t p = 0; p < count; ++p) log_sum_exp[p] = sums[p];
    for (int64_t p = count; p < padded; ++p) log_sum_exp[p] = 0;
    for (int64_t p = 0; p < padded; ++p) {
      label[p] = labels.label[p] < 0 ? -1 : labels.label[p];
      focal[p] = labels.label[p] < 0 ? T(0) : through_focal[labels.label[p]];
      overlap[p] = labels.label[p] < 0 ? T(0) : through_overlap[labels.label[p]];
    }
    const T gamma = T(a.gamma);
    for (int64_t v = 0; v < padded / n; v += kUnroll) {
      Vf<T> mean[kUnroll], own_p[kUnroll];
      for (int u = 0; u < kUnroll; ++u) mean[u] = splat(T(0)), own_p[u] = splat(T(1));
      for (int64_t c = 0; c < a.in.C; ++c)
        for (int u = 0; u < kUnroll; ++u) {
          const int64_t at = (v + u) * n;
          const Vf<T> p = exponential<T>(logit(c, v + u) - load(log_sum_exp + at));
          mean[u] += through_probability[c] * p;
          own_p[u] = load_integers<T>(label + at) == integer(c) ? p : own_p[u];
          store(probability.get() + c * kBlock + at, p);
        }
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t at = (v + u) * n;
        const Vf<T> slope = load(focal + at) * focal_slope<T>(own_p[u], gamma) + load(overlap + at) * own_p[u];
        store(own + at, slope);
        store(shift + at, mean[u] + slope);
      }
    }
  }

  template <class Logits>
  DGSEG_INLINE Vf<T> gradient(const Logits&, int64_t c, int64_t v) const {
    const Vi<T> is = load_integers<T>(label + v * n);
    const Vf<T> p = load(probability.get() + c * kBlock + v * n);
    const Vf<T> g = p * (through_probability[c] - load(shift + v * n));
    const Vf<T> whole = is == integer(c) ? g + load(own + v * n) : g;
    // A pixel that does not count has no gradient, whatever its logits are.
    return is < 0 ? splat(T(0)) : whole;
  }
};

struct BackwardJob {
  const FocalDiceBackwardArgs* args;
  const void* rows;
  const void* columns;
};

template <class S>
void backward_task(const BackwardJob& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  const FocalDiceBackwardArgs& a = *job.args;
  BackwardBlock<T> block(a);
  if (!same_size(a.in))
    return gather_upsampled<S>(a.in, *static_cast<const Axis<T>*>(job.rows), *static_cast<const Axis<T>*>(job.columns),
                               a.grad, task, block);
  alignas(64) T gradient[kBlock];
  visit_full_size<S>(a.in, task, [&](const Place& at, const auto& logit) {
    block.read(at.offset, at.count, logit);
    S* to = static_cast<S*>(a.grad.data) + at.image * a.grad.stride_n + at.row * a.grad.stride_h +
            at.column * a.grad.stride_w;
    for (int64_t c = 0; c < a.in.C; ++c) {
      for (int64_t p = 0; p < at.count; p += Lanes<T>::n)
        store(gradient + p, block.gradient(logit, c, p / Lanes<T>::n));
      store_row(to + c * a.grad.stride_c, a.grad.stride_w, gradient, at.count);
    }
  });
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
