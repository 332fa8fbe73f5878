// Photometric distortion in one pass over an image, uint8 to uint8.
//
// Must move: 3 bytes in and 3 bytes out per pixel, 1.6 MB for 512 x 512. Must compute: some 60 operations and one
// division per pixel where the hue turns, so it is arithmetic that takes the time.
//
// HSV is never stored. With V = max, d = V - min and S = d / V, scaling S by a gives d' = min(V, a * d). Without a turn
// of the hue a channel c becomes V - (V - c) * d' / d; with one, V - d' * clamp(min(k, 4 - k), 0, 1) where
// k = (n + h) mod 6, h is the hue in sixths of a turn and n = 5, 3, 1 for red, green and blue.
//
// Compiled without contraction of multiply and add (CMakeLists.txt): every instruction set gives the same pixels.
#include <cstring>

#include "../common/simd.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

using f = Lanes<float>::f;
using i = Lanes<float>::i;
constexpr int n = Lanes<float>::n;
typedef uint8_t bytes __attribute__((vector_size(n)));

DGSEG_INLINE f from_bytes(const uint8_t* from) {
  bytes v;
  std::memcpy(&v, from, sizeof v);
  return __builtin_convertvector(__builtin_convertvector(v, i), f);
}

DGSEG_INLINE void to_bytes(uint8_t* to, f v) {
  const bytes rounded = __builtin_convertvector(__builtin_convertvector(v + 0.5f, i), bytes);
  std::memcpy(to, &rounded, sizeof rounded);
}

DGSEG_INLINE f smaller(f a, f b) { return a < b ? a : b; }
DGSEG_INLINE f in_range(f v) { return smaller(larger(v, f{}), splat(255.0f)); }

// The share of d' by which a channel lies below V.
DGSEG_INLINE f drop(f sector) {
  const f k = sector >= 6.0f ? sector - 6.0f : sector;
  return smaller(larger(smaller(k, 4.0f - k), f{}), splat(1.0f));
}

template <bool kTurn>
DGSEG_INLINE void saturate_and_turn(f& r, f& g, f& b, float saturation, float hue) {
  const f value = larger(larger(r, g), b);
  const f range = value - smaller(smaller(r, g), b);
  const f wanted = smaller(value, range * saturation);
  const f inverse = range > 0.0f ? 1.0f / range : f{};
  if constexpr (kTurn) {
    f h = value == r ? (g - b) * inverse : value == g ? 2.0f + (b - r) * inverse : 4.0f + (r - g) * inverse;
    h = h + hue;
    h = h < 0.0f ? h + 6.0f : h;
    h = h >= 6.0f ? h - 6.0f : h;
    r = value - wanted * drop(h + 5.0f);
    g = value - wanted * drop(h + 3.0f);
    b = value - wanted * drop(h + 1.0f);
  } else {
    const f share = wanted * inverse;
    r = value - (value - r) * share;
    g = value - (value - g) * share;
    b = value - (value - b) * share;
  }
}

DGSEG_INLINE void distort_vector(const uint8_t* in, uint8_t* out, int64_t plane, const Distortion& d) {
  f r = from_bytes(in), g = from_bytes(in + plane), b = from_bytes(in + 2 * plane);
  const float first = d.contrast_first ? d.contrast : 1.0f;
  r = in_range(in_range(r + d.brightness) * first);
  g = in_range(in_range(g + d.brightness) * first);
  b = in_range(in_range(b + d.brightness) * first);
  if (d.hue != 0.0f)
    saturate_and_turn<true>(r, g, b, d.saturation, d.hue);
  else if (d.saturation != 1.0f)
    saturate_and_turn<false>(r, g, b, d.saturation, 0.0f);
  const float last = d.contrast_first ? 1.0f : d.contrast;
  to_bytes(out, in_range(r * last));
  to_bytes(out + plane, in_range(g * last));
  to_bytes(out + 2 * plane, in_range(b * last));
}

}  // namespace

void distort(const uint8_t* in, uint8_t* out, int64_t pixels, const Distortion& distortion) {
  int64_t p = 0;
  for (; p + n <= pixels; p += n) distort_vector(in + p, out + p, pixels, distortion);
  if (p == pixels) return;
  uint8_t padded[3 * n] = {}, result[3 * n];
  for (int c = 0; c < 3; ++c) std::memcpy(padded + c * n, in + c * pixels + p, size_t(pixels - p));
  distort_vector(padded, result, n, distortion);
  for (int c = 0; c < 3; ++c) std::memcpy(out + c * pixels + p, result + c * n, size_t(pixels - p));
}

}  // namespace dgseg::DGSEG_ISA
