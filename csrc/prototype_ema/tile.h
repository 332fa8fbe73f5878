// One tile of pixels of the weighted sums. Included by cpu.cpp alone; anonymous: see common/isa.h.
//
// A tile is read in blocks of one vector's worth of channels, in long runs of each plane; every block is squared for
// the norms and transposed, in registers, into one row per pixel. Then the rows of one cell are added with the sums
// in registers.
//
// Legend: tile = up to kBlock consecutive pixels of one image, chunk = one vector's worth of pixels, row = one pixel's
// feature vector, padded with zeros to whole vectors.
#pragma once
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
          if (direct && planes == n)
            from = source + chunk_sources_[c] + d * a_.stride_channel, pitch = a_.stride_channel;
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
    for (int64_t j = planes; j < n; ++j)
      std::memset(stage_.get() + j * stage_pitch_, 0, size_t(stage_pitch_) * sizeof(T));
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

}  // namespace
}  // namespace dgseg::DGSEG_ISA
