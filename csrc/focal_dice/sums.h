// First pass: logits -> log-sum-exp of every pixel, and the sums over pixels that both losses are made of.
#pragma once
#include "focal.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

// Sums over pixels by class: in lanes of T while they are short, then in double.
template <class T>
class ClassSums {
 public:
  explicit ClassSums(int64_t C) : C_(C), lanes_(kFocalDiceRows * C * Lanes<T>::n), totals_(kFocalDiceRows * C) {
    std::memset(lanes_.get(), 0, size_t(kFocalDiceRows * C * Lanes<T>::n) * sizeof(T));
    std::memset(totals_.get(), 0, size_t(kFocalDiceRows * C) * sizeof(double));
  }

  DGSEG_INLINE T* row(FocalDiceRow row) const { return lanes_.get() + row * C_ * Lanes<T>::n; }

  void count(int64_t pixels) {
    pixels_ += pixels;
    if (pixels_ >= kLongest) pour();
  }

  void pour_into(double* sums) {
    pour();
    for (int64_t i = 0; i < kFocalDiceRows * C_; ++i) sums[i] = totals_[i];
  }

 private:
  static constexpr int64_t kLongest = 2048;

  void pour() {
    for (int64_t i = 0; i < kFocalDiceRows * C_; ++i) {
      totals_[i] += double(lane_sum<T>(load(lanes_.get() + i * Lanes<T>::n)));
      store(lanes_.get() + i * Lanes<T>::n, splat(T(0)));
    }
    pixels_ = 0;
  }

  int64_t C_, pixels_ = 0;
  Scratch<T> lanes_;
  Scratch<double> totals_;
};

// Everything that the blocks of a task share.
template <class T>
struct SumsVisitor {
  const FocalDiceSumsArgs& a;
  BadLabel& bad;
  ClassSums<T>& sums;
  BlockLabels& labels;
  T* exponentials;  // [C][kUnroll vectors]

  template <class Logits>
  __attribute__((noinline)) void operator()(const Place& at, const Logits& logit) const {
    constexpr int n = Lanes<T>::n;
    const int64_t count = at.count;
    if (read_labels(a.in, at.offset, count, labels)) note_bad(a.in, at.image, at.offset, count, bad);
    alignas(64) T own[kBlock], log_sum_exp[kBlock];
    alignas(64) typename Lanes<T>::integer label[kBlock];
    for (int64_t p = 0; p < kBlock; ++p) label[p] = labels.label[p];
    for (int64_t p = 0; p < count; ++p) own[p] = labels.label[p] >= 0 ? logit.at(labels.label[p], p) : T(0);
    for (int64_t p = count; p < round_up(count, kUnroll * n); ++p) own[p] = 0;
    for (int64_t v = 0; v * n < count; v += kUnroll) add(logit, v, label + v * n, own + v * n, log_sum_exp + v * n);
    copy_row(static_cast<T*>(a.log_sum_exp) + at.offset, log_sum_exp, count);
    sums.count(count);
  }

 private:
  // The vectors v to v + kUnroll.
  template <class Logits>
  DGSEG_INLINE void add(const Logits& logit, int64_t v, const typename Lanes<T>::integer* labels_of, const T* own,
                        T* log_sum_exp) const {
    constexpr int n = Lanes<T>::n;
    const int64_t C = a.in.C;
    const T gamma = T(a.gamma);
    Vf<T> biggest[kUnroll], sum[kUnroll], focal[kUnroll], scale[kUnroll];
    Vi<T> label[kUnroll];
    for (int u = 0; u < kUnroll; ++u) {
      biggest[u] = logit(0, v + u), sum[u] = splat(T(0));
      label[u] = load_integers<T>(labels_of + u * n);
    }
    for (int64_t c = 1; c < C; ++c)
      for (int u = 0; u < kUnroll; ++u) biggest[u] = larger(biggest[u], logit(c, v + u));
    for (int64_t c = 0; c < C; ++c)
      for (int u = 0; u < kUnroll; ++u) {
        const Vf<T> e = exponential<T>(logit(c, v + u) - biggest[u]);
        sum[u] += e;
        store(exponentials + (c * kUnroll + u) * n, e);
      }
    for (int u = 0; u < kUnroll; ++u) {
      const Vi<T> counts = label[u] >= 0;
      const Vf<T> log_sum = logarithm(sum[u]);
      const Vf<T> cross_entropy = (biggest[u] - load(own + u * n)) + log_sum;
      focal[u] = focal_loss<T>(exponential<T>(-cross_entropy), cross_entropy, gamma);
      scale[u] = T(1) / sum[u];
      store(log_sum_exp + u * n, counts ? biggest[u] + log_sum : splat(T(0)));
    }
    for (int64_t c = 0; c < C; ++c) {
      Vf<T> by_focal = load(sums.row(kFocal) + c * n), intersection = load(sums.row(kIntersection) + c * n);
      Vf<T> probability = load(sums.row(kProbability) + c * n), pixels = load(sums.row(kPixels) + c * n);
      for (int u = 0; u < kUnroll; ++u) {
        // Selected, not multiplied: an ignored pixel's NaN stays its own.
        const Vf<T> p = label[u] >= 0 ? load(exponentials + (c * kUnroll + u) * n) * scale[u] : splat(T(0));
        const Vi<T> is_own = label[u] == typename Lanes<T>::integer(c);
        probability += p;
        intersection += is_own ? p : splat(T(0));
        by_focal += is_own ? focal[u] : splat(T(0));
        pixels += is_own ? splat(T(1)) : splat(T(0));
      }
      store(sums.row(kFocal) + c * n, by_focal), store(sums.row(kIntersection) + c * n, intersection);
      store(sums.row(kProbability) + c * n, probability), store(sums.row(kPixels) + c * n, pixels);
    }
  }
};

struct SumsJob {
  FocalDiceSumsArgs* args;
  double* sums;   // [tasks, 4, C]
  BadLabel* bad;  // [tasks]
  const void* rows;
  const void* columns;
};

template <class S>
void sums_task(const SumsJob& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  const LogitsAndLabels& in = job.args->in;
  ClassSums<T> sums(in.C);
  BlockLabels labels;
  Scratch<T> exponentials(in.C * kUnroll * Lanes<T>::n);
  const SumsVisitor<T> visitor{*job.args, job.bad[task], sums, labels, exponentials.get()};
  if (same_size(in))
    visit_full_size<S>(in, task, visitor);
  else
    visit_upsampled<S>(in, *static_cast<const Axis<T>*>(job.rows), *static_cast<const Axis<T>*>(job.columns), task,
                       visitor);
  sums.pour_into(job.sums + task * kFocalDiceRows * in.C);
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
