// Which pixels have more than one class in their (2r+1)x(2r+1) window, for every radius at once.
//
// Must move: one read of the labels, one write of the bands (2 bytes a pixel for uint8 labels).
//
// Without ignored pixels a window holds two classes exactly when it holds two neighbours that differ, so labels are
// turned into one bit per horizontal and per vertical neighbour pair, and windows grow by OR-ing shifted words:
// 512 pixels an instruction. A window of radius r+s (s <= r) is the union of four windows of radius r at (+-s, +-s),
// so radii 1, 2, 4 cost one step each.
// With ignored pixels, neighbours no longer connect a window, and running minima and maxima over the valid bytes
// decide: the same growth, 64 pixels an instruction. The choice is made per strip of rows.
//
// Legend: r radius, R largest radius, y/x output coordinates, strip = rows [y0, y1), halo = rows within R of it.
#include <cstring>

#include "../common/scratch.h"
#include "../common/simd.h"
#include "kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dgseg::DGSEG_ISA {
namespace {

constexpr int64_t kStripRows = 64;

// ---- 64 labels against 64 labels -> one bit each -------------------------------------------------------------

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

// ---- reading -------------------------------------------------------------------------------------------------

// What a strip's labels look like once they are bytes.
struct Narrowing {
  bool has_ignored = false;
  bool fits = true;  // false: some label needs more than a byte, so the strip is done in its own type
};

template <class T>
void gather_row(const BoundaryBandsArgs& a, int64_t image, int64_t y, T* row) {
  const T* source = static_cast<const T*>(a.labels) + image * a.stride_image + a.rows[y] * a.stride_row;
  if (a.dense_columns) {
    std::memcpy(row, source, size_t(a.out_width) * sizeof(T));
  } else {
    for (int64_t x = 0; x < a.out_width; ++x) row[x] = source[a.columns[x] * a.stride_column];
  }
}

// Wide labels that are 0..254 or ignored become bytes with 255 = ignored.
template <class T>
void narrow_row(const T* wide, uint8_t* row, int64_t width, int64_t ignore_index, Narrowing& state) {
  T ignore = T(ignore_index);
  bool can_ignore = int64_t(ignore) == ignore_index;
  uint8_t ignored = 0, misfit = 0;
  for (int64_t x = 0; x < width; ++x) {
    bool skip = can_ignore & (wide[x] == ignore);
    bool byte = (wide[x] >= 0) & (wide[x] <= 254);
    ignored |= uint8_t(skip);
    misfit |= uint8_t(!(skip | byte));
    row[x] = skip ? uint8_t(255) : uint8_t(wide[x]);
  }
  state.has_ignored |= ignored != 0;
  state.fits &= misfit == 0;
}

// ---- bits ----------------------------------------------------------------------------------------------------

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

// ---- minima and maxima ---------------------------------------------------------------------------------------

template <class T>
struct Limits;
template <>
struct Limits<uint8_t> {
  static constexpr uint8_t low = 0, high = 255;
};
template <>
struct Limits<int32_t> {
  static constexpr int32_t low = INT32_MIN, high = INT32_MAX;
};
template <>
struct Limits<int64_t> {
  static constexpr int64_t low = INT64_MIN, high = INT64_MAX;
};

constexpr int64_t kTileColumns = 512;

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t n = kVectorBytes / int64_t(sizeof(T));
};

template <class T>
DGSEG_INLINE typename Vector<T>::type load_vector(const T* from) {
  typename Vector<T>::type v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
DGSEG_INLINE void store_vector(T* to, typename Vector<T>::type v) {
  std::memcpy(to, &v, sizeof v);
}

// Largest and smallest valid label of every window of one tile, for radii up to R. Rows reach R beyond the tile, and
// `margin` more values stand left and right of each row, so that whole vectors can be read at any shift; what they
// hold is never used for the tile itself.
template <class T>
struct Planes {
  int64_t rows, margin, pitch;
  T *largest, *smallest;
  Planes(int64_t rows_, int64_t columns, int64_t R, T* memory)
      : rows(rows_),
        margin(round_up(R, 64)),
        pitch(round_up(columns, 64) + 2 * margin),
        largest(memory + margin),
        smallest(memory + rows * pitch + margin) {}
  static int64_t size(int64_t rows, int64_t columns, int64_t R) {
    return 2 * rows * (round_up(columns, 64) + 2 * round_up(R, 64));
  }
};

// to = windows of radius r, from windows of radius r - s: the vertical half goes through two rows that stay in cache.
template <class T, bool with_centre>
void grow(const Planes<T>& from, const Planes<T>& to, int64_t r, int64_t s, T* hi_row, T* lo_row) {
  constexpr int64_t n = Vector<T>::n;
  const int64_t begin = -from.margin, end = from.pitch - from.margin;
  auto bigger = [](auto p, auto q) { return p > q ? p : q; };
  auto lesser = [](auto p, auto q) { return p < q ? p : q; };
  for (int64_t y = r; y < from.rows - r; ++y) {
    const T* hi = from.largest + y * from.pitch;
    const T* lo = from.smallest + y * from.pitch;
    const int64_t step = s * from.pitch;
    for (int64_t x = begin; x < end; x += n) {
      auto h = bigger(load_vector(hi + x - step), load_vector(hi + x + step));
      auto l = lesser(load_vector(lo + x - step), load_vector(lo + x + step));
      if (with_centre) h = bigger(h, load_vector(hi + x)), l = lesser(l, load_vector(lo + x));
      store_vector(hi_row + x, h);
      store_vector(lo_row + x, l);
    }
    T* hi_to = to.largest + y * to.pitch;
    T* lo_to = to.smallest + y * to.pitch;
    for (int64_t x = begin; x < end; x += n) {
      auto h = bigger(load_vector(hi_row + x - s), load_vector(hi_row + x + s));
      auto l = lesser(load_vector(lo_row + x - s), load_vector(lo_row + x + s));
      if (with_centre) h = bigger(h, load_vector(hi_row + x)), l = lesser(l, load_vector(lo_row + x));
      store_vector(hi_to + x, h);
      store_vector(lo_to + x, l);
    }
  }
}

// row = band + 1 where it is still 0 and the window holds two classes.
template <class T>
void mark(const T* hi, const T* lo, int64_t columns, uint8_t value, uint8_t* row) {
  if constexpr (sizeof(T) == 1) {
    int64_t x = 0;
    for (; x + kVectorBytes <= columns; x += kVectorBytes) {
      const auto old = load_vector(row + x);
      const auto in = (load_vector(hi + x) > load_vector(lo + x)) & (old == uint8_t(0));
      store_vector(row + x, in ? Vector<uint8_t>::type{} + value : old);
    }
    for (; x < columns; ++x) row[x] = (hi[x] > lo[x]) & (row[x] == 0) ? value : row[x];
  } else {
    for (int64_t x = 0; x < columns; ++x) row[x] = (hi[x] > lo[x]) & (row[x] == 0) ? value : row[x];
  }
}

template <class T>
void tile_by_range(const BoundaryBandsArgs& a, const T* const* label_rows, int64_t y0, int64_t y1, int64_t x0,
                   int64_t x1, bool can_ignore, T ignore, T* memory, uint8_t* out) {
  const int64_t R = a.radii[a.bands - 1], W = a.out_width, H = a.out_height;
  const int64_t rows = y1 - y0 + 2 * R, columns = x1 - x0 + 2 * R;
  Planes<T> window(rows, columns, R, memory), next(rows, columns, R, memory + Planes<T>::size(rows, columns, R));
  // Two rows with a margin on both sides, and room for a vector beyond.
  T* hi_row = memory + 2 * Planes<T>::size(rows, columns, R) + 2 * window.margin;
  T* lo_row = hi_row + window.pitch + 2 * window.margin;
  for (int64_t y = 0; y < rows; ++y) {
    T* hi = window.largest + y * window.pitch;
    T* lo = window.smallest + y * window.pitch;
    const int64_t source_y = y0 - R + y;
    int64_t from = x0 - R < 0 ? R - x0 : 0, to = x1 + R > W ? W - x0 + R : columns;
    if (source_y < 0 || source_y >= H) from = to = columns;
    auto neutral = [&](int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; ++x) hi[x] = Limits<T>::low;
      for (int64_t x = begin; x < end; ++x) lo[x] = Limits<T>::high;
    };
    neutral(-window.margin, from);
    if (from < to) {
      const T* labels = label_rows[y] + x0 - R;
      if (can_ignore) {
        for (int64_t x = from; x < to; ++x) hi[x] = labels[x] == ignore ? Limits<T>::low : labels[x];
        for (int64_t x = from; x < to; ++x) lo[x] = labels[x] == ignore ? Limits<T>::high : labels[x];
      } else {
        std::memcpy(hi + from, labels + from, size_t(to - from) * sizeof(T));
        std::memcpy(lo + from, labels + from, size_t(to - from) * sizeof(T));
      }
    }
    neutral(to, window.pitch - window.margin);
  }
  for (int64_t y = y0; y < y1; ++y) std::memset(out + y * W + x0, 0, size_t(x1 - x0));
  int64_t r = 0;
  for (int band = 0; band < a.bands; ++band) {
    while (r < a.radii[band]) {
      // From radius 0 the centre is needed too: {-1, 0, 1}; later {-s, s} leaves no gap.
      const int64_t s = r == 0 ? 1 : (a.radii[band] - r < r ? a.radii[band] - r : r);
      const bool with_centre = r == 0;
      r += s;
      (with_centre ? grow<T, true> : grow<T, false>)(window, next, r, s, hi_row, lo_row);
      const Planes<T> swap = window;
      window = next;
      next = swap;
    }
    for (int64_t y = y0; y < y1; ++y) {
      const int64_t at = (y - y0 + R) * window.pitch + R;
      mark(window.largest + at, window.smallest + at, x1 - x0, uint8_t(band + 1), out + y * W + x0);
    }
  }
  if (can_ignore)
    for (int64_t y = y0; y < y1; ++y) {
      const T* labels = label_rows[y - y0 + R] + x0;
      uint8_t* row = out + y * W + x0;
      for (int64_t x = 0; x < x1 - x0; ++x) row[x] = labels[x] == ignore ? uint8_t(0) : row[x];
    }
}

template <class T>
void strip_by_range(const BoundaryBandsArgs& a, const T* const* label_rows, int64_t y0, int64_t y1, bool can_ignore,
                    T ignore, uint8_t* out) {
  const int64_t R = a.radii[a.bands - 1];
  const int64_t tile = R * 4 > kTileColumns ? R * 4 : kTileColumns, rows = y1 - y0 + 2 * R, columns = tile + 2 * R;
  const int64_t margin = round_up(R, 64), row = round_up(columns, 64) + 4 * margin;
  Scratch<T> memory(2 * Planes<T>::size(rows, columns, R) + 2 * row + 4 * margin);
  std::memset(memory.get(), 0, size_t(2 * Planes<T>::size(rows, columns, R) + 2 * row + 4 * margin) * sizeof(T));
  for (int64_t x0 = 0; x0 < a.out_width; x0 += tile) {
    int64_t x1 = x0 + tile < a.out_width ? x0 + tile : a.out_width;
    tile_by_range(a, label_rows, y0, y1, x0, x1, can_ignore, ignore, memory.get(), out);
  }
}

// ---- a strip -------------------------------------------------------------------------------------------------

template <class T>
void strip(const BoundaryBandsArgs& a, int64_t image, int64_t y0, int64_t y1) {
  const int64_t R = a.radii[a.bands - 1], W = a.out_width, H = a.out_height;
  const int64_t first = y0 - R, rows = y1 - y0 + 2 * R;
  const int64_t low = first < 0 ? 0 : first, high = first + rows > H ? H : first + rows;
  uint8_t* out = a.out + image * H * W;
  constexpr bool byte = sizeof(T) == 1;
  Scratch<const T*> source_rows(rows);
  const bool in_place = a.dense_columns;
  Scratch<T> copies(in_place ? 1 : rows * W);
  for (int64_t y = 0; y < rows; ++y) source_rows[y] = nullptr;
  for (int64_t y = low; y < high; ++y) {
    if (in_place) {
      source_rows[y - first] = static_cast<const T*>(a.labels) + image * a.stride_image + a.rows[y] * a.stride_row;
    } else {
      gather_row(a, image, y, copies.get() + (y - first) * W);
      source_rows[y - first] = copies.get() + (y - first) * W;
    }
  }
  if constexpr (byte) {
    bool can_ignore = a.ignore_index >= 0 && a.ignore_index <= 255;
    uint8_t ignore = uint8_t(a.ignore_index);
    if (!strip_by_bits(a, source_rows.get(), y0, y1, can_ignore, ignore, out))
      strip_by_range<uint8_t>(a, source_rows.get(), y0, y1, can_ignore, ignore, out);
  } else {
    Narrowing state;
    Scratch<uint8_t> narrow(rows * W);
    Scratch<const uint8_t*> narrow_rows(rows);
    for (int64_t y = 0; y < rows; ++y) narrow_rows[y] = nullptr;
    for (int64_t y = low; y < high && state.fits; ++y) {
      uint8_t* row = narrow.get() + (y - first) * W;
      narrow_row(source_rows[y - first], row, W, a.ignore_index, state);
      narrow_rows[y - first] = row;
    }
    if (!state.fits) {
      bool can_ignore = int64_t(T(a.ignore_index)) == a.ignore_index;
      strip_by_range<T>(a, source_rows.get(), y0, y1, can_ignore, T(a.ignore_index), out);
    } else if (state.has_ignored) {
      strip_by_range<uint8_t>(a, narrow_rows.get(), y0, y1, true, 255, out);
    } else {
      strip_by_bits(a, narrow_rows.get(), y0, y1, false, 255, out);
    }
  }
}

int64_t strip_rows(const BoundaryBandsArgs& a) {
  // A halo of 2R rows is read again by every strip: keep it small beside the strip.
  int64_t R = a.radii[a.bands - 1];
  return R * 4 > kStripRows ? R * 4 : kStripRows;
}

void run_strips(int64_t begin, int64_t end, void* context) {
  const auto& a = *static_cast<const BoundaryBandsArgs*>(context);
  const int64_t step = strip_rows(a), strips = (a.out_height + step - 1) / step;
  for (int64_t task = begin; task < end; ++task) {
    int64_t image = task / strips, y0 = task % strips * step;
    int64_t y1 = y0 + step < a.out_height ? y0 + step : a.out_height;
    switch (a.type) {
      case LabelType::u8: strip<uint8_t>(a, image, y0, y1); break;
      case LabelType::i32: strip<int32_t>(a, image, y0, y1); break;
      case LabelType::i64: strip<int64_t>(a, image, y0, y1); break;
    }
  }
}

}  // namespace

void boundary_bands(const BoundaryBandsArgs& args, const Parallel& parallel) {
  if (args.images * args.out_height * args.out_width == 0) return;
  const int64_t step = strip_rows(args), strips = (args.out_height + step - 1) / step;
  parallel.run(args.images * strips, run_strips, const_cast<BoundaryBandsArgs*>(&args));
}

}  // namespace dgseg::DGSEG_ISA
