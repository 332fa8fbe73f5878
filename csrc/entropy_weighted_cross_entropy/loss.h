// Second pass: the maps of the first -> weights, and the sums that make up the loss. Touches no logits.
#pragma once
#include "block.h"

namespace dgseg::DGSEG_ISA {
namespace {

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
  BandedLabels labels;
  alignas(64) T weight[kBlock], entropy[kBlock], loss[kBlock];
  LossResult& result = job.results[task];
  for (int64_t begin = segment; begin < end; begin += kBlock) {
    const int64_t count = end - begin < kBlock ? end - begin : kBlock, offset = image * in.H * in.W + begin;
    read_labels(in, a.bands, offset, count, labels);
    std::memset(loss, 0, sizeof loss);
    copy_row(loss, static_cast<const T*>(a.cross_entropy) + offset, count);
    for (int64_t p = 0; p < kBlock; ++p) weight[p] = labels.label[p] >= 0 ? scale : T(0);
    if (class_weight)
      for (int64_t p = 0; p < count; ++p) weight[p] *= labels.label[p] >= 0 ? class_weight[labels.label[p]] : T(0);
    if (a.bands) {
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
      weighted += load(weight + p) * load(loss + p);  // ignored pixels hold 0 in both; NaN times weight 0 stays NaN
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

}  // namespace
}  // namespace dgseg::DGSEG_ISA
