// The order in which pixels update their prototype: ascending 63-bit keys, each a function of (seed, step, sample id,
// pixel index) alone. The same in torch: dgseg/ops/prototype_ema/reference.py. Anonymous: see common/isa.h.
#pragma once
#include <cstdint>

namespace dgseg {
namespace {

// Takes one more number into a running state: a Weyl step per number, then the splitmix64 finaliser.
inline uint64_t absorb(uint64_t state, uint64_t number) {
  uint64_t z = state + (number + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

inline uint64_t sample_state(int64_t seed, int64_t step, int64_t sample_id) {
  return absorb(absorb(absorb(0, uint64_t(seed)), uint64_t(step)), uint64_t(sample_id));
}

// 63 bits, so that signed and unsigned comparison agree.
inline uint64_t pixel_key(uint64_t state_of_sample, uint64_t pixel) { return absorb(state_of_sample, pixel) >> 1; }

}  // namespace
}  // namespace dgseg
