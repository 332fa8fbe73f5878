// Random numbers and noise as functions of integers: no state but a counter, no libm, so that every machine agrees.
// Anonymous, like everything that a cpu.cpp includes: see ../common/isa.h.
#pragma once
#include <cstdint>

namespace dgseg {
namespace {

inline uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

inline uint32_t mix32(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

inline float unit(uint32_t bits) { return float(int32_t(bits >> 8)) * 0x1p-24f; }  // [0, 1)

// Every draw advances the counter, and C++ leaves the order of a call's arguments and of most operators' operands to
// the compiler: no two draws stand side by side in either. Braced initialisers and declarators go from left to right.
struct Random {
  uint64_t key, counter = 0;

  Random(uint64_t key, uint64_t stream) : key(mix64(key ^ mix64(stream + 0x9e3779b97f4a7c15ull))) {}
  uint32_t bits() { return uint32_t(mix64(key + ++counter * 0x9e3779b97f4a7c15ull) >> 32); }
  float uniform() { return unit(bits()); }
  float between(float low, float high) { return low + (high - low) * uniform(); }
  bool chance(float probability) { return uniform() < probability; }
  int below(int n) { return int((uint64_t(bits()) * uint64_t(n)) >> 32); }
};

// Callers keep |v| below 2^30.
inline int floor_int(float v) {
  const int i = int(v);
  return i - (float(i) > v);
}

inline uint32_t lattice(int x, int y, uint32_t seed) {
  return mix32(uint32_t(x) * 0x9e3779b1u + mix32(uint32_t(y) * 0x85ebca77u + seed));
}

// Smooth noise in [-1, 1] with one lattice point per unit.
[[gnu::always_inline]] inline float noise_inline(float x, float y, uint32_t seed) {
  const int i = floor_int(x), j = floor_int(y);
  float u = x - float(i), v = y - float(j);
  u = u * u * (3.0f - 2.0f * u);
  v = v * v * (3.0f - 2.0f * v);
  const float a = unit(lattice(i, j, seed)), b = unit(lattice(i + 1, j, seed));
  const float c = unit(lattice(i, j + 1, seed)), d = unit(lattice(i + 1, j + 1, seed));
  const float top = a + u * (b - a), bottom = c + u * (d - c);
  return 2.0f * (top + v * (bottom - top)) - 1.0f;
}

[[gnu::always_inline]] inline float noise2_inline(float x, float y, uint32_t seed) {
  return 0.65f * noise_inline(x, y, seed) + 0.35f * noise_inline(2.1f * x + 5.0f, 2.1f * y, seed ^ 0x51ed27u);
}

inline float noise(float x, float y, uint32_t seed) { return noise_inline(x, y, seed); }
inline float noise2(float x, float y, uint32_t seed) {
  return 0.65f * noise(x, y, seed) + 0.35f * noise(2.1f * x + 5.0f, 2.1f * y, seed ^ 0x51ed27u);
}

// Along a row of places (x[i] * first * second, y): many at once, by the vectors that these loops become.
inline void noise_row(const float* __restrict x, float first, float second, float y, uint32_t seed, int count,
                      float* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = noise_inline(x[i] * first * second, y, seed);
}
inline void noise2_row(const float* __restrict x, float first, float second, float y, uint32_t seed, int count,
                       float* __restrict out) {
  for (int i = 0; i < count; ++i) out[i] = noise2_inline(x[i] * first * second, y, seed);
}

}  // namespace
}  // namespace dgseg
