// 32 labels of a byte <-> 8 planes of 32 bits, in registers.
#pragma once
#include "../common/cuda_phases.h"

namespace dgseg {
namespace {

constexpr int kPlanes = 8;

// Bytes of a and b, picked by the low three bits of the selector's nibbles.
DGSEG_PHASE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(a, b, selector);
#else
  const uint64_t both = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= uint32_t(both >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
  return result;
#endif
}

// Byte j of word i <-> byte i of word j.
DGSEG_PHASE void transpose_bytes(uint32_t& w0, uint32_t& w1, uint32_t& w2, uint32_t& w3) {
  const uint32_t low01 = pick_bytes(w0, w1, 0x5140), high01 = pick_bytes(w0, w1, 0x7362);
  const uint32_t low23 = pick_bytes(w2, w3, 0x5140), high23 = pick_bytes(w2, w3, 0x7362);
  w0 = pick_bytes(low01, low23, 0x5410);
  w1 = pick_bytes(low01, low23, 0x7632);
  w2 = pick_bytes(high01, high23, 0x5410);
  w3 = pick_bytes(high01, high23, 0x7632);
}

// Bits of a where the mask is set, of b elsewhere. Left to itself, nvcc makes two instructions of it.
DGSEG_PHASE uint32_t choose(uint32_t mask, uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint32_t chosen;
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(chosen) : "r"(mask), "r"(a), "r"(b));
  return chosen;
#else
  return (a & mask) | (b & ~mask);
#endif
}

// Exchanges the high part of a's fields with the low part of b's.
template <int Shift>
DGSEG_PHASE void swap_bits(uint32_t& a, uint32_t& b, uint32_t low_part) {
  const uint32_t low = choose(low_part, a, b << Shift), high = choose(low_part, a >> Shift, b);
  a = low;
  b = high;
}

// 32 bytes in order -> 8 planes: bit i of word[b] = bit b of byte i.
DGSEG_PHASE void bytes_to_planes(uint32_t (&word)[8]) {
  // Byte 8j + m moves to byte j of word m; then the bits of every byte lane are an 8 x 8 matrix to transpose.
  transpose_bytes(word[0], word[2], word[4], word[6]);
  transpose_bytes(word[1], word[3], word[5], word[7]);
  uint32_t m[8] = {word[0], word[2], word[4], word[6], word[1], word[3], word[5], word[7]};
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 4; ++i) swap_bits<4>(m[i], m[i + 4], 0x0f0f0f0fu);
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 8; ++i)
    if ((i & 2) == 0) swap_bits<2>(m[i], m[i + 2], 0x33333333u);
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 8; i += 2) swap_bits<1>(m[i], m[i + 1], 0x55555555u);
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 8; ++i) word[i] = m[i];
}

// Three planes -> 32 bytes of 0..7 in order.
DGSEG_PHASE void planes_to_bytes(uint32_t plane0, uint32_t plane1, uint32_t plane2, uint32_t (&word)[8]) {
  // Two planes side by side, so that one shift and one mask make four bytes.
  const uint32_t even = (plane0 & 0x55555555u) | (plane1 & 0x55555555u) << 1;
  const uint32_t odd = (plane0 >> 1 & 0x55555555u) | (plane1 & 0xaaaaaaaau);
  uint32_t m[8];
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 8; i += 2) {
    m[i] = even >> i & 0x03030303u;
    m[i + 1] = odd >> i & 0x03030303u;
  }
  if (plane2) {
    DGSEG_UNROLL_ALL
    for (int i = 0; i < 8; ++i) m[i] |= (plane2 >> i & 0x01010101u) << 2;
  }
  transpose_bytes(m[0], m[1], m[2], m[3]);
  transpose_bytes(m[4], m[5], m[6], m[7]);
  DGSEG_UNROLL_ALL
  for (int i = 0; i < 4; ++i) {
    word[2 * i] = m[i];
    word[2 * i + 1] = m[4 + i];
  }
}

// 16 bytes at once, where both sides are aligned so.
struct alignas(16) Sixteen {
  uint32_t word[4];
};

DGSEG_PHASE bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace
}  // namespace dgseg
