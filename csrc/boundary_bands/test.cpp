// The CPU kernel, and the CUDA kernels' phases run on the CPU, against a naive loop over the definition.
#include <cstdio>
#include <thread>
#include <vector>

#include "cuda_phases.h"
#include "cuda_ranges.h"
#include "kernel.h"

namespace {

using namespace dgseg;

uint64_t state = 1;
int64_t random_below(int64_t n) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return int64_t((state >> 33) % uint64_t(n));
}

const Parallel serial{[](int64_t tasks, TaskRange body, void* context) { body(0, tasks, context); }};
const Parallel threads{[](int64_t tasks, TaskRange body, void* context) {
  std::vector<std::thread> pool;
  for (int64_t t = 0; t < 3; ++t) pool.emplace_back([=] { body(tasks * t / 3, tasks * (t + 1) / 3, context); });
  for (auto& thread : pool) thread.join();
}};

struct Case {
  int64_t N, H, W;
  std::vector<int64_t> radii;
  int64_t ignore;
  int ignored;                       // pixels in a hundred, in specks
  bool far;                          // two classes far apart: bands cross every seam, and large windows are mostly pure
  int64_t stride = 1, h = 0, w = 0;  // sampling; h > 0: by size
};

// Windows are clipped to the image; from radius to radius only the new ring is looked at.
std::vector<uint8_t> naive(const Case& c, const std::vector<int64_t>& labels, int64_t h, int64_t w) {
  std::vector<uint8_t> bands(size_t(c.N * h * w));
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x) {
        const int64_t* image = labels.data() + n * h * w;
        const int64_t centre = image[y * w + x];
        if (centre == c.ignore) continue;
        // The window holds its centre, so it holds two classes when it holds one that is not the centre's.
        int64_t nearest = INT64_MAX;
        for (int64_t r = 1; r <= c.radii.back() && nearest == INT64_MAX; ++r)
          for (int64_t i = y - r; i <= y + r; ++i)
            for (int64_t j = x - r; j <= x + r; j += (i == y - r || i == y + r || j == x + r) ? 1 : 2 * r)
              if (i >= 0 && i < h && j >= 0 && j < w && image[i * w + j] != c.ignore && image[i * w + j] != centre)
                nearest = r;
        for (size_t b = 0; b < c.radii.size(); ++b)
          if (nearest <= c.radii[b]) {
            bands[size_t((n * h + y) * w + x)] = uint8_t(b + 1);
            break;
          }
      }
  return bands;
}

int failures = 0;

void compare(const Case& c, const char* what, int bytes, int64_t h, int64_t w, const std::vector<uint8_t>& expected,
             const uint8_t* actual) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (expected[i] != actual[i]) {
      std::printf("%s, %d-byte labels, %dx%dx%d, radii to %d, ignored %d%%: at (%d, %d, %d) %d, expected %d\n", what,
                  bytes, int(c.N), int(h), int(w), int(c.radii.back()), c.ignored, int(i / size_t(h * w)),
                  int(i / size_t(w) % size_t(h)), int(i % size_t(w)), actual[i], expected[i]);
      ++failures;
      return;
    }
}

template <class L>
void on_device(BandsOnDevice a, const Case& c, bool tiles, bool backwards) {
  if (tiles) {
    a.bands = int(c.radii.size());
    for (int band = 0; band < a.bands; ++band) a.radii[band] = int(c.radii[size_t(band)]);
    // Forwards in tiles as large as they may be, backwards in those of a small batch.
    cut_into_tiles(a, c.N, backwards ? kTilesWanted : 1);
    std::vector<uint32_t> shared(size_t(Tile::words(a)), 0xdeadbeef);
    for (int64_t tile = 0; tile < a.tiles; ++tile) {
      const BlockOnHost block{kBandThreads, tile, a.tiles, backwards};
      if (a.dense())
        band_tile<L, true>(block, a, shared.data());
      else
        band_tile<L, false>(block, a, shared.data());
    }
    return;
  }
  const int64_t pixels = c.N * a.height * int64_t(a.width);
  std::vector<int64_t> smallest(size_t(pixels), 77), largest(size_t(pixels), 77);
  const Ranges ranges{smallest.data(), largest.data()};
  int64_t before = -1;
  for (size_t band = 0; band < c.radii.size(); ++band) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) widen_range(a, ranges, pixel, before, c.radii[band]);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) mark_band(a, ranges, pixel, c.radii[band], int(band));
    before = c.radii[band];
  }
}

template <class L>
void check(const Case& c, LabelType type, const std::vector<int64_t>& classes, bool dense) {
  // Aligned rows of a pitch that is a multiple of 16 bytes, or columns two apart.
  const int64_t column = dense ? 1 : 2, pitch = dense ? (c.W + 15) / 16 * 16 : 2 * c.W + 1;
  std::vector<L> memory(size_t(c.N * c.H * pitch + 64), L(classes[0]));
  L* stored = memory.data();
  while (reinterpret_cast<uintptr_t>(stored) % 16) ++stored;
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t y = 0; y < c.H; ++y)
      for (int64_t x = 0; x < c.W; ++x) {
        const int64_t kind = c.far ? (x > c.W / 2) + (y > c.H - 3) : (x / 7 + y / 5 * 3 + random_below(6) / 5);
        stored[(n * c.H + y) * pitch + x * column] =
            random_below(100) < c.ignored ? L(c.ignore) : L(classes[size_t(kind) % classes.size()]);
      }
  const int64_t h = c.h ? c.h : (c.H + c.stride - 1) / c.stride, w = c.h ? c.w : (c.W + c.stride - 1) / c.stride;
  std::vector<int64_t> rows(static_cast<size_t>(h)), columns(static_cast<size_t>(w)), sampled(size_t(c.N * h * w));
  bool in_order = column == 1;
  for (int64_t y = 0; y < h; ++y) rows[size_t(y)] = c.h ? y * c.H / h : y * c.stride;
  for (int64_t x = 0; x < w; ++x) {
    columns[size_t(x)] = c.h ? x * c.W / w : x * c.stride;
    in_order &= columns[size_t(x)] == x;
  }
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x)
        sampled[size_t((n * h + y) * w + x)] =
            int64_t(stored[(n * c.H + rows[size_t(y)]) * pitch + columns[size_t(x)] * column]);
  const auto expected = naive(c, sampled, h, w);

  for (const Parallel& parallel : {serial, threads}) {
    std::vector<uint8_t> out(expected.size(), 99);
    BoundaryBandsArgs args{stored,
                           type,
                           c.N,
                           c.H * pitch,
                           pitch,
                           column,
                           rows.data(),
                           columns.data(),
                           in_order,
                           h,
                           w,
                           c.radii.data(),
                           int(c.radii.size()),
                           c.ignore,
                           out.data()};
    DGSEG_PICK(boundary_bands)(args, parallel);
    compare(c, "cpu", int(sizeof(L)), h, w, expected, out.data());
  }
  for (bool tiles : {true, false})
    for (bool backwards : {false, true}) {
      if (tiles && !tile_holds(c.radii.data(), int(c.radii.size()))) continue;
      std::vector<uint8_t> out(expected.size() + 16, 99);
      uint8_t* to = out.data();
      while (reinterpret_cast<uintptr_t>(to) % 16) ++to;
      const Sampling in_rows = c.h ? Sampling{c.H / h, c.H % h, h} : Sampling{c.stride, 0, h};
      const Sampling in_columns = c.h ? Sampling{c.W / w, c.W % w, w} : Sampling{c.stride, 0, w};
      const BandsOnDevice a{stored, type,   c.H * pitch, pitch, column, 0, in_rows, in_columns, c.ignore, 0,
                            to,     int(h), int(w),      0,     {},     0, 0,       0,          0,        0};
      on_device<L>(a, c, tiles, backwards);
      compare(c, tiles ? "cuda, tiles" : "cuda, any radii", int(sizeof(L)), h, w, expected, to);
    }
}

}  // namespace

int main() {
  const Case cases[] = {
      {1, 1, 1, {1}, 255, 0, false},                      // no neighbour at all
      {2, 1, 70, {1, 2, 4}, 255, 0, false},               // a single row
      {1, 70, 1, {1, 2, 4}, 255, 10, false},              // a single column
      {1, 64, 1024, {1, 2, 4}, 255, 0, false},            // whole tiles
      {1, 64, 1024, {1, 2, 4}, 255, 1, false},            // and some ignored pixels
      {2, 67, 530, {1, 2, 4}, 255, 20, false},            // ragged tiles, many ignored
      {1, 40, 96, {1, 2, 4}, 255, 100, false},            // nothing valid
      {1, 80, 600, {3, 7, 16}, 255, 0, true},             // the largest radius of a tile, no radius 1
      {1, 80, 600, {1, 5, 11, 16}, 255, 2, true},         // with ignored pixels
      {1, 50, 100, {1, 2, 3, 4, 5, 6}, 255, 1, true},     // as many bands as a tile holds
      {1, 30, 90, {1, 2, 3, 4, 5, 6, 7}, 255, 1, false},  // one more
      {1, 40, 150, {2, 17, 40}, 255, 3, true},            // beyond a tile, and beyond the image
      {1, 63, 321, {1, 2}, 3, 0, false},                  // a class is ignored
      {1, 61, 275, {1, 2, 4}, 255, 5, false, 4},          // sampled by stride
      {2, 33, 75, {1, 3}, 255, 5, false, 1, 70, 190},     // by size, upwards
      {1, 33, 175, {1, 3}, 255, 5, true, 1, 20, 40},      // and downwards
  };
  for (const Case& c : cases)
    for (bool dense : {true, false}) {
      check<uint8_t>(c, LabelType::u8, {0, 1, 2, 3, 18, 254}, dense);
      check<int32_t>(c, LabelType::i32, {0, 1, 2, 3, 18, 254}, dense);
      check<int64_t>(c, LabelType::i64, {0, 1, 2, 3, 18, 254}, dense);
      // Classes that differ in one byte only, and signs.
      check<int32_t>(c, LabelType::i32, {7, 263, 7 + (1 << 24), -7}, dense);
      check<int64_t>(c, LabelType::i64, {7, 7 + (int64_t(1) << 40), INT64_MIN, INT64_MAX}, dense);
    }
  if (!failures) std::printf("ok (%s)\n", isa_name(current_isa()));
  return failures != 0;
}
