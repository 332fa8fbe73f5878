// Strips without ignored pixels: one bit per pair of neighbours, windows grown by OR-ing shifted words. cpu.cpp says
// why.
#pragma once
#include <cstring>

#include "../common/scratch.h"
#include "kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dgseg::DGSEG_ISA {
namespace {

inline uint64_t differ64(const uint8_t* a, const uint8_t* b) {
#if defined(__AVX512BW__)
  return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
#elif defined(__AVX2__)
  uint64_t bits = 0;
  for (int i = 0; i < 2; ++i) {
    __m256i same = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a) + i),
                                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + i));
    bits |= uint64_t(uint32_t(~_mm256_movemask_epi8(same))) << (32 * i);
  }
  return bits;
#elif defined(__SSE2__)
  uint64_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    __m128i same = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a) + i),
                                  _mm_loadu_si128(reinterpret_cast<const __m128i*>(b) + i));
    bits |= uint64_t(uint16_t(~_mm_movemask_epi8(same))) << (16 * i);
  }
  return bits;
#else
  uint64_t bits = 0;
  for (int i = 0; i < 64; ++i) bits |= uint64_t(a[i] != b[i]) << i;
  return bits;
#endif
}

inline bool any_equal64(const uint8_t* a, uint8_t value) {
#if defined(__AVX512BW__)
  return _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(a), _mm512_set1_epi8(char(value))) != 0;
#else
  uint8_t hit = 0;
  for (int i = 0; i < 64; ++i) hit |= uint8_t(a[i] == value);
  return hit != 0;
#endif
}

// out[i] = value where bit i is set, for 64 bytes.
inline void set_where64(uint8_t* out, uint64_t bits, uint8_t value) {
#if defined(__AVX512BW__)
  _mm512_storeu_si512(out, _mm512_mask_mov_epi8(_mm512_loadu_si512(out), bits, _mm512_set1_epi8(char(value))));
#else
  for (int byte = 0; byte < 8; ++byte, bits >>= 8) {
    // Spread 8 bits over 8 bytes: isolate bit i in byte i, then turn it into 0x00 or 0xff.
    uint64_t spread = ((bits & 0xff) * 0x0101010101010101ull) & 0x8040201008040201ull;
    spread = ((spread + 0x7f7f7f7f7f7f7f7full) | spread) >> 7 & 0x0101010101010101ull;
    uint64_t mask = spread * 0xff, old;
    std::memcpy(&old, out + 8 * byte, 8);
    old = (old & ~mask) | (spread * value);
    std::memcpy(out + 8 * byte, &old, 8);
  }
#endif
}

// A strip of bit rows; `margin` zero words stand left and right of each row so that shifts need no edge cases.
struct BitStrip {
  int64_t words, margin, pitch, rows;
  BitStrip(int64_t width, int64_t largest, int64_t rows_)
      : words((width + largest + 63) / 64 + 1), margin(largest / 64 + 1), pitch(words + 2 * margin), rows(rows_) {}
  int64_t size() const { return pitch * rows; }
};

// to |= from moved by `shift` columns to the right (positive) or left (negative).
inline void or_shifted(uint64_t* __restrict to, const uint64_t* __restrict from, int64_t words, int64_t shift) {
  int64_t whole = (shift < 0 ? -shift : shift) / 64;
  int bits = int((shift < 0 ? -shift : shift) % 64);
  if (shift >= 0) {
    if (bits == 0)
      for (int64_t i = 0; i < words; ++i) to[i] |= from[i - whole];
    else
      for (int64_t i = 0; i < words; ++i) to[i] |= from[i - whole] << bits | from[i - whole - 1] >> (64 - bits);
  } else {
    if (bits == 0)
      for (int64_t i = 0; i < words; ++i) to[i] |= from[i + whole];
    else
      for (int64_t i = 0; i < words; ++i) to[i] |= from[i + whole] >> bits | from[i + whole + 1] << (64 - bits);
  }
}

// Bits are stored with x offset R, so that windows centred left of the image exist too (they are needed to grow).
// Returns false if an ignored pixel was met: the caller then takes the byte path.
bool strip_by_bits(const BoundaryBandsArgs& a, const uint8_t* const* label_rows, int64_t y0, int64_t y1, bool check,
                   uint8_t ignore, uint8_t* out) {
  const int64_t R = a.radii[a.bands - 1], W = a.out_width, H = a.out_height;
  const int64_t first = y0 - R, rows = y1 - y0 + 2 * R;  // strip with halo, may reach outside the image
  const BitStrip strip(W + R, R + 64, rows);
  Scratch<uint64_t> window_memory(strip.size()), grown_memory(strip.pitch), across_memory(strip.size()),
      down_memory(strip.size());
  uint64_t* window = window_memory.get();
  uint64_t* grown = grown_memory.get();
  uint64_t* across = across_memory.get();  // label[y][x] != label[y][x+1]
  uint64_t* down = down_memory.get();      // label[y][x] != label[y+1][x]
  std::memset(across, 0, size_t(strip.size()) * 8);
  std::memset(down, 0, size_t(strip.size()) * 8);
  std::memset(grown, 0, size_t(strip.pitch) * 8);
  std::memset(window, 0, size_t(strip.size()) * 8);
  // Edges are written at word offset `lead`, so that bit position = x + 64 * lead.
  const int64_t lead = (R + 63) / 64;
  const int64_t blocks = (W + 63) / 64;
  alignas(64) uint8_t here_tail[192], below_tail[128];
  for (int64_t y = first < 0 ? 0 : first; y < first + rows && y < H; ++y) {
    const uint8_t* here = label_rows[y - first];
    const uint8_t* below = y + 1 < H && y + 1 < first + rows ? label_rows[y + 1 - first] : nullptr;
    uint64_t* across_row = across + (y - first) * strip.pitch + strip.margin + lead;
    uint64_t* down_row = down + (y - first) * strip.pitch + strip.margin + lead;
    bool met = false;
    int64_t full = W > 64 ? (W - 1) / 64 : 0;  // blocks whose right neighbour exists
    for (int64_t b = 0; b < full; ++b) {
      across_row[b] = differ64(here + 64 * b, here + 64 * b + 1);
      if (below) down_row[b] = differ64(here + 64 * b, below + 64 * b);
      if (check) met |= any_equal64(here + 64 * b, ignore);
    }
    for (int64_t b = full; b < blocks; ++b) {  // the last block, and nothing beyond the row is read
      int64_t left = W - 64 * b < 64 ? W - 64 * b : 64;
      std::memset(here_tail, here[W - 1], sizeof here_tail);
      std::memcpy(here_tail, here + 64 * b, size_t(left));
      across_row[b] = differ64(here_tail, here_tail + 1);
      if (below) {
        std::memcpy(below_tail, here_tail, sizeof below_tail);
        std::memcpy(below_tail, below + 64 * b, size_t(left));
        down_row[b] = differ64(here_tail, below_tail);
      }
      if (check) met |= any_equal64(here_tail, ignore);
    }
    if (met) return false;
  }
  // Radius 1: pairs inside a 3x3 window.
  const int64_t words = strip.words;
  for (int64_t y = 0; y < rows; ++y) {
    uint64_t* to = window + y * strip.pitch + strip.margin;
    const uint64_t* d0 = y > 0 ? down + (y - 1) * strip.pitch + strip.margin : nullptr;
    const uint64_t* d1 = down + y * strip.pitch + strip.margin;
    const uint64_t* a0 = y > 0 ? across + (y - 1) * strip.pitch + strip.margin : nullptr;
    const uint64_t* a1 = across + y * strip.pitch + strip.margin;
    const uint64_t* a2 = y + 1 < rows ? across + (y + 1) * strip.pitch + strip.margin : nullptr;
    uint64_t* rows_or = grown + strip.margin;
    // A pair (x, x+1) lies in the windows of x and x+1; a vertical pair at x in those of x-1, x, x+1.
    for (int64_t i = -1; i <= words; ++i) {
      uint64_t v = d1[i], h = a1[i];
      if (d0) v |= d0[i];
      if (a0) h |= a0[i];
      if (a2) h |= a2[i];
      rows_or[i] = v;
      to[i] = h;
    }
    // to = h | h << 1 | v | v << 1 | v >> 1, words from right to left so that h stays readable.
    for (int64_t i = words - 1; i >= 0; --i)
      to[i] |= to[i] << 1 | to[i - 1] >> 63 | rows_or[i] | rows_or[i] << 1 | rows_or[i - 1] >> 63 | rows_or[i] >> 1 |
               rows_or[i + 1] << 63;
    to[-1] = to[words] = 0;
  }
  std::memset(grown, 0, size_t(strip.pitch) * 8);
  Scratch<uint64_t> next_memory(strip.size());
  uint64_t* next = next_memory.get();
  std::memset(next, 0, size_t(strip.size()) * 8);
  Scratch<uint64_t> hit_memory((y1 - y0) * blocks * a.bands);
  uint64_t* hit = hit_memory.get();
  int64_t r = 1;
  for (int band = 0; band < a.bands; ++band) {
    while (r < a.radii[band]) {
      int64_t s = a.radii[band] - r < r ? a.radii[band] - r : r;
      for (int64_t y = s; y < rows - s; ++y) {
        const uint64_t* up = window + (y - s) * strip.pitch;
        const uint64_t* low = window + (y + s) * strip.pitch;
        for (int64_t i = 0; i < strip.pitch; ++i) grown[i] = up[i] | low[i];
        uint64_t* to = next + y * strip.pitch + strip.margin;
        std::memset(to, 0, size_t(words) * 8);
        or_shifted(to, grown + strip.margin, words, s);
        or_shifted(to, grown + strip.margin, words, -s);
      }
      uint64_t* swap = window;
      window = next;
      next = swap;
      r += s;
    }
    for (int64_t y = y0; y < y1; ++y)
      std::memcpy(hit + ((y - y0) * a.bands + band) * blocks, window + (y - first) * strip.pitch + strip.margin + lead,
                  size_t(blocks) * 8);
  }
  alignas(64) uint8_t tail[64];
  for (int64_t y = y0; y < y1; ++y) {
    const uint64_t* bits = hit + (y - y0) * a.bands * blocks;
    uint8_t* row = out + y * W;
    for (int64_t b = 0; b < blocks; ++b) {
      bool whole = 64 * b + 64 <= W;
      uint8_t* to = whole ? row + 64 * b : tail;
      std::memset(to, 0, 64);
      for (int band = a.bands - 1; band >= 0; --band) set_where64(to, bits[band * blocks + b], uint8_t(band + 1));
      if (!whole) std::memcpy(row + 64 * b, tail, size_t(W - 64 * b));
    }
  }
  return true;
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
