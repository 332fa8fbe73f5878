// The first half of the update: which cell every pixel feeds, how many feed each cell, and every pixel's rank in its
// cell's order. Included by cpu.cpp alone; anonymous: see common/isa.h.
//
// Must move: labels and bands once, 4 bytes a pixel (and slot) of ranks out. Keys are uniformly random, so a class is
// sorted in linear time: into about as many buckets as pixels by the leading bits, then inside each bucket. A nested
// cell's order is its class's order with the thinner bands picked out, so one sorted list per class serves all cells.
#pragma once
#include <cstring>

#include "../common/scratch.h"
#include "../common/simd.h"
#include "kernel.h"
#include "order.h"

namespace dgseg::DGSEG_ISA {
namespace {

constexpr int64_t kBlock = 256;        // pixels decoded at a time
constexpr int64_t kRankPixels = 8192;  // pixels of one task

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Pixels [pixel, pixel + count) of one image as int32: values outside [0, limit) become -2.
inline void read_map(const PixelMap& map, int64_t image, int64_t width, int64_t pixel, int64_t count, int64_t limit,
                     int32_t* to) {
  constexpr int64_t nothing_ignored = INT64_MIN;
  while (count > 0) {
    const int64_t y = pixel / width, x = pixel % width, run = at_most(width - x, count);
    const int64_t offset = image * map.stride_image + y * map.stride_row + x * map.stride_column;
    switch (map.type) {
      case LabelType::u8:
        load_labels(to, static_cast<const uint8_t*>(map.data) + offset, map.stride_column, run, limit, nothing_ignored);
        break;
      case LabelType::i32:
        load_labels(to, static_cast<const int32_t*>(map.data) + offset, map.stride_column, run, limit, nothing_ignored);
        break;
      case LabelType::i64:
        load_labels(to, static_cast<const int64_t*>(map.data) + offset, map.stride_column, run, limit, nothing_ignored);
        break;
    }
    to += run, pixel += run, count -= run;
  }
}

inline int64_t value_at(const PixelMap& map, int64_t image, int64_t width, int64_t pixel) {
  const int64_t offset = image * map.stride_image + pixel / width * map.stride_row + pixel % width * map.stride_column;
  switch (map.type) {
    case LabelType::u8: return static_cast<const uint8_t*>(map.data)[offset];
    case LabelType::i32: return static_cast<const int32_t*>(map.data)[offset];
    case LabelType::i64: break;
  }
  return static_cast<const int64_t*>(map.data)[offset];
}

// The thinnest cell (class * granularities + granularity) of up to kBlock pixels of one image. -1: none; kBadBand,
// kBadLabel: none, and not because the caller said so.
constexpr int32_t kBadBand = -2, kBadLabel = -3;

inline void read_cells(const PrototypeCells& a, int64_t image, int64_t pixel, int64_t count, int32_t* cells) {
  int32_t bands[kBlock];
  read_map(a.labels, image, a.width, pixel, count, a.classes, cells);
  read_map(a.bands, image, a.width, pixel, count, a.granularities + 1, bands);
  const int32_t granularities = int32_t(a.granularities);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t inside = cells[i] < 0 ? kBadLabel : cells[i] * granularities + bands[i] - 1;
    cells[i] = bands[i] > 0 ? inside : bands[i] == 0 ? -1 : kBadBand;
  }
}

struct Ranked {
  uint64_t key;
  int32_t pixel;  // over all images: ties are broken by it
  int32_t granularity;
};

struct RankWork {
  const PrototypeRanksArgs& args;
  int64_t pixels, tasks;
  int32_t* cells;    // [pixels]
  int64_t* counts;   // [tasks, classes * granularities]
  int64_t* starts;   // [tasks, classes]: where a task's pixels of a class go
  int64_t* classes;  // [classes + 1]: where a class begins
  BadLabel* bad;     // [tasks, 2]
  Ranked* scattered;
  Ranked* sorted;
};

// Calls visit(image, pixel, first, count) for pieces of at most kBlock pixels of one image.
template <class Visit>
inline void each_block(const PrototypeCells& a, int64_t first, int64_t last, Visit visit) {
  const int64_t per_image = a.height * a.width;
  while (first < last) {
    const int64_t image = first / per_image, pixel = first % per_image;
    const int64_t count = at_most(at_most(kBlock, per_image - pixel), last - first);
    visit(image, pixel, first, count);
    first += count;
  }
}

void count_cells(int64_t begin, int64_t end, void* context) {
  auto& work = *static_cast<RankWork*>(context);
  const auto& a = work.args.cells;
  const int64_t cells = a.classes * a.granularities, slots = a.nested ? a.granularities : 1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kRankPixels, last = at_most(first + kRankPixels, work.pixels);
    int64_t* counts = work.counts + task * cells;
    std::memset(counts, 0, size_t(cells) * sizeof(int64_t));
    BadLabel* bad = work.bad + 2 * task;
    bad[0] = bad[1] = BadLabel{-1, 0};
    each_block(a, first, last, [&](int64_t image, int64_t pixel, int64_t at, int64_t count) {
      int32_t* cell = work.cells + at;
      read_cells(a, image, pixel, count, cell);
      for (int64_t i = 0; i < count; ++i) {
        if (cell[i] >= 0)
          ++counts[cell[i]];
        else if (cell[i] == kBadLabel && bad[0].image < 0)
          bad[0] = {image, value_at(a.labels, image, a.width, pixel + i)};
        else if (cell[i] == kBadBand && bad[1].image < 0)
          bad[1] = {image, value_at(a.bands, image, a.width, pixel + i)};
      }
    });
    if (work.args.ranks)
      for (int64_t slot = 0; slot < slots; ++slot)
        std::memset(work.args.ranks + slot * work.pixels + first, 0xff, size_t(last - first) * sizeof(int32_t));
  }
}

void scatter_keys(int64_t begin, int64_t end, void* context) {
  auto& work = *static_cast<RankWork*>(context);
  const auto& a = work.args.cells;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kRankPixels, last = at_most(first + kRankPixels, work.pixels);
    int64_t* next = work.starts + task * a.classes;
    each_block(a, first, last, [&](int64_t image, int64_t pixel, int64_t at, int64_t count) {
      const int32_t* cell = work.cells + at;
      const uint64_t state = sample_state(work.args.seed, work.args.step, work.args.sample_ids[image]);
      uint64_t keys[kBlock];
      for (int64_t i = 0; i < count; ++i) keys[i] = pixel_key(state, uint64_t(pixel + i));
      for (int64_t i = 0; i < count; ++i)
        if (cell[i] >= 0) {
          const int32_t c = cell[i] / int32_t(a.granularities);
          work.scattered[next[c]++] = {keys[i], int32_t(at + i), cell[i] - c * int32_t(a.granularities)};
        }
    });
  }
}

inline bool newer(const Ranked& a, const Ranked& b) { return a.key != b.key ? a.key > b.key : a.pixel > b.pixel; }

void rank_classes(int64_t begin, int64_t end, void* context) {
  auto& work = *static_cast<RankWork*>(context);
  const auto& a = work.args.cells;
  const int64_t G = a.granularities, limit = work.args.limit;
  Scratch<int64_t> seen(G);
  for (int64_t c = begin; c < end; ++c) {
    const int64_t count = work.classes[c + 1] - work.classes[c];
    if (count == 0) continue;
    const Ranked* source = work.scattered + work.classes[c];
    Ranked* sorted = work.sorted + work.classes[c];
    int bits = 0;
    while (bits < 20 && (int64_t(2) << bits) < count) ++bits;
    const int64_t buckets = int64_t(1) << bits;
    auto bucket_of = [&](uint64_t key) { return buckets - 1 - int64_t(key >> (63 - bits)); };  // newest first
    Scratch<int64_t> next(buckets + 1);
    std::memset(next.get(), 0, size_t(buckets + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < count; ++i) ++next[bucket_of(source[i].key) + 1];
    for (int64_t b = 0; b < buckets; ++b) next[b + 1] += next[b];
    // From the last pixel to the first: equal keys (one sample twice in the batch) arrive in their final order.
    for (int64_t i = count - 1; i >= 0; --i) sorted[next[bucket_of(source[i].key)]++] = source[i];
    std::memset(seen.get(), 0, size_t(G) * sizeof(int64_t));
    int64_t bucket_begin = 0, full = 0;
    for (int64_t b = 0; b < buckets && full < G; ++b) {
      const int64_t bucket_end = next[b];
      for (int64_t i = bucket_begin + 1; i < bucket_end; ++i) {
        const Ranked moving = sorted[i];
        int64_t j = i;
        for (; j > bucket_begin && newer(moving, sorted[j - 1]); --j) sorted[j] = sorted[j - 1];
        sorted[j] = moving;
      }
      for (int64_t i = bucket_begin; i < bucket_end; ++i) {
        const int64_t last = a.nested ? G : sorted[i].granularity + 1;
        for (int64_t g = sorted[i].granularity; g < last; ++g) {
          if (seen[g] == limit) continue;
          work.args.ranks[(a.nested ? g : 0) * work.pixels + sorted[i].pixel] = int32_t(seen[g]++);
          full += seen[g] == limit;
        }
      }
      bucket_begin = bucket_end;
    }
  }
}

}  // namespace
}  // namespace dgseg::DGSEG_ISA
