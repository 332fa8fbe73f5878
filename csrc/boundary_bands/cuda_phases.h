// The CUDA kernels of boundary_bands, as phases that the native test runs on the CPU (see common/cuda_phases.h).
//
// Must move: one read of the labels, one write of the bands: 2 bytes a pixel for uint8, so about 15 instructions a
// pixel are all that a Hopper multiprocessor has time for. Everything therefore happens on words of 32 pixels.
//
// A block does a tile of kTileRows x 32 * kTileWords pixels with a halo of R rows and one word. Labels are transposed
// into bit planes (plane b: bit b of 32 labels). From these come, per word, the pairs of valid neighbours that differ;
// windows without ignored pixels hold two classes exactly when they hold such a pair, and grow by shifting and OR-ing
// as in cpu.cpp. Words with ignored pixels within reach are decided plane by plane: a window holds two classes exactly
// when some plane has both a 0 and a 1 among the window's valid pixels. Wide labels take one round per byte in use.
//
// Radii beyond kTileRadius, or more than kTileBands of them, take two passes through memory instead: running minima and
// maxima along rows, then along columns.
//
// Legend: R largest radius; p position of a word in the tile with halo, row * kPitch + column; bit i of a word is the
// pixel x + i.
#pragma once
#include "../common/cuda_phases.h"

namespace dgseg {
namespace {

constexpr int kBandThreads = 256;
constexpr int kTileWords = 16, kTileRows = 32;
constexpr int kPitch = kTileWords + 2;
constexpr int kTileRadius = 16;
constexpr int kTileBands = 6;
constexpr int kPlanes = 8;
constexpr int kInterior = kTileRows * kTileWords;

// What the blocks of one launch share.
struct BandsOnDevice {
  const void* labels;
  LabelType type;
  int64_t stride_image, stride_row, stride_column;
  int64_t in_height, in_width;
  int64_t step;     // labels are sampled at i * step, or
  bool by_size;     // at floor(i * in_height / height)
  int64_t height, width;
  int64_t ignore_index;
  uint8_t* out;  // [images, height, width], contiguous
  int bands;
  int radii[kTileBands];
  int64_t tiles_across, tiles_down, tiles;

  DGSEG_PHASE int64_t source_row(int64_t y) const { return by_size ? y * in_height / height : y * step; }
  DGSEG_PHASE int64_t source_column(int64_t x) const { return by_size ? x * in_width / width : x * step; }
  DGSEG_PHASE int64_t label_offset(int64_t image, int64_t y) const {
    return image * stride_image + source_row(y) * stride_row;
  }
  DGSEG_PHASE int64_t column_offset(int64_t x) const { return source_column(x) * stride_column; }
  DGSEG_PHASE bool dense() const {
    return stride_column == 1 && (by_size ? in_width == width : step == 1);
  }
};

// ---- 32 labels <-> bit planes -------------------------------------------------------------------------------------

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

template <int Shift>
DGSEG_PHASE void swap_bits(uint32_t& a, uint32_t& b, uint32_t mask) {
  const uint32_t low = (a & mask) | (b & mask) << Shift, high = (a >> Shift & mask) | (b & ~mask);
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

// ---- a tile -------------------------------------------------------------------------------------------------------

struct Tile {
  const BandsOnDevice& a;
  int radius, rows, area;  // of the tile with halo
  int64_t image, y0, x0;
  uint32_t* plane;  // [kPlanes][area]; later windows (two), then hits (one plane per band)
  uint32_t* valid;  // [area] inside the image and not ignored
  uint32_t* across;  // [area] bit i: this valid pixel and the valid one to its right differ
  uint32_t* down;    // [area] bit i: this valid pixel and the valid one below differ
  uint32_t* near_ignored;  // [kInterior] 1: an ignored pixel is within reach
  uint32_t* counted;       // [bands][kInterior] hits of those words
  uint32_t* flags;         // [3] some pixel is ignored; planes in use; bytes in use

  static constexpr int64_t words(int radius, int bands) {
    return int64_t(kTileRows + 2 * radius) * kPitch * (kPlanes + 3) + int64_t(kInterior) * (1 + bands) + 3;
  }

  DGSEG_PHASE Tile(const BandsOnDevice& args, int64_t tile, uint32_t* shared)
      : a(args), radius(args.radii[args.bands - 1]), rows(kTileRows + 2 * radius), area(rows * kPitch) {
    image = tile / (a.tiles_across * a.tiles_down);
    y0 = tile / a.tiles_across % a.tiles_down * kTileRows;
    x0 = tile % a.tiles_across * (32 * kTileWords);
    plane = shared;
    valid = plane + kPlanes * area;
    across = valid + area;
    down = across + area;
    near_ignored = down + area;
    counted = near_ignored + kInterior;
    flags = counted + a.bands * kInterior;
  }

  DGSEG_PHASE uint32_t* window(int which) const { return plane + which * area; }
  DGSEG_PHASE uint32_t* hits(int band) const { return plane + (2 + band) * area; }

  // Bits of the word at tile column `column` that lie inside the image; 0 outside its rows.
  DGSEG_PHASE uint32_t inside(int row, int column) const {
    const int64_t y = y0 - radius + row, x = x0 + 32 * (column - 1);
    if (y < 0 || y >= a.height || x < 0 || x >= a.width) return 0;
    return a.width - x >= 32 ? ~0u : (1u << (a.width - x)) - 1;
  }

  DGSEG_PHASE void clear(int thread) const {
    if (thread < 3) flags[thread] = 0;
    for (int p = thread; p < 2 * area; p += kBandThreads) across[p] = 0;  // and down
    for (int i = thread; i < (1 + a.bands) * kInterior; i += kBandThreads) near_ignored[i] = 0;  // and counted
  }

  DGSEG_PHASE void raise_flag(int which, uint32_t bits) const {
    // Most words have nothing new to say: no queue at one address.
    if (bits & ~*static_cast<volatile uint32_t*>(flags + which)) or_atomically(flags + which, bits);
  }

  // Byte `byte` of 32 labels, 4 a word; which of them are valid; which further bytes valid labels use.
  template <class L>
  DGSEG_PHASE void read_wide(const L* row, int64_t x, uint32_t within, int byte, uint32_t (&word)[8], uint32_t& good,
                             uint32_t& further) const {
    good = 0;
    uint64_t used = 0;
    const bool dense = a.dense();
    const bool whole = dense && within == ~0u && aligned(row + x);
    constexpr int kEach = 16 / sizeof(L) < 4 ? 16 / sizeof(L) : 4;  // labels of a 16-byte load, at most one word
    DGSEG_UNROLL_ALL
    for (int k = 0; k < 8; ++k) {
      L label[4] = {};
      if (whole && sizeof(L) > 1) {
        DGSEG_UNROLL_ALL
        for (int part = 0; part < 4; part += kEach) {
          const Sixteen loaded = *reinterpret_cast<const Sixteen*>(row + x + 4 * k + part);
          DGSEG_UNROLL_ALL
          for (int i = 0; i < kEach; ++i) {
            if constexpr (sizeof(L) == 8)
              label[part + i] = L(uint64_t(loaded.word[2 * i + 1]) << 32 | loaded.word[2 * i]);
            else
              label[part + i] = L(loaded.word[i]);
          }
        }
      } else {
        DGSEG_UNROLL_ALL
        for (int i = 0; i < 4; ++i)
          if (within >> (4 * k + i) & 1) label[i] = row[dense ? x + 4 * k + i : a.column_offset(x + 4 * k + i)];
      }
      word[k] = 0;
      DGSEG_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        if ((within >> (4 * k + i) & 1) == 0 || int64_t(label[i]) == a.ignore_index) continue;
        const uint64_t bits = uint64_t(int64_t(label[i])) & (sizeof(L) == 8 ? ~0ull : sizeof(L) == 4 ? 0xffffffffull : 0xffull);
        good |= 1u << (4 * k + i);
        used |= bits;
        word[k] |= uint32_t(bits >> (8 * byte) & 255) << (8 * i);
      }
    }
    further = 0;
    for (int i = 1; i < int(sizeof(L)); ++i)
      if (used >> (8 * i) & 255) further |= 1u << i;
  }

  DGSEG_PHASE void load(int thread, int byte) const {
    for (int p = thread; p < area; p += kBandThreads) {
      const int row = p / kPitch, column = p % kPitch;
      const uint32_t within = inside(row, column);
      uint32_t word[8] = {}, good = 0, further = 0;
      if (within) {
        const int64_t at = a.label_offset(image, y0 - radius + row), x = x0 + 32 * (column - 1);
        if (a.type == LabelType::u8) {
          const uint8_t* from = static_cast<const uint8_t*>(a.labels) + at;
          if (within == ~0u && a.dense() && aligned(from + x)) {
            DGSEG_UNROLL_ALL
            for (int half = 0; half < 2; ++half) {
              const Sixteen loaded = *reinterpret_cast<const Sixteen*>(from + x + 16 * half);
              DGSEG_UNROLL_ALL
              for (int i = 0; i < 4; ++i) word[4 * half + i] = loaded.word[i];
            }
          } else {
            for (int i = 0; i < 32 && (within >> i & 1); ++i) {
              const uint32_t label = from[a.column_offset(x + i)];
              DGSEG_UNROLL_ALL
              for (int k = 0; k < 8; ++k)  // a register array takes no running index
                if (k == i / 4) word[k] |= label << (8 * (i % 4));
            }
          }
        } else if (a.type == LabelType::i32) {
          read_wide(static_cast<const int32_t*>(a.labels) + at, x, within, byte, word, good, further);
        } else {
          read_wide(static_cast<const int64_t*>(a.labels) + at, x, within, byte, word, good, further);
        }
        bytes_to_planes(word);
        if (a.type == LabelType::u8) {
          good = within;
          if (a.ignore_index >= 0 && a.ignore_index <= 255) {
            uint32_t differs = 0;
            DGSEG_UNROLL_ALL
            for (int b = 0; b < kPlanes; ++b) differs |= word[b] ^ (a.ignore_index >> b & 1 ? ~0u : 0u);
            good &= differs;
          }
        }
      }
      uint32_t planes = 0;
      DGSEG_UNROLL_ALL
      for (int b = 0; b < kPlanes; ++b) {
        const uint32_t bits = word[b] & good;
        plane[b * area + p] = bits;
        planes |= bits ? 1u << b : 0u;
      }
      valid[p] = good;
      raise_flag(1, planes);
      if (byte == 0) {
        raise_flag(0, within & ~good ? 1u : 0u);
        raise_flag(2, further);
      }
    }
  }

  // Bit i = the pixel to the right of bit i.
  DGSEG_PHASE static uint32_t from_right(uint32_t word, uint32_t right) { return word >> 1 | right << 31; }

  DGSEG_PHASE void find_pairs(int thread) const {
    const uint32_t planes = flags[1];
    for (int p = thread; p < area; p += kBandThreads) {
      const bool has_right = p % kPitch + 1 < kPitch, has_below = p + kPitch < area;
      uint32_t sideways = 0, downwards = 0;
      for (int b = 0; b < kPlanes; ++b) {
        if ((planes >> b & 1) == 0) continue;  // 0 for all valid labels of the tile
        const uint32_t* bits = plane + b * area + p;
        sideways |= bits[0] ^ from_right(bits[0], has_right ? bits[1] : 0);
        downwards |= bits[0] ^ (has_below ? bits[kPitch] : 0);
      }
      across[p] |= sideways & valid[p] & from_right(valid[p], has_right ? valid[p + 1] : 0);
      down[p] |= downwards & valid[p] & (has_below ? valid[p + kPitch] : 0);
    }
  }

  // OR of the word's bits moved by up to r to both sides; r <= 31.
  DGSEG_PHASE static uint32_t spread(uint32_t left, uint32_t middle, uint32_t right, int r) {
    uint64_t rightwards = uint64_t(middle) << 32 | left, leftwards = uint64_t(right) << 32 | middle;
    for (int reach = 0; reach < r;) {
      const int further = r - reach < reach + 1 ? r - reach : reach + 1;
      rightwards |= rightwards << further;
      leftwards |= leftwards >> further;
      reach += further;
    }
    return uint32_t(rightwards >> 32) | uint32_t(leftwards);
  }

  // The words that ignored pixels can reach, plane by plane.
  DGSEG_PHASE void count_planes(int thread) const {
    const uint32_t planes = flags[1];
    for (int i = thread; i < kInterior; i += kBandThreads) {
      const int row = i / kTileWords + radius, column = i % kTileWords + 1;
      uint32_t ignored = 0;
      for (int y = row - radius; y <= row + radius; ++y)
        for (int c = column - 1; c <= column + 1; ++c) ignored |= inside(y, c) & ~valid[y * kPitch + c];
      if (!ignored) continue;
      near_ignored[i] = 1;
      for (int b = 0; b < kPlanes; ++b) {
        if ((planes >> b & 1) == 0) continue;
        uint32_t ones[3] = {}, zeros[3] = {};
        int reach = -1;
        for (int band = 0; band < a.bands; ++band) {
          while (reach < a.radii[band]) {
            ++reach;
            for (int side = 0; side < (reach ? 2 : 1); ++side) {
              const int p = (side ? row - reach : row + reach) * kPitch + column - 1;
              DGSEG_UNROLL_ALL
              for (int c = 0; c < 3; ++c) {
                const uint32_t bits = plane[b * area + p + c];
                ones[c] |= bits;
                zeros[c] |= valid[p + c] & ~bits;
              }
            }
          }
          counted[band * kInterior + i] |=
              spread(ones[0], ones[1], ones[2], reach) & spread(zeros[0], zeros[1], zeros[2], reach);
        }
      }
    }
  }

  DGSEG_PHASE void record(int p, int band, uint32_t found) const {
    const int row = p / kPitch - radius, column = p % kPitch - 1;
    if (row >= 0 && row < kTileRows && column >= 0 && column < kTileWords) hits(band)[row * kTileWords + column] = found;
  }

  // Windows of radius 1 from pairs. A pair (x, x+1) lies in the windows of x and x+1, a vertical one at x in those of
  // x-1, x, x+1. Rows whose windows leave the tile's halo are not needed. `band` < 0: no band has this radius.
  DGSEG_PHASE void begin_windows(int thread, uint32_t* to, int band) const {
    for (int p = thread + kPitch; p < area - kPitch; p += kBandThreads) {
      const int column = p % kPitch;
      uint32_t h[2] = {}, v[3] = {};  // left, here; and right for vertical pairs
      DGSEG_UNROLL_ALL
      for (int c = -1; c <= 1; ++c) {
        if (column + c < 0 || column + c >= kPitch) continue;
        if (c < 1) h[c + 1] = across[p + c - kPitch] | across[p + c] | across[p + c + kPitch];
        v[c + 1] = down[p + c - kPitch] | down[p + c];
      }
      const uint32_t found = h[1] | h[1] << 1 | h[0] >> 31 | v[1] | v[1] << 1 | v[0] >> 31 | v[1] >> 1 | v[2] << 31;
      to[p] = found;
      if (band >= 0) record(p, band, found);
    }
  }

  // Windows of radius r + s from windows of radius r >= s: four of them, at (+-s, +-s).
  DGSEG_PHASE void grow_windows(int thread, const uint32_t* from, uint32_t* to, int r, int s, int band) const {
    const int skipped = (r + s) * kPitch;
    for (int p = thread + skipped; p < area - skipped; p += kBandThreads) {
      const int column = p % kPitch;
      const uint32_t* up = from + p - s * kPitch;
      const uint32_t* low = from + p + s * kPitch;
      const uint32_t here = up[0] | low[0];
      const uint32_t left = column > 0 ? up[-1] | low[-1] : 0, right = column + 1 < kPitch ? up[1] | low[1] : 0;
      const uint32_t found = here << s | left >> (32 - s) | here >> s | right << (32 - s);
      to[p] = found;
      if (band >= 0) record(p, band, found);
    }
  }

  DGSEG_PHASE void write(int thread) const {
    for (int i = thread; i < kInterior; i += kBandThreads) {
      const int64_t y = y0 + i / kTileWords, x = x0 + i % kTileWords * 32;
      if (y >= a.height || x >= a.width) continue;
      uint32_t left = valid[(i / kTileWords + radius) * kPitch + i % kTileWords + 1], value[3] = {};
      for (int band = 0; band < a.bands; ++band) {
        const uint32_t found = (near_ignored[i] ? counted[band * kInterior + i] : hits(band)[i]) & left;
        left &= ~found;
        DGSEG_UNROLL_ALL
        for (int bit = 0; bit < 3; ++bit)
          if ((band + 1) >> bit & 1) value[bit] |= found;
      }
      uint32_t word[8];
      planes_to_bytes(value[0], value[1], value[2], word);
      uint8_t* out = a.out + (image * a.height + y) * a.width + x;
      if (a.width - x >= 32 && aligned(out)) {
        DGSEG_UNROLL_ALL
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<Sixteen*>(out + 16 * half) =
              Sixteen{{word[4 * half], word[4 * half + 1], word[4 * half + 2], word[4 * half + 3]}};
      } else {
        DGSEG_UNROLL_ALL
        for (int j = 0; j < 32; ++j)
          if (x + j < a.width) out[j] = uint8_t(word[j / 4] >> (8 * (j % 4)));
      }
    }
  }
};

DGSEG_PHASE bool tile_holds(const int64_t* radii, int bands) { return bands <= kTileBands && radii[bands - 1] <= kTileRadius; }

DGSEG_PHASE void cut_into_tiles(BandsOnDevice& a, int64_t images) {
  a.tiles_across = (a.width + 32 * kTileWords - 1) / (32 * kTileWords);
  a.tiles_down = (a.height + kTileRows - 1) / kTileRows;
  a.tiles = images * a.tiles_across * a.tiles_down;
}

// One block: one tile.
template <class Machine>
DGSEG_PHASE void band_tile(const Machine& machine, const BandsOnDevice& a, uint32_t* shared) {
  const Tile tile(a, machine.block(), shared);
  machine.phase([&](int thread) { tile.clear(thread); });
  for (int byte = 0; byte < 8; ++byte) {
    if (byte > 0 && (tile.flags[2] >> byte & 1) == 0) continue;
    machine.phase([&](int thread) { tile.load(thread, byte); });
    machine.phase([&](int thread) { tile.find_pairs(thread); });
    if (tile.flags[0]) machine.phase([&](int thread) { tile.count_planes(thread); });
  }
  int band = 0, which = 0, r = 1;
  machine.phase([&](int thread) { tile.begin_windows(thread, tile.window(0), a.radii[0] == 1 ? 0 : -1); });
  if (a.radii[0] == 1) ++band;
  for (; band < a.bands; ++band)
    while (r < a.radii[band]) {
      const int s = a.radii[band] - r < r ? a.radii[band] - r : r;
      const int reached = r + s == a.radii[band] ? band : -1;
      machine.phase([&](int thread) {
        tile.grow_windows(thread, tile.window(which), tile.window(1 - which), r, s, reached);
      });
      which = 1 - which;
      r += s;
    }
  machine.phase([&](int thread) { tile.write(thread); });
}

// ---- any radii ----------------------------------------------------------------------------------------------------

// Smallest and largest valid label of a pixel's row within `radius`; no valid label: smallest > largest.
struct Ranges {
  int64_t* smallest;  // [images, height, width]
  int64_t* largest;
};

// Widens a pixel's range from `before` (-1: nothing yet) to `radius` columns on either side.
DGSEG_PHASE void widen_range(const BandsOnDevice& a, const Ranges& ranges, int64_t pixel, int64_t before, int64_t radius) {
  const int64_t x = pixel % a.width, y = pixel / a.width % a.height, image = pixel / a.width / a.height;
  const int64_t row = a.label_offset(image, y);
  int64_t low = before < 0 ? INT64_MAX : ranges.smallest[pixel], high = before < 0 ? INT64_MIN : ranges.largest[pixel];
  auto take = [&](int64_t from, int64_t to) {
    for (int64_t at = from < 0 ? 0 : from; at <= to && at < a.width; ++at) {
      const int64_t label = read_label(a.labels, a.type, row + a.column_offset(at));
      if (label == a.ignore_index) continue;
      low = label < low ? label : low;
      high = label > high ? label : high;
    }
  };
  take(x - radius, x - before - 1);
  take(x + before + 1, x + radius);
  ranges.smallest[pixel] = low;
  ranges.largest[pixel] = high;
}

DGSEG_PHASE void mark_band(const BandsOnDevice& a, const Ranges& ranges, int64_t pixel, int64_t radius, int band) {
  if (band > 0 && a.out[pixel]) return;
  const int64_t x = pixel % a.width, y = pixel / a.width % a.height, image = pixel / a.width / a.height;
  uint8_t mark = 0;
  if (read_label(a.labels, a.type, a.label_offset(image, y) + a.column_offset(x)) != a.ignore_index) {
    const int64_t first = y - radius < 0 ? 0 : y - radius, last = y + radius < a.height ? y + radius : a.height - 1;
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t at = pixel + (first - y) * a.width; at <= pixel + (last - y) * a.width; at += a.width) {
      low = ranges.smallest[at] < low ? ranges.smallest[at] : low;
      high = ranges.largest[at] > high ? ranges.largest[at] : high;
    }
    mark = high > low ? uint8_t(band + 1) : 0;
  }
  a.out[pixel] = mark;
}

}  // namespace
}  // namespace dgseg
