// First pass: logits -> per pixel log-sum-exp, entropy (in bands) and cross-entropy; moments of the band entropy.
#pragma once
#include "block.h"

namespace dgseg::DGSEG_ISA {
namespace {

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
                                             const BandedLabels& labels, PixelMaps<T>& maps, EntropyMoments& moments) {
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
  if (a.bands) {
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

// Every block of a task: its maps, and its share of the moments.
template <class T>
struct PixelVisitor {
  const EntropyPixelsArgs& a;
  TaskResult& result;
  BandedLabels& labels;
  PixelMaps<T>& maps;

  template <class Logits>
  DGSEG_INLINE void operator()(const Place& at, const Logits& logit) const {
    if (read_labels(a.in, a.bands, at.offset, at.count, labels))
      note_bad(a.in, at.image, at.offset, at.count, result.bad);
    if (a.bands)
      pixel_block<T, true>(a.in.C, at.count, logit, labels, maps);
    else
      pixel_block<T, false>(a.in.C, at.count, logit, labels, maps);
    finish_pixels(a, at.offset, at.count, labels, maps, result.moments);
  }
};

template <class S>
void pixels_task_full(const Job<EntropyPixelsArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  BandedLabels labels;
  PixelMaps<T> maps;
  visit_full_size<S>(job.args->in, task, PixelVisitor<T>{*job.args, job.results[task], labels, maps});
}

template <class S>
void pixels_task_up(const Job<EntropyPixelsArgs>& job, int64_t task) {
  using T = typename ComputeType<S>::type;
  BandedLabels labels;
  PixelMaps<T> maps;
  visit_upsampled<S>(job.args->in, *static_cast<const Axis<T>*>(job.rows), *static_cast<const Axis<T>*>(job.columns),
                     task, PixelVisitor<T>{*job.args, job.results[task], labels, maps});
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
