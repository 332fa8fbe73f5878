// Bilinear upsampling along one axis, vectorised: tables of where every output reads, whole rows interpolated, and
// the transpose. bilinear.h says where that is. Anonymous: see isa.h.
#pragma once
#include "bilinear.h"
#include "scratch.h"
#include "simd.h"

namespace dgseg {
namespace {

template <class T>
class Axis {
 public:
  // Tables reach `kPad` entries beyond the end (repeating the last), so that whole vectors may be read anywhere.
  static constexpr int64_t kPad = 128;

  Axis(int64_t in, int64_t out) : in_(in), out_(out), low_(out + kPad), high_(out + kPad), fraction_(out + kPad) {
    for (int64_t i = 0; i < out + kPad; ++i) {
      const int64_t at = i < out ? i : out - 1;
      const Source from = source(at, in, out);
      low_[i] = int32_t(from.index);
      high_[i] = int32_t(from.index + (in != out && from.index + 1 < in));
      fraction_[i] = T(from.numerator) / T(2 * out);
    }
  }

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t low(int64_t i) const { return low_[i]; }
  int64_t high(int64_t i) const { return high_[i]; }
  T fraction(int64_t i) const { return fraction_[i]; }

  // Outputs with low == interval form the range [first(interval), first(interval + 1)).
  int64_t first(int64_t interval) const { return interval >= in_ ? out_ : first_output(interval, in_, out_); }

  // to[0..count rounded up to whole vectors) = row interpolated at outputs i0...; `row` must be readable for two
  // vectors beyond its end. Needs out >= in, so that neighbouring outputs are at most one source element apart.
  DGSEG_INLINE void interpolate(T* __restrict to, const T* __restrict row, int64_t i0, int64_t count) const {
    constexpr int n = Lanes<T>::n;
    for (int64_t i = 0; i < count; i += n) {
      typename Lanes<T>::f below, above;
      pick(row, i0 + i, below, above);
      store(to + i, below + load(fraction_.get() + i0 + i) * (above - below));
    }
  }

  // low_to += the transpose of interpolate: every output's value goes back to the two elements it came from.
  DGSEG_INLINE void scatter(T* __restrict low_to, const T* __restrict values, int64_t i0, int64_t count) const {
    int64_t i = 0;
    while (i < count) {  // runs of outputs between the same two elements
      const int32_t low = low_[i0 + i], high = high_[i0 + i];
      T to_low = 0, to_high = 0;
      for (; i < count && low_[i0 + i] == low; ++i) {
        const T up = fraction_[i0 + i] * values[i];
        to_high += up;
        to_low += values[i] - up;
      }
      low_to[low] += to_low;
      low_to[high] += to_high;
    }
  }

 private:
  DGSEG_INLINE void pick(const T* row, int64_t i, typename Lanes<T>::f& below, typename Lanes<T>::f& above) const {
    const int32_t* low = low_.get() + i;
    const int32_t* high = high_.get() + i;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      const __m512 first = _mm512_loadu_ps(row + low[0]), second = _mm512_loadu_ps(row + low[0] + 16);
      const __m512i base = _mm512_set1_epi32(low[0]);
      below = bits<typename Lanes<T>::f>(
          _mm512_permutex2var_ps(first, _mm512_sub_epi32(_mm512_loadu_si512(low), base), second));
      above = bits<typename Lanes<T>::f>(
          _mm512_permutex2var_ps(first, _mm512_sub_epi32(_mm512_loadu_si512(high), base), second));
      return;
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
      const __m256 first = _mm256_loadu_ps(row + low[0]), second = _mm256_loadu_ps(row + low[0] + 8);
      const __m256i base = _mm256_set1_epi32(low[0]);
      auto gather = [&](const int32_t* index) {
        const __m256i at = _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), base);
        const __m256 a = _mm256_permutevar8x32_ps(first, at), b = _mm256_permutevar8x32_ps(second, at);
        return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(7))));
      };
      below = bits<typename Lanes<T>::f>(gather(low));
      above = bits<typename Lanes<T>::f>(gather(high));
      return;
    }
#endif
    for (int lane = 0; lane < Lanes<T>::n; ++lane) below[lane] = row[low[lane]], above[lane] = row[high[lane]];
  }

  int64_t in_, out_;
  Scratch<int32_t> low_, high_;
  Scratch<T> fraction_;
};

}  // namespace
}  // namespace dgseg
