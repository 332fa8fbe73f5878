// The two halves of the prototype update: ranks.h says which pixel comes when, this file sums the features.
//
// Must move: the features once (those of pixels with a weight), labels, bands and ranks; 2 FLOPs a value for the norm
// and 2 for each cell that a pixel feeds. For [4, 256, 128, 128] float32 that is 67 MB.
//
// A tile of pixels is read plane by plane in long runs (planes lie a power of two apart, so walking them in lockstep
// would fight over one cache set) into a stage of one vector's worth of channels; from there it is squared for the
// norms and transposed, in registers, into one row per pixel. Then the rows of one cell are added with the sums in
// registers. Float sums are added to doubles every kFlushPixels.
//
// Legend: tile = up to `tile_pixels` consecutive pixels of one image, task = consecutive tiles, chunk = one vector's
// worth of pixels, row = one pixel's feature vector, padded with zeros to whole vectors.
#include "ranks.h"

namespace dgseg::DGSEG_ISA {
namespace {

// ---- transposing -----------------------------------------------------------------------------------------------

template <int... L>
struct LaneList {};
template <int Count, int... L>
struct CountLanes : CountLanes<Count - 1, Count - 1, L...> {};
template <int... L>
struct CountLanes<0, L...> {
  using list = LaneList<L...>;
};

// Of a 2x2 block matrix of step x step blocks: (a, b) -> its upper and its lower row after swapping the off-diagonal.
template <int Step, class V, int... L>
DGSEG_INLINE V upper(V a, V b, LaneList<L...>) {
  return __builtin_shufflevector(a, b, ((L & Step) ? int(sizeof...(L)) + L - Step : L)...);
}
template <int Step, class V, int... L>
DGSEG_INLINE V lower(V a, V b, LaneList<L...>) {
  return __builtin_shufflevector(a, b, ((L & Step) ? int(sizeof...(L)) + L : L + Step)...);
}

template <class T, int Step>
DGSEG_INLINE void transpose(typename Lanes<T>::f* v) {
  constexpr int n = Lanes<T>::n;
  using list = typename CountLanes<n>::list;
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (i & Step) continue;
    const auto a = v[i], b = v[i + Step];
    v[i] = upper<Step>(a, b, list{});
    v[i + Step] = lower<Step>(a, b, list{});
  }
  if constexpr (Step > 1) transpose<T, Step / 2>(v);
}

// ---- one tile --------------------------------------------------------------------------------------------------

// Consecutive pixels of a tile that lie at one stride.
struct Segment {
  int64_t source;  // offset in the features, channel 0
  int64_t begin, count;
};

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

// One pixel in one cell.
struct Entry {
  int32_t cell;
  int32_t pixel;  // in the tile
  double weight;
};

struct Geometry {
  int64_t tile_pixels, tiles_per_image, tiles, tasks, tiles_per_flush;
};

constexpr int64_t kTileBytes = 320 << 10;   // a tile's rows stay in the second-level cache
constexpr int64_t kFlushPixels = 4096;      // the length of a float sum
constexpr int64_t kPartialBytes = 32 << 20; // all tasks' sums together
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
class Tile {
  using T = typename ComputeType<S>::type;
  using V = typename Lanes<T>::f;
  static constexpr int n = Lanes<T>::n;

 public:
  Tile(const PrototypeSumsArgs& args, int64_t pixels)
      : a_(args),
        slots_(args.cells.nested ? args.cells.granularities : 1),
        cell_count_(args.cells.classes * args.cells.granularities),
        padded_(round_up(args.depth, n)),
        pitch_(padded_ + n),  // off a power of two
        stage_pitch_(pixels + n),
        rows_(pixels * pitch_),
        stage_(n * stage_pitch_),
        norms_(pixels),
        entries_(pixels * slots_),
        sorted_(pixels * slots_),
        next_(cell_count_ + 1),
        segments_(pixels + 1),
        chunks_(pixels / n + 1),
        chunk_sources_(pixels / n + 1),
        wanted_(pixels) {
    // Lanes behind a tile's end or the last channel go through the arithmetic: they must be harmless.
    std::memset(stage_.get(), 0, size_t(n * stage_pitch_) * sizeof(T));
    std::memset(rows_.get(), 0, size_t(pixels * pitch_) * sizeof(T));
  }

  int64_t padded() const { return padded_; }

  // sums[cell][0, padded) += its share of pixels [first, first + count) of an image; touched[cell] is set.
  void add(int64_t image, int64_t first, int64_t count, T* sums, bool* touched) {
    const int64_t entries = collect(image, first, count);
    if (entries == 0) return;
    if (a_.stride_channel == 1)
      read_rows(image, first, count);
    else
      read_planes(image, first, count);
    sort(entries);
    for (int64_t e = 0; e < entries;) {
      const int32_t cell = sorted_[e].cell;
      int64_t end = e + 1;
      while (end < entries && sorted_[end].cell == cell) ++end;
      touched[cell] = true;
      add_cell(sums + cell * padded_, sorted_.get() + e, end - e);
      e = end;
    }
  }

 private:
  // Who feeds which cell with which weight; wanted_[i] says whether pixel i is needed at all.
  int64_t collect(int64_t image, int64_t first, int64_t count) {
    int32_t cells[kBlock];
    read_cells(a_.cells, image, first, count, cells);
    const int64_t per_image = a_.cells.height * a_.cells.width, pixels = a_.cells.images * per_image;
    const int32_t G = int32_t(a_.cells.granularities);
    int64_t entries = 0;
    for (int64_t i = 0; i < count; ++i) {
      wanted_[i] = false;
      if (cells[i] < 0) continue;
      const int32_t last = a_.cells.nested ? (cells[i] / G + 1) * G : cells[i] + 1;
      for (int32_t cell = cells[i]; cell < last; ++cell) {
        double weight = a_.scales[cell];
        if (a_.ranks && a_.fades[cell]) {
          const int64_t slot = a_.cells.nested ? cell % G : 0;
          const int64_t rank = a_.ranks[slot * pixels + image * per_image + first + i];
          weight *= rank >= 0 && rank < a_.power_count ? a_.powers[rank] : 0.0;
        }
        if (weight == 0.0) continue;
        entries_[entries++] = {cell, int32_t(i), weight};
        wanted_[i] = true;
      }
    }
    return entries;
  }

  // NCHW and the like: rows_ and norms_ of every chunk that holds a wanted pixel.
  void read_planes(int64_t image, int64_t first, int64_t count) {
    const int64_t chunks = find_chunks(count), segments = find_segments(image, first, count, chunks);
    const S* source = static_cast<const S*>(a_.features);
    std::memset(norms_.get(), 0, size_t(round_up(count, n)) * sizeof(T));
    // Where whole vectors lie in the source as they are computed in, the stage is left out.
    const bool direct = kSame<S, T> && a_.stride_column == 1 && one_run() && count % n == 0;
    for (int64_t d = 0; d < a_.depth; d += n) {
      const int64_t planes = at_most(n, a_.depth - d);
      if (!direct || planes < n) stage_planes(d, planes, segments);
      // Meanwhile ask for the next channels, after the last ones for the first of the next tile: runs this short, of
      // planes this many, are more than the hardware foresees. A hint may point anywhere.
      const bool more = d + n < a_.depth;
      const int64_t ahead = more ? (d + n) * a_.stride_channel : count * a_.stride_column;
      const int64_t planes_ahead = more ? at_most(n, a_.depth - d - n) : at_most(n, a_.depth);
      for (int64_t c = 0; c < chunks; ++c) {
        const S* next = source + chunk_sources_[c] + ahead;
        for (int64_t j = 0; j < planes_ahead; ++j) __builtin_prefetch(next + j * a_.stride_channel);
        const T* from = stage_.get() + chunks_[c] * n;
        int64_t pitch = stage_pitch_;
        if constexpr (kSame<S, T>)
          if (direct && planes == n) from = source + chunk_sources_[c] + d * a_.stride_channel, pitch = a_.stride_channel;
        V v[n];
#pragma GCC unroll 16
        for (int j = 0; j < n; ++j) v[j] = load(from + j * pitch);
        V squares = splat(T(0));
#pragma GCC unroll 16
        for (int j = 0; j < n; ++j) squares += v[j] * v[j];
        T* norms = norms_.get() + chunks_[c] * n;
        store(norms, load(norms) + squares);
        transpose<T, n / 2>(v);
        T* row = rows_.get() + chunks_[c] * n * pitch_ + d;
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(row + i * pitch_, v[i]);
      }
    }
    finish_norms(count);
  }

  // stage_[j] = channel d + j of the segments, 0 from `planes` on.
  void stage_planes(int64_t d, int64_t planes, int64_t segments) {
    const S* source = static_cast<const S*>(a_.features) + d * a_.stride_channel;
    for (int64_t j = 0; j < planes; ++j)
      for (int64_t s = 0; s < segments; ++s) {
        const Segment& segment = segments_[s];
        load_row(stage_.get() + j * stage_pitch_ + segment.begin, source + j * a_.stride_channel + segment.source,
                 a_.stride_column, segment.count);
      }
    for (int64_t j = planes; j < n; ++j) std::memset(stage_.get() + j * stage_pitch_, 0, size_t(stage_pitch_) * sizeof(T));
  }

  // channels_last: a wanted pixel's row lies in memory as it is needed.
  void read_rows(int64_t image, int64_t first, int64_t count) {
    const S* source = static_cast<const S*>(a_.features) + image * a_.stride_image;
    const int64_t width = a_.cells.width;
    for (int64_t i = 0; i < count; ++i) {
      norms_[i] = T(0);
      if (!wanted_[i]) continue;
      const int64_t y = (first + i) / width, x = (first + i) % width;
      T* row = rows_.get() + i * pitch_;
      load_row(row, source + y * a_.stride_row + x * a_.stride_column, 1, a_.depth);
      V squares[2] = {splat(T(0)), splat(T(0))};
      for (int64_t d = 0; d < padded_; d += n) {
        const V v = load(row + d);
        squares[d / n & 1] += v * v;
      }
      norms_[i] = lane_sum<T>(squares[0] + squares[1]);
    }
    finish_norms(count);
  }

  // norms_ from sums of squares to 1 / max(norm, 1e-12), a NaN staying one.
  void finish_norms(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const T norm = std::sqrt(norms_[i]);
      norms_[i] = T(1) / (norm < T(1e-12) ? T(1e-12) : norm);
    }
  }

  int64_t find_chunks(int64_t count) {
    int64_t chunks = 0;
    for (int64_t begin = 0; begin < count; begin += n) {
      bool any = false;
      for (int64_t i = begin; i < at_most(begin + n, count); ++i) any |= wanted_[i];
      if (any) chunks_[chunks++] = int32_t(begin / n);
    }
    return chunks;
  }

  // Rows follow each other at the column stride.
  bool one_run() const { return a_.stride_row == a_.cells.width * a_.stride_column || a_.cells.height == 1; }

  // The wanted chunks as long runs at one stride.
  int64_t find_segments(int64_t image, int64_t first, int64_t count, int64_t chunks) {
    const int64_t width = one_run() ? a_.cells.height * a_.cells.width : a_.cells.width;
    int64_t segments = 0;
    for (int64_t c = 0; c < chunks;) {
      int64_t at = chunks_[c] * n, next = c + 1;
      while (next < chunks && chunks_[next] == chunks_[next - 1] + 1) ++next;
      const int64_t end = at_most(chunks_[next - 1] * n + n, count);
      for (int64_t i = c; i < next; ++i) {
        const int64_t y = (first + chunks_[i] * n) / width, x = (first + chunks_[i] * n) % width;
        chunk_sources_[i] = image * a_.stride_image + y * a_.stride_row + x * a_.stride_column;
      }
      while (at < end) {
        const int64_t y = (first + at) / width, x = (first + at) % width, run = at_most(width - x, end - at);
        segments_[segments++] = {image * a_.stride_image + y * a_.stride_row + x * a_.stride_column, at, run};
        at += run;
      }
      c = next;
    }
    return segments;
  }

  // By cell; pixels of one cell stay in their order.
  void sort(int64_t entries) {
    std::memset(next_.get(), 0, size_t(cell_count_ + 1) * sizeof(int32_t));
    for (int64_t e = 0; e < entries; ++e) ++next_[entries_[e].cell + 1];
    for (int64_t c = 0; c < cell_count_; ++c) next_[c + 1] += next_[c];
    for (int64_t e = 0; e < entries; ++e) sorted_[next_[entries_[e].cell]++] = entries_[e];
  }

  void add_cell(T* sum, const Entry* entries, int64_t count) {
    constexpr int wide = 8;
    int64_t d = 0;
    for (; d + wide * n <= padded_; d += wide * n) add_vectors<wide>(sum + d, d, entries, count);
    for (; d < padded_; d += n) add_vectors<1>(sum + d, d, entries, count);
  }

  template <int Vectors>
  void add_vectors(T* sum, int64_t d, const Entry* entries, int64_t count) {
    V total[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) total[v] = load(sum + v * n);
    for (int64_t e = 0; e < count; ++e) {
      const T* row = rows_.get() + entries[e].pixel * pitch_ + d;
      const V weight = splat(T(entries[e].weight) * norms_[entries[e].pixel]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) total[v] += weight * load(row + v * n);
    }
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(sum + v * n, total[v]);
  }

  const PrototypeSumsArgs& a_;
  const int64_t slots_, cell_count_, padded_, pitch_, stage_pitch_;
  Scratch<T> rows_;   // [pixels, pitch]
  Scratch<T> stage_;  // [n channels, stage_pitch]
  Scratch<T> norms_;  // [pixels]
  Scratch<Entry> entries_, sorted_;
  Scratch<int32_t> next_;
  Scratch<Segment> segments_;
  Scratch<int32_t> chunks_;         // those with a wanted pixel
  Scratch<int64_t> chunk_sources_;  // offsets of their first pixels in the features, channel 0
  Scratch<bool> wanted_;
};

// ---- tasks -----------------------------------------------------------------------------------------------------

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
  RankWork work{args,          pixels,    tasks,   cell_memory.get(), counts.get(), starts.get(),
                classes.get(), bad.get(), nullptr, nullptr};
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
