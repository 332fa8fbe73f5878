// Vectors of the width that this translation unit is compiled for (64, 32 or 16 bytes), on GCC/Clang vector
// extensions: the same kernel source serves AVX-512, AVX2, SSE2 and other processors. Anonymous: see isa.h.
//
//   Lanes<float>::n        16, 8 or 4
//   Lanes<float>::f        the vector; arithmetic, comparisons and `mask ? a : b` are the compiler's
//   Lanes<float>::i        the integer vector of the same shape (comparison results: 0 or -1 per lane)
//
// Storage types are what tensors hold (float, double, Half, BFloat16); kernels compute in float, or in double for
// double. load_row / store_row convert between the two, for any element stride.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dgseg {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float f __attribute__((vector_size(kVectorBytes)));
  typedef int32_t i __attribute__((vector_size(kVectorBytes)));
  typedef int32_t integer;
  static constexpr int n = kVectorBytes / 4;
};
template <>
struct Lanes<double> {
  typedef double f __attribute__((vector_size(kVectorBytes)));
  typedef int64_t i __attribute__((vector_size(kVectorBytes)));
  typedef int64_t integer;
  static constexpr int n = kVectorBytes / 8;
};

#define DGSEG_INLINE inline __attribute__((always_inline))

template <class T>
DGSEG_INLINE typename Lanes<T>::f load(const T* from) {
  typename Lanes<T>::f v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
DGSEG_INLINE typename Lanes<T>::i load_integers(const typename Lanes<T>::integer* from) {
  typename Lanes<T>::i v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
DGSEG_INLINE void store(T* to, typename Lanes<T>::f v) {
  std::memcpy(to, &v, sizeof v);
}
template <class T>
DGSEG_INLINE typename Lanes<T>::f splat(T value) {
  return typename Lanes<T>::f{} + value;
}

template <class To, class From>
DGSEG_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The larger lane; a NaN in b wins, a NaN in a is dropped.
DGSEG_INLINE Lanes<float>::f larger(Lanes<float>::f a, Lanes<float>::f b) {
#if defined(__AVX512F__)
  return bits<Lanes<float>::f>(_mm512_max_ps(bits<__m512>(a), bits<__m512>(b)));
#elif defined(__AVX2__)
  return bits<Lanes<float>::f>(_mm256_max_ps(bits<__m256>(a), bits<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}
DGSEG_INLINE Lanes<double>::f larger(Lanes<double>::f a, Lanes<double>::f b) { return a > b ? a : b; }

// Sum of the lanes, in a fixed order.
template <class T>
DGSEG_INLINE T lane_sum(typename Lanes<T>::f v) {
  T lanes[Lanes<T>::n];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = Lanes<T>::n / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// e^x within 2 ulp for x in [-87, 88]; NaN stays NaN.
DGSEG_INLINE Lanes<float>::f exponential_in_range(Lanes<float>::f x) {
  using f = Lanes<float>::f;
  using i = Lanes<float>::i;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
  f rounded = x * 1.44269504f + magic;
  i n = bits<i>(rounded);
  f whole = rounded - magic;
  f r = x - whole * 0.693359375f;
  r = r + whole * 2.12194440e-4f;
  f p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return bits<f>((n << 23) + bits<i>(p));
}

// Arguments below this are raised to it first: about 1e-38 instead of less.
template <class T>
DGSEG_INLINE typename Lanes<T>::f clamp_exponent(typename Lanes<T>::f x) {
  return larger(splat(sizeof(T) == 4 ? T(-87) : T(-700)), x);
}
template <class T>
DGSEG_INLINE typename Lanes<T>::f exponential(typename Lanes<T>::f x);
template <>
DGSEG_INLINE Lanes<float>::f exponential<float>(Lanes<float>::f x) {
  return exponential_in_range(clamp_exponent<float>(x));
}

// Natural logarithm within 2 ulp for finite x >= 2^-126; NaN stays NaN.
DGSEG_INLINE Lanes<float>::f logarithm(Lanes<float>::f x) {
  using f = Lanes<float>::f;
  using i = Lanes<float>::i;
  i raw = bits<i>(x);
  i exponent = ((raw - 0x3f3504f3) >> 23);  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  f m = bits<f>(raw - (exponent << 23)) - 1.0f;
  f e = __builtin_convertvector(exponent, f);
  f z = m * m;
  f p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  f y = p * m * z;
  y = y + e * -2.12194440e-4f;
  y = y - 0.5f * z;
  f result = m + y + e * 0.693359375f;
  return x == x ? result : x;
}

DGSEG_INLINE Lanes<double>::f exponential_in_range(Lanes<double>::f x) {
  for (int lane = 0; lane < Lanes<double>::n; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}
template <>
DGSEG_INLINE Lanes<double>::f exponential<double>(Lanes<double>::f x) {
  return exponential_in_range(clamp_exponent<double>(x));
}
DGSEG_INLINE Lanes<double>::f logarithm(Lanes<double>::f x) {
  for (int lane = 0; lane < Lanes<double>::n; ++lane) x[lane] = std::log(x[lane]);
  return x;
}

// ---- storage types -------------------------------------------------------------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float to_float(float v) { return v; }
inline double to_float(double v) { return v; }
inline float to_float(BFloat16 v) { return bits<float>(uint32_t(v.bits) << 16); }
inline float to_float(Half v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#else
  uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  if (rest >= 0x7c00) return bits<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Denormals included: 2^112 rescales the exponent.
  return bits<float>(bits<uint32_t>(bits<float>(rest << 13) * 5.192296858534828e33f) | sign);
#endif
}

template <class S>
inline S from_float(float v);
template <>
inline float from_float<float>(float v) {
  return v;
}
template <>
inline BFloat16 from_float<BFloat16>(float v) {
  uint32_t raw = bits<uint32_t>(v);
  if (v != v) return {uint16_t((raw >> 16) | 0x40)};
  return {uint16_t((raw + 0x7fff + ((raw >> 16) & 1)) >> 16)};
}
template <>
inline Half from_float<Half>(float v) {
#if defined(__F16C__)
  return {uint16_t(_cvtss_sh(v, 0))};
#else
  uint32_t raw = bits<uint32_t>(v), sign = raw >> 16 & 0x8000;
  raw &= 0x7fffffff;
  if (raw > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (raw >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
  if (raw < 0x38800000) {  // becomes a denormal: let the adder round
    float shifted = bits<float>(raw) + 0.5f;
    return {uint16_t(sign | (bits<uint32_t>(shifted) - 0x3f000000))};
  }
  raw += 0xc8000fff + ((raw >> 13) & 1);
  return {uint16_t(sign | raw >> 13)};
#endif
}

template <class S>
constexpr bool is_half = false;
template <>
constexpr bool is_half<Half> = true;

// What a kernel computes in for tensors of storage type S.
template <class S>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

// Rows of a few hundred bytes: vectors, because compilers turn both a loop and memcpy into `rep movs`, whose start-up
// costs more than the row.
template <class T>
DGSEG_INLINE void copy_row(T* __restrict to, const T* __restrict from, int64_t count) {
  constexpr int64_t n = Lanes<T>::n;
  int64_t i = 0;
  for (; i + n <= count; i += n) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

// to[0..count) = from[0], from[stride], ...
template <class S, class T>
DGSEG_INLINE void load_row(T* __restrict to, const S* __restrict from, int64_t stride, int64_t count) {
  if constexpr (sizeof(S) == sizeof(T)) {
    if (stride == 1) return copy_row(to, from, count);
  }
#if defined(__F16C__)
  if constexpr (is_half<S>) {  // compilers do not vectorise this conversion by themselves
    if (stride == 1) {
      int64_t i = 0;
      for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
      for (; i < count; ++i) to[i] = to_float(from[i]);
      return;
    }
  }
#endif
  if (stride == 1)
    for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i * stride]);
}
template <class S, class T>
DGSEG_INLINE void store_row(S* __restrict to, int64_t stride, const T* __restrict from, int64_t count) {
#if defined(__F16C__)
  if constexpr (is_half<S>) {
    if (stride == 1) {
      int64_t i = 0;
      for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
      for (; i < count; ++i) to[i] = from_float<S>(from[i]);
      return;
    }
  }
#endif
  if constexpr (sizeof(S) < sizeof(T)) {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = from_float<S>(from[i]);
  } else if (stride == 1) {
    copy_row(to, from, count);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = from[i];
  }
}

// Labels of any integer type as int32: ignored stays recognisable as -1, anything outside [0, classes) becomes -2.
template <class L>
DGSEG_INLINE void load_labels(int32_t* __restrict to, const L* __restrict from, int64_t stride, int64_t count,
                              int64_t classes, int64_t ignore_index) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t v = int64_t(from[i * stride]);
    to[i] = v == ignore_index ? -1 : (v < 0 || v >= classes) ? -2 : int32_t(v);
  }
}

}  // namespace
}  // namespace dgseg
