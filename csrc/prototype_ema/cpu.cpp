// The two halves of the prototype update: ranks.h says which pixel comes when, tile.h sums the features of a tile of
// pixels, and this file cuts the work into tasks.
//
// Must move: the features once (those of pixels with a weight), labels, bands and ranks; 2 FLOPs a value for the norm
// and 2 for each cell that a pixel feeds. For [4, 256, 128, 128] float32 that is 67 MB.
//
// Legend: tile = `tile_pixels` consecutive pixels of one image, task = consecutive tiles.
#include "tile.h"

namespace dgseg::DGSEG_ISA {
namespace {

struct Geometry {
  int64_t tile_pixels, tiles_per_image, tiles, tasks, tiles_per_flush;
};

constexpr int64_t kTileBytes = 320 << 10;    // a tile's rows stay in the second-level cache
constexpr int64_t kFlushPixels = 4096;       // the length of a float sum
constexpr int64_t kPartialBytes = 32 << 20;  // all tasks' sums together
constexpr int64_t kMostTasks = 64;

int64_t element_bytes(FloatType type) { return type == FloatType::f64 ? 8 : 4; }

// A function of the shape alone, whatever the vector width or the number of threads.
Geometry geometry(const PrototypeSumsArgs& a) {
  const int64_t per_image = a.cells.height * a.cells.width, cells = a.cells.classes * a.cells.granularities;
  Geometry g;
  g.tile_pixels = kBlock;
  while (g.tile_pixels > 16 && g.tile_pixels * (a.depth + 16) * element_bytes(a.type) > kTileBytes) g.tile_pixels /= 2;
  g.tiles_per_image = (per_image + g.tile_pixels - 1) / g.tile_pixels;
  g.tiles = g.tiles_per_image * a.cells.images;
  g.tiles_per_flush = kFlushPixels / g.tile_pixels;
  const int64_t by_memory = kPartialBytes / (cells * a.depth * int64_t(sizeof(double)) + 1);
  g.tasks = at_most(at_most((g.tiles + g.tiles_per_flush - 1) / g.tiles_per_flush, kMostTasks), by_memory);
  if (g.tasks < 1) g.tasks = 1;
  return g;
}

struct SumsWork {
  const PrototypeSumsArgs& args;
  Geometry geometry;
  double* partial;  // [tasks, cells, depth]
};

template <class S>
void sum_task(const SumsWork& work, int64_t task) {
  using T = typename ComputeType<S>::type;
  const auto& a = work.args;
  const Geometry& g = work.geometry;
  const int64_t cells = a.cells.classes * a.cells.granularities, per_image = a.cells.height * a.cells.width;
  Tile<S> tile(a, g.tile_pixels);
  Scratch<T> sums(cells * tile.padded());
  Scratch<bool> touched(cells);
  std::memset(sums.get(), 0, size_t(cells * tile.padded()) * sizeof(T));
  std::memset(touched.get(), 0, size_t(cells));
  double* partial = work.partial + task * cells * a.depth;
  std::memset(partial, 0, size_t(cells * a.depth) * sizeof(double));
  const int64_t begin = task * g.tiles / g.tasks, end = (task + 1) * g.tiles / g.tasks;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t % g.tiles_per_image * g.tile_pixels;
    tile.add(t / g.tiles_per_image, first, at_most(g.tile_pixels, per_image - first), sums.get(), touched.get());
    if ((t + 1 - begin) % g.tiles_per_flush != 0 && t + 1 != end) continue;
    for (int64_t cell = 0; cell < cells; ++cell) {
      if (!touched[cell]) continue;
      T* from = sums.get() + cell * tile.padded();
      double* to = partial + cell * a.depth;
      for (int64_t d = 0; d < a.depth; ++d) to[d] += double(from[d]);
      std::memset(from, 0, size_t(tile.padded()) * sizeof(T));
      touched[cell] = false;
    }
  }
}

void sum_tasks(int64_t begin, int64_t end, void* context) {
  const auto& work = *static_cast<const SumsWork*>(context);
  for (int64_t task = begin; task < end; ++task) switch (work.args.type) {
      case FloatType::f32: sum_task<float>(work, task); break;
      case FloatType::f64: sum_task<double>(work, task); break;
      case FloatType::f16: sum_task<Half>(work, task); break;
      case FloatType::bf16: sum_task<BFloat16>(work, task); break;
    }
}

void combine_cells(int64_t begin, int64_t end, void* context) {
  const auto& work = *static_cast<const SumsWork*>(context);
  const int64_t depth = work.args.depth, cells = work.args.cells.classes * work.args.cells.granularities;
  for (int64_t cell = begin; cell < end; ++cell) {
    double* to = work.args.sums + cell * depth;
    std::memset(to, 0, size_t(depth) * sizeof(double));
    for (int64_t task = 0; task < work.geometry.tasks; ++task) {
      const double* from = work.partial + (task * cells + cell) * depth;
      for (int64_t d = 0; d < depth; ++d) to[d] += from[d];
    }
  }
}

}  // namespace

void prototype_ranks(const PrototypeRanksArgs& args, const Parallel& parallel) {
  const auto& a = args.cells;
  const int64_t pixels = a.images * a.height * a.width, cells = a.classes * a.granularities;
  const int64_t tasks = (pixels + kRankPixels - 1) / kRankPixels;
  *args.bad_label = *args.bad_band = BadLabel{-1, 0};
  std::memset(args.counts, 0, size_t(cells) * sizeof(int64_t));
  if (pixels == 0) return;
  Scratch<int32_t> cell_memory(pixels);
  Scratch<int64_t> counts(tasks * cells), starts(tasks * a.classes), classes(a.classes + 1);
  Scratch<BadLabel> bad(2 * tasks);
  RankWork work{args,         pixels,        tasks,     cell_memory.get(), counts.get(),
                starts.get(), classes.get(), bad.get(), nullptr,           nullptr};
  parallel.run(tasks, count_cells, &work);
  for (int64_t task = tasks - 1; task >= 0; --task) {
    if (bad[2 * task].image >= 0) *args.bad_label = bad[2 * task];
    if (bad[2 * task + 1].image >= 0) *args.bad_band = bad[2 * task + 1];
  }
  int64_t total = 0;
  for (int64_t c = 0; c < a.classes; ++c) {
    classes[c] = total;
    for (int64_t task = 0; task < tasks; ++task) {
      starts[task * a.classes + c] = total;
      for (int64_t g = 0; g < a.granularities; ++g) {
        const int64_t here = counts[task * cells + c * a.granularities + g];
        args.counts[c * a.granularities + g] += here;
        total += here;
      }
    }
    if (a.nested)
      for (int64_t g = 1; g < a.granularities; ++g)
        args.counts[c * a.granularities + g] += args.counts[c * a.granularities + g - 1];
  }
  classes[a.classes] = total;
  if (!args.ranks || total == 0) return;
  Scratch<Ranked> scattered(total), sorted(total);
  work.scattered = scattered.get();
  work.sorted = sorted.get();
  parallel.run(tasks, scatter_keys, &work);
  parallel.run(a.classes, rank_classes, &work);
}

void prototype_sums(const PrototypeSumsArgs& args, const Parallel& parallel) {
  const int64_t cells = args.cells.classes * args.cells.granularities;
  SumsWork work{args, geometry(args), nullptr};
  if (work.geometry.tiles == 0) {
    std::memset(args.sums, 0, size_t(cells * args.depth) * sizeof(double));
    return;
  }
  Scratch<double> partial(work.geometry.tasks * cells * args.depth);
  work.partial = partial.get();
  parallel.run(work.geometry.tasks, sum_tasks, &work);
  parallel.run(cells, combine_cells, &work);
}

}  // namespace dgseg::DGSEG_ISA
