// The CUDA kernels of boundary_bands, as phases that the native test runs on the CPU (see common/cuda_phases.h).
//
// Must move: one read of the labels, one write of the bands: 2 bytes a pixel for uint8, so about 15 instructions a
// pixel are all that a Hopper multiprocessor has time for. Everything therefore happens on words of 32 pixels.
//
// A block does a tile of up to 64 x 512 pixels with a halo of R rows and one word on each side. Labels are transposed
// into bit planes (plane b: bit b of 32 labels), and every thread walks down a column of words, so that neighbouring
// pairs of valid labels that differ come out of registers. Windows without ignored pixels hold two classes exactly when
// they hold such a pair, and grow by shifting and OR-ing as in cpu.cpp. Where ignored pixels are within reach, planes
// decide: a window holds two classes exactly when some plane has both a 0 and a 1 among the window's valid pixels.
// Wide labels take one round per byte in use.
//
// Radii beyond kTileRadius, or more than kTileBands of them, go through memory instead: cuda_ranges.h.
//
// Legend: R largest radius; p position of a word in the tile with halo, row * kPitch + column; bit i of a word is the
// pixel x + i. What a word sees beyond the tile's halo is arbitrary: it stays within R + 1 < 32 pixels of the halo's
// rim.
#pragma once
#include <type_traits>

#include "cuda_args.h"
#include "cuda_planes.h"

namespace dgseg {
namespace {

constexpr int kTileWords = 16;
constexpr int kPitch = kTileWords + 2;
constexpr int kStrips = 12;  // runs of rows that the threads of one column of words share

struct Tile {
  const BandsOnDevice& a;
  int radius, rows, area, interior;  // rows and area with halo, interior words without
  int64_t image;
  int y0, x0;
  uint32_t* valid;         // [area] inside the image and not ignored
  uint32_t* across;        // [area] this valid pixel and the valid one to its right differ
  uint32_t* down;          // [area] this valid pixel and the valid one below differ
  uint32_t* buffer;        // [buffers][area] first label planes; then windows: two to grow in, one per band
  uint32_t* counted;       // [bands][interior] hits where ignored pixels are within reach
  uint32_t* near_ignored;  // [tile_rows] bit c: they are, for word c
  uint32_t* flags;         // [3] some pixel is ignored; bytes in use; planes in use

  DGSEG_PHASE static int buffers(int bands) { return bands + 2 > kPlanesAtOnce ? bands + 2 : kPlanesAtOnce; }
  DGSEG_PHASE static int64_t words(const BandsOnDevice& a) {
    const int64_t rows = a.tile_rows + 2 * a.radii[a.bands - 1];
    return rows * kPitch * (3 + buffers(a.bands)) + int64_t(a.tile_rows) * (kTileWords * a.bands + 1) + 3;
  }

  DGSEG_PHASE Tile(const BandsOnDevice& args, int64_t tile, uint32_t* shared)
      : a(args),
        radius(args.radii[args.bands - 1]),
        rows(args.tile_rows + 2 * radius),
        area(rows * kPitch),
        interior(args.tile_rows * kTileWords) {
    image = tile / (int64_t(a.tiles_across) * a.tiles_down);
    const int within = int(tile % (int64_t(a.tiles_across) * a.tiles_down));
    y0 = within / a.tiles_across * a.tile_rows;
    x0 = within % a.tiles_across * (32 * kTileWords);
    valid = shared;
    across = valid + area;
    down = across + area;
    buffer = down + area;
    counted = buffer + buffers(a.bands) * area;
    near_ignored = counted + a.bands * interior;
    flags = near_ignored + a.tile_rows;
  }

  DGSEG_PHASE uint32_t* growing(int which) const { return buffer + which * area; }
  DGSEG_PHASE uint32_t* hits(int band) const { return buffer + (2 + band) * area; }
  DGSEG_PHASE int column_x(int column) const { return x0 + 32 * (column - 1); }

  // Bits of the word at tile column `column` that lie inside the image; 0 outside its rows.
  DGSEG_PHASE uint32_t inside(int row, int column) const { return has_row(row) ? inside_columns(column) : 0; }
  DGSEG_PHASE bool has_row(int row) const { return unsigned(y0 - radius + row) < unsigned(a.height); }
  DGSEG_PHASE uint32_t inside_columns(int column) const {
    const int left = a.width - column_x(column);
    if (left > a.width || left <= 0) return 0;
    return left >= 32 ? ~0u : (1u << left) - 1;
  }

  DGSEG_PHASE void clear(int thread) const {
    if (thread < 3) flags[thread] = 0;
    for (int i = thread; i < a.tile_rows; i += kBandThreads) near_ignored[i] = 0;
  }

  DGSEG_PHASE void raise_flag(int which, uint32_t bits) const {
    // Most threads have nothing new to say: no queue at one address.
    if (bits & ~*static_cast<volatile uint32_t*>(flags + which)) or_atomically(flags + which, bits);
  }

  // ---- labels ----

  template <class L>
  DGSEG_PHASE const L* label_row(int row) const {
    return static_cast<const L*>(a.labels) + a.label_offset(image, y0 - radius + row);
  }

  // One word of labels as they were read.
  struct Labels {
    uint32_t word[8];  // one byte of each label, in order; later planes
    uint32_t within;   // which are inside the image
    uint32_t good;     // which are valid too; bytes know only once they are planes
    uint32_t used;     // which bytes valid labels use
    uint32_t next;     // the byte of the valid pixel after the last, or kNoByte
  };

  // `from`: the row; `within`: which of its pixels from x on to read. Plain: all of them, bytes, aligned, and one more.
  template <class L, bool Dense, bool Plain = false>
  DGSEG_PHASE Labels read(const L* from, int x, uint32_t within, int byte) const {
    Labels read = {};
    read.within = read.good = within;
    read.next = kNoByte;
    if (!Plain && !within) return read;
    if (Plain || x + 32 < a.width) {
      const L next = from[Dense ? x + 32 : a.column_offset(x + 32)];
      const bool valid_next = sizeof(L) == 1 ? uint32_t(next) != a.ignored_byte : int64_t(next) != a.ignore_index;
      if (valid_next) read.next = uint32_t(uint64_t(int64_t(next)) >> (8 * byte)) & 255;
    }
    if (Plain || (sizeof(L) == 1 && Dense && read.within == ~0u && aligned(from + x))) {
      DGSEG_UNROLL_ALL
      for (int half = 0; half < 2; ++half) {
        const Sixteen loaded = *reinterpret_cast<const Sixteen*>(from + x + 16 * half);
        DGSEG_UNROLL_ALL
        for (int i = 0; i < 4; ++i) read.word[4 * half + i] = loaded.word[i];
      }
      return read;
    }
    read_slowly<L, Dense>(from, x, byte, read);
    return read;
  }

  template <class L, bool Dense>
  DGSEG_PHASE void read_slowly(const L* from, int x, int byte, Labels& read) const {
    using Unsigned = std::make_unsigned_t<L>;
    const bool by_sixteen = Dense && sizeof(L) > 1 && read.within == ~0u && aligned(from + x);
    constexpr int each = sizeof(L) == 8 ? 2 : 4;  // labels in 16 bytes, four at most
    int64_t at = Dense ? x : a.columns(x), rest = Dense || !a.columns.part ? 0 : a.columns.part * x % a.columns.out;
    uint32_t good = 0;
    Unsigned used = 0;
    DGSEG_UNROLL_ALL
    for (int k = 0; k < 8; ++k) {
      L label[4] = {};
      if (by_sixteen) {
        DGSEG_UNROLL_ALL
        for (int i = 0; i < 4; i += each) {
          const Sixteen loaded = *reinterpret_cast<const Sixteen*>(from + x + 4 * k + i);
          DGSEG_UNROLL_ALL
          for (int j = 0; j < each; ++j)
            label[i + j] = L(sizeof(L) == 8 ? uint64_t(loaded.word[(2 * j + 1) % 4]) << 32 | loaded.word[2 * j % 4]
                                            : loaded.word[j]);
        }
      } else {
        DGSEG_UNROLL_ALL
        for (int i = 0; i < 4; ++i) {
          if (read.within >> (4 * k + i) & 1) label[i] = from[Dense ? at : at * a.stride_column];
          at += Dense ? 1 : a.columns.whole;
          rest += Dense ? 0 : a.columns.part;
          if (!Dense && rest >= a.columns.out) rest -= a.columns.out, ++at;
        }
      }
      DGSEG_UNROLL_ALL
      for (int i = 0; i < 4; ++i) {
        const uint32_t here = read.within & 1u << (4 * k + i);
        if (!here || int64_t(label[i]) == a.ignore_index) {
          // An ignored byte stays as it is: planes tell it from the others.
          if (sizeof(L) == 1) read.word[k] |= uint32_t(label[i]) << (8 * i);
          continue;
        }
        good |= here;
        used |= Unsigned(label[i]);
        read.word[k] |= uint32_t(Unsigned(label[i]) >> (8 * byte) & 255) << (8 * i);
      }
    }
    if (sizeof(L) > 1) read.good = good;
    for (int i = 1; i < int(sizeof(L)); ++i)
      if (uint64_t(used) >> (8 * i) & 255) read.used |= 1u << i;
  }

  // Turns read.word into planes. Bytes are held against the ignored one before: what differs still does, and an ignored
  // label is 0 in all planes.
  template <class L>
  DGSEG_PHASE void make_planes(Labels& read) const {
    const bool can_ignore = sizeof(L) == 1 && a.ignored_byte != kNoByte;
    if (can_ignore) {
      DGSEG_UNROLL_ALL
      for (int k = 0; k < 8; ++k) read.word[k] ^= a.ignored_byte * 0x01010101u;
    }
    bytes_to_planes(read.word);
    if (can_ignore) {
      uint32_t differs = 0;
      DGSEG_UNROLL_ALL
      for (int b = 0; b < kPlanes; ++b) differs |= read.word[b];
      read.good &= differs;
    }
  }

  // Every thread walks down a column of words: a row's planes are compared with those of the row above it.
  template <class L, bool Dense>
  DGSEG_PHASE void find_pairs(int thread, int byte) const {
    const int column = thread % kPitch, strip = thread / kPitch, first = strip * a.strip_rows;
    const int end = first + a.strip_rows < rows ? first + a.strip_rows : rows;
    if (strip >= kStrips || first >= end) return;
    // Most words lie inside the image with all their neighbours, and aligned: no questions asked for each of them.
    const bool plain = sizeof(L) == 1 && Dense && end < rows && has_row(first) && has_row(end) &&
                       column_x(column) >= 0 && column_x(column) + 32 < a.width && a.rows.part == 0 &&
                       a.row_step % 16 == 0 && aligned(label_row<L>(first) + column_x(column));
    uint32_t ignored = 0, used = 0;
    if (plain)
      walk<L, Dense, true>(first, end, column, byte, ignored, used);
    else
      walk<L, Dense, false>(first, end, column, byte, ignored, used);
    if (byte) return;  // as in the first round
    raise_flag(0, ignored ? 1u : 0u);
    raise_flag(1, used);
  }

  template <class L, bool Dense, bool Plain>
  DGSEG_PHASE void walk(int first, int end, int column, int byte, uint32_t& ignored, uint32_t& used) const {
    const L* from = label_row<L>(first);
    const uint32_t columns = Plain ? ~0u : inside_columns(column);
    const int x = column_x(column);
    Labels ahead = read<L, Dense, Plain>(from, x, Plain || has_row(first) ? columns : 0, byte), above = {};
    DGSEG_UNROLL((Plain ? 2 : 1))               // twice, so that rows change roles without being copied
    for (int row = first; row <= end; ++row) {  // one more, for the last row's pairs with it
      Labels here = ahead;
      if (row < end) {  // the next row is on its way while this one is done
        // Rows are a fixed step apart, but for sizes that do not divide each other.
        from = !Plain && a.rows.part ? label_row<L>(row + 1) : from + a.row_step;
        ahead = read<L, Dense, Plain>(from, x, Plain || (row + 1 < rows && has_row(row + 1)) ? columns : 0, byte);
      }
      const uint32_t last = here.word[7] >> 24;
      make_planes<L>(here);
      uint32_t sideways = 0, downwards = 0;
      DGSEG_UNROLL_ALL
      for (int b = 0; b < kPlanes; ++b) {
        sideways |= here.word[b] ^ here.word[b] >> 1;
        downwards |= here.word[b] ^ above.word[b];
      }
      const int p = row * kPitch + column;
      if (row > first) {
        const uint32_t found = downwards & here.good & above.good;
        down[p - kPitch] = byte ? down[p - kPitch] | found : found;
      }
      if (row < end) {
        uint32_t found = sideways & here.good & here.good >> 1;  // bit 31 is 0 here: its neighbour is the next word's
        if (here.next != kNoByte && here.next != last) found |= here.good & 0x80000000u;
        across[p] = byte ? across[p] | found : found;
        valid[p] = here.good;
        ignored |= here.within & ~here.good;
        used |= here.used;
      }
      above = here;
    }
  }

  // ---- where ignored pixels are within reach ----

  template <class L, bool Dense>
  DGSEG_PHASE void store_planes(int thread, int byte, int half) const {
    uint32_t in_use = 0;
    for (int p = thread; p < area; p += kBandThreads) {
      const int row = p / kPitch, column = p % kPitch;
      Labels here = read<L, Dense>(label_row<L>(row), column_x(column), inside(row, column), byte);
      make_planes<L>(here);
      DGSEG_UNROLL_ALL
      for (int b = 0; b < kPlanesAtOnce; ++b) {
        const uint32_t bits = (half ? here.word[kPlanesAtOnce + b] : here.word[b]) & here.good;
        buffer[b * area + p] = bits;
        in_use |= bits ? 1u << (8 * half + b) : 0u;
      }
    }
    raise_flag(2, in_use);
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

  DGSEG_PHASE void count_planes(int thread, bool begin, int half) const {
    const uint32_t in_use = flags[2] >> (8 * half);
    for (int i = thread; i < interior; i += kBandThreads) {
      const int row = i / kTileWords + radius, column = i % kTileWords + 1;
      if (begin) {
        uint32_t ignored = 0;
        for (int y = row - radius; y <= row + radius; ++y)
          for (int c = column - 1; c <= column + 1; ++c) ignored |= inside(y, c) & ~valid[y * kPitch + c];
        if (!ignored) continue;
        or_atomically(near_ignored + i / kTileWords, 1u << i % kTileWords);
        for (int band = 0; band < a.bands; ++band) counted[band * interior + i] = 0;
      } else if ((near_ignored[i / kTileWords] >> i % kTileWords & 1) == 0) {
        continue;
      }
      for (int b = 0; b < kPlanesAtOnce; ++b) {
        if ((in_use >> b & 1) == 0) continue;  // 0 for all valid labels of the tile
        uint32_t ones[3] = {}, zeros[3] = {};
        int reach = -1;
        for (int band = 0; band < a.bands; ++band) {
          while (reach < a.radii[band]) {
            ++reach;
            for (int side = 0; side < (reach ? 2 : 1); ++side) {
              const int p = (side ? row - reach : row + reach) * kPitch + column - 1;
              DGSEG_UNROLL_ALL
              for (int c = 0; c < 3; ++c) {
                const uint32_t bits = buffer[b * area + p + c];
                ones[c] |= bits;
                zeros[c] |= valid[p + c] & ~bits;
              }
            }
          }
          counted[band * interior + i] |=
              spread(ones[0], ones[1], ones[2], reach) & spread(zeros[0], zeros[1], zeros[2], reach);
        }
      }
    }
  }

  // ---- windows ----

  // Radius 1 from pairs. A pair (x, x+1) lies in the windows of x and x+1, a vertical one at x in those of x-1, x, x+1.
  // Rows whose windows leave the halo are not needed.
  DGSEG_PHASE void begin_windows(int thread, uint32_t* to) const {
    for (int p = thread + kPitch; p < area - kPitch; p += kBandThreads) {
      const uint32_t* up = across + p - kPitch;
      const uint32_t* low = across + p + kPitch;
      const uint32_t* pair = down + p;
      const uint32_t h = across[p] | up[0] | low[0], h_left = across[p - 1] | up[-1] | low[-1];
      const uint32_t v = pair[0] | pair[-kPitch], v_left = pair[-1] | pair[-1 - kPitch],
                     v_right = pair[1] | pair[1 - kPitch];
      to[p] = h | v | (h | v) << 1 | (h_left | v_left) >> 31 | v >> 1 | v_right << 31;
    }
  }

  // Radius r + s from radius r >= s: four windows, at (+-s, +-s).
  DGSEG_PHASE void grow_windows(int thread, const uint32_t* from, uint32_t* to, int r, int s) const {
    const int skipped = (r + s) * kPitch;
    for (int p = thread + skipped; p < area - skipped; p += kBandThreads) {
      const uint32_t* up = from + p - s * kPitch;
      const uint32_t* low = from + p + s * kPitch;
      const uint32_t here = up[0] | low[0], left = up[-1] | low[-1], right = up[1] | low[1];
      to[p] = here << s | left >> (32 - s) | here >> s | right << (32 - s);
    }
  }

  DGSEG_PHASE void write(int thread) const {
    const bool some_ignored = flags[0];
    for (int i = thread; i < interior; i += kBandThreads) {
      const int tile_row = i / kTileWords, word_column = i % kTileWords;
      const int y = y0 + tile_row, x = x0 + word_column * 32, p = (tile_row + radius) * kPitch + word_column + 1;
      if (y >= a.height || x >= a.width) continue;
      const bool by_planes = some_ignored && near_ignored[tile_row] >> word_column & 1;
      uint32_t left = valid[p], value[3] = {};
      for (int band = 0; band < a.bands; ++band) {
        const uint32_t found = (by_planes ? counted[band * interior + i] : hits(band)[p]) & left;
        left &= ~found;
        DGSEG_UNROLL_ALL
        for (int bit = 0; bit < 3; ++bit) value[bit] |= (band + 1) >> bit & 1 ? found : 0u;
      }
      uint32_t word[8];
      planes_to_bytes(value[0], value[1], value[2], word);
      uint8_t* out = a.out + (image * a.height + y) * int64_t(a.width) + x;
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

DGSEG_PHASE bool tile_holds(const int64_t* radii, int bands) {
  return bands <= kTileBands && radii[bands - 1] <= kTileRadius;
}

// Fills in all that follows from the rest.
DGSEG_PHASE void cut_into_tiles(BandsOnDevice& a, int64_t images, int64_t wanted = kTilesWanted) {
  a.row_step = a.rows.whole * a.stride_row;
  a.ignored_byte = a.ignore_index >= 0 && a.ignore_index <= 255 ? uint32_t(a.ignore_index) : kNoByte;
  a.tile_rows = a.radii[a.bands - 1] <= 4 ? 64 : 32;  // few rows of halo beside many of tile; shared memory ends it
  a.tiles_across = (a.width + 32 * kTileWords - 1) / (32 * kTileWords);
  // A small batch in fewer rows a tile: their halo is read twice, but no multiprocessor stands idle.
  while (a.tile_rows > kFewestTileRows &&
         images * a.tiles_across * ((a.height + a.tile_rows - 1) / a.tile_rows) < wanted)
    a.tile_rows /= 2;
  a.strip_rows = (a.tile_rows + 2 * a.radii[a.bands - 1] + kStrips - 1) / kStrips;
  a.tiles_down = (a.height + a.tile_rows - 1) / a.tile_rows;
  a.tiles = images * a.tiles_across * a.tiles_down;
}

// One block: one tile. L: what labels are stored in; Dense: a row's sampled labels lie side by side.
template <class L, bool Dense, class Machine>
DGSEG_PHASE void band_tile(const Machine& machine, const BandsOnDevice& a, uint32_t* shared) {
  const Tile tile(a, machine.block(), shared);
  machine.phase([&](int thread) { tile.clear(thread); });
  for (int byte = 0; byte < int(sizeof(L)); ++byte) {
    if (byte > 0 && (tile.flags[1] >> byte & 1) == 0) continue;
    machine.phase([&](int thread) { tile.template find_pairs<L, Dense>(thread, byte); });
    if (!tile.flags[0]) continue;
    for (int half = 0; half < kPlanes / kPlanesAtOnce; ++half) {
      machine.phase([&](int thread) { tile.template store_planes<L, Dense>(thread, byte, half); });
      machine.phase([&](int thread) { tile.count_planes(thread, byte == 0 && half == 0, half); });
    }
  }
  // A radius that is a band's grows into that band's buffer, one on the way there into one of the other two.
  const uint32_t* window = nullptr;
  int r = 0, spare = 0;
  for (int band = 0; band < a.bands; ++band)
    while (r < a.radii[band]) {
      const int s = r == 0 ? 1 : a.radii[band] - r < r ? a.radii[band] - r : r;
      uint32_t* to = r + s == a.radii[band] ? tile.hits(band) : tile.growing(spare);
      if (r == 0)
        machine.phase([&](int thread) { tile.begin_windows(thread, to); });
      else
        machine.phase([&](int thread) { tile.grow_windows(thread, window, to, r, s); });
      window = to;
      spare = 1 - spare;
      r += s;
    }
  machine.phase([&](int thread) { tile.write(thread); });
}

}  // namespace
}  // namespace dgseg
