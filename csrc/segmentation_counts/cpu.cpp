// Confusion counts of labels against the argmax of bilinearly upsampled logits, which never exist as a tensor.
//
// Must move: the logits at their own size and the labels, once: 3 MB for 19 x 128 x 256 fp32 and 512 x 1024 uint8.
// Must compute: per output pixel and class one multiply-add, one comparison, two selections (vertical interpolation
// and running argmax), plus the horizontal interpolation, which all output rows between two source rows share.
//
// Where the same class leads at all four source pixels around an output pixel, it leads in between too, because
// interpolation weights are not negative: such vectors cost nothing but counting. This is decided in exact arithmetic
// (the leader must be strictly above smaller class numbers at every corner, and at least equal to larger ones), so it
// never disagrees with interpolated values beyond their rounding.
//
// Legend: y, x output row and column; i, j source row and column; block = a range of columns whose source pixels, all
// classes, two rows, fit in the first-level cache; n = lanes of a vector; leader = class of the largest logit.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../common/bilinear.h"
#include "../common/scratch.h"
#include "../common/simd.h"
#include "kernel.h"

namespace dgseg::DGSEG_ISA {
namespace {

constexpr int64_t kTaskPixels = 32768;
constexpr int64_t kBlockBytes = 32768;
constexpr int64_t kBlockMultiple = 64;
constexpr int kRows = 4;  // output rows predicted together: they share the horizontal interpolation

template <class Vector>
DGSEG_INLINE bool any(Vector mask) {
#if defined(__AVX512F__)
  const __m512i m = bits<__m512i>(mask);
  return _mm512_test_epi32_mask(m, m) != 0;
#elif defined(__AVX2__)
  const __m256i m = bits<__m256i>(mask);
  return !_mm256_testz_si256(m, m);
#else
  uint64_t halves[2];
  std::memcpy(halves, &mask, sizeof halves);
  return (halves[0] | halves[1]) != 0;
#endif
}

// from[lanes[0]], from[lanes[1]], ...; every lane number is below n.
DGSEG_INLINE Lanes<float>::f pick(const float* from, Lanes<float>::i lanes) {
#if defined(__AVX512F__)
  return bits<Lanes<float>::f>(_mm512_permutexvar_ps(bits<__m512i>(lanes), _mm512_loadu_ps(from)));
#elif defined(__AVX2__)
  return bits<Lanes<float>::f>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(from), bits<__m256i>(lanes)));
#else
  Lanes<float>::f v;
  for (int lane = 0; lane < Lanes<float>::n; ++lane) v[lane] = from[lanes[lane]];
  return v;
#endif
}
DGSEG_INLINE Lanes<double>::f pick(const double* from, Lanes<double>::i lanes) {
#if defined(__AVX512F__)
  return bits<Lanes<double>::f>(_mm512_permutexvar_pd(bits<__m512i>(lanes), _mm512_loadu_pd(from)));
#else
  Lanes<double>::f v;
  for (int lane = 0; lane < Lanes<double>::n; ++lane) v[lane] = from[lanes[lane]];
  return v;
#endif
}

// ---- running argmax ------------------------------------------------------------------------------------------

template <class T>
struct Leader {
  using f = typename Lanes<T>::f;
  using i = typename Lanes<T>::i;
  f value = splat(T(-INFINITY));
  i index = i{};

  // Finite values: the first of equals stays.
  DGSEG_INLINE void offer(f v, i c) {
    index = v > value ? c : index;
    value = larger(value, v);
  }
  // As torch.argmax: a NaN is larger than everything, the first NaN stays.
  DGSEG_INLINE void offer_any(f v, i c) {
    const i take = ~(v <= value) & (value == value);
    index = take ? c : index;
    value = take ? v : value;
  }
};

template <class T>
DGSEG_INLINE void store_classes(int32_t* to, typename Lanes<T>::i classes) {
  for (int lane = 0; lane < Lanes<T>::n; ++lane) to[lane] = int32_t(classes[lane]);
}
template <>
DGSEG_INLINE void store_classes<float>(int32_t* to, Lanes<float>::i classes) {
  std::memcpy(to, &classes, sizeof classes);
}

// ---- source rows ---------------------------------------------------------------------------------------------

// Where every output column reads: lane numbers count from `start` of its vector.
template <class T>
struct Columns {
  static constexpr int n = Lanes<T>::n;
  int64_t vectors;
  int64_t next;                              // how far the right neighbour is: 0 where columns are not resized
  Scratch<int64_t> start;                    // [vectors]
  Scratch<typename Lanes<T>::integer> lane;  // [vectors * n]
  Scratch<T> weight;                         // [vectors * n], of the right neighbour

  Columns(int64_t in, int64_t out)
      : vectors(round_up(out, kBlockMultiple) / n),
        next(in < out),
        start(vectors),
        lane(vectors * n),
        weight(vectors * n) {
    for (int64_t v = 0; v < vectors; ++v)
      for (int64_t l = 0; l < n; ++l) {
        const int64_t x = v * n + l;
        const Source s = source(x < out ? x : out - 1, in, out);
        if (l == 0) start[v] = s.index;
        lane[x] = typename Lanes<T>::integer(s.index - start[v]);
        weight[x] = T(s.numerator) / T(2 * out);
      }
  }
};

// One source row of a block: all classes, contiguous, in compute type; the last column is repeated as its own
// right neighbour, and far enough for whole vectors to be read.
template <class T>
struct SourceRow {
  int64_t row = -1;
  bool tame = false;  // finite and far from overflow: differences need no care
  Scratch<T> values;  // [classes][pitch]
  Scratch<T> leader;  // [pitch], class numbers; only where shortcuts are on and the row is tame

  SourceRow(int64_t classes, int64_t pitch) : values(classes * pitch), leader(pitch) {}
};

template <class T>
constexpr T kTame = T(1e30);
template <>
constexpr double kTame<double> = 1e300;

template <class S>
struct Job {
  using T = typename ComputeType<S>::type;
  const SegmentationCountsArgs& a;
  const Columns<T>* columns;  // null: logits are at label size
  bool shortcuts;
  int64_t block;        // output columns of a block, a multiple of kBlockMultiple
  int64_t pitch;        // source columns of a block, with room to read vectors beyond
  int64_t rows, tasks;  // output rows of a task, tasks per image
  int64_t* bad_image;   // the smallest image with a bad label; `images` where there is none
};

template <class S, class T>
void load_source_row(const Job<S>& job, SourceRow<T>& to, int64_t image, int64_t row, int64_t first, int64_t count) {
  const auto& a = job.a;
  const S* from =
      static_cast<const S*>(a.logits) + image * a.logits_image + row * a.logits_row + first * a.logits_column;
  int wild = 0;
  for (int64_t c = 0; c < a.classes; ++c) {
    T* values = to.values.get() + c * job.pitch;
    load_row(values, from + c * a.logits_class, a.logits_column, count);
    for (int64_t j = count; j < job.pitch; ++j) values[j] = values[count - 1];
    for (int64_t j = 0; j < count; ++j) wild |= !((values[j] < kTame<T>)&(values[j] > -kTame<T>));
  }
  to.row = row;
  to.tame = wild == 0;
  if (!job.shortcuts || !to.tame) return;
  for (int64_t j = 0; j + Lanes<T>::n <= job.pitch; j += Lanes<T>::n) {
    Leader<T> leader;
    for (int64_t c = 0; c < a.classes; ++c)
      leader.offer(load(to.values.get() + c * job.pitch + j), typename Lanes<T>::i{} + typename Lanes<T>::integer(c));
    store<T>(to.leader.get() + j, __builtin_convertvector(leader.index, typename Lanes<T>::f));
  }
}

// ---- predictions ---------------------------------------------------------------------------------------------

template <class T>
void predict_direct(const SourceRow<T>& source, int64_t classes, int64_t pitch, int64_t count, int32_t* predictions) {
  constexpr int n = Lanes<T>::n;
  for (int64_t x = 0; x < count; x += n) {
    Leader<T> leader;
    const T* values = source.values.get() + x;
    if (source.tame)
      for (int64_t c = 0; c < classes; ++c)
        leader.offer(load(values + c * pitch), typename Lanes<T>::i{} + typename Lanes<T>::integer(c));
    else
      for (int64_t c = 0; c < classes; ++c)
        leader.offer_any(load(values + c * pitch), typename Lanes<T>::i{} + typename Lanes<T>::integer(c));
    store_classes<T>(predictions + x, leader.index);
  }
}

template <class T>
struct Pair {
  const SourceRow<T>& top;
  const SourceRow<T>& bottom;
  const T* common;  // [pitch] the class that leads at j, j + 1 of both rows, or -1; null without shortcuts
  T weight[kRows];  // of the bottom row, per output row
};

// `R` output rows between two source rows. `predictions` are rows of `stride`.
template <int R, bool Tame, class T>
void predict_between(const Columns<T>& columns, const Pair<T>& pair, int64_t classes, int64_t pitch, int64_t x0,
                     int64_t count, int32_t* predictions, int64_t stride) {
  using f = typename Lanes<T>::f;
  using i = typename Lanes<T>::i;
  constexpr int n = Lanes<T>::n;
  const int64_t first = columns.start[x0 / n];
  for (int64_t x = 0; x < count; x += n) {
    const int64_t at = columns.start[(x0 + x) / n] - first;
    const i lanes = load_integers<T>(columns.lane.get() + x0 + x);
    if (pair.common) {
      const f common = pick(pair.common + at, lanes);
      if (!any(common < 0)) {
        const i known = __builtin_convertvector(common, i);
        for (int r = 0; r < R; ++r) store_classes<T>(predictions + r * stride + x, known);
        continue;
      }
    }
    const f right = load(columns.weight.get() + x0 + x);
    Leader<T> leader[R];
    const T* top = pair.top.values.get() + at;
    const T* bottom = pair.bottom.values.get() + at;
    for (int64_t c = 0; c < classes; ++c, top += pitch, bottom += pitch) {
      const i number = i{} + typename Lanes<T>::integer(c);
      f above = pick(top, lanes), below = pick(bottom, lanes);
      const f above_next = pick(top + columns.next, lanes), below_next = pick(bottom + columns.next, lanes);
      if constexpr (Tame) {
        above = above + right * (above_next - above);
        below = below + right * (below_next - below);
        const f difference = below - above;
        for (int r = 0; r < R; ++r) leader[r].offer(above + pair.weight[r] * difference, number);
      } else {
        // Products first, as torch has it: what infinities do to their neighbours (0 * inf) is the same then.
        above = (1 - right) * above + right * above_next;
        below = (1 - right) * below + right * below_next;
        for (int r = 0; r < R; ++r) leader[r].offer_any((1 - pair.weight[r]) * above + pair.weight[r] * below, number);
      }
    }
    for (int r = 0; r < R; ++r) store_classes<T>(predictions + r * stride + x, leader[r].index);
  }
}

template <bool Tame, class T>
void predict_rows(int rows, const Columns<T>& columns, const Pair<T>& pair, int64_t classes, int64_t pitch, int64_t x0,
                  int64_t count, int32_t* predictions, int64_t stride) {
  switch (rows) {
    case 1: return predict_between<1, Tame>(columns, pair, classes, pitch, x0, count, predictions, stride);
    case 2: return predict_between<2, Tame>(columns, pair, classes, pitch, x0, count, predictions, stride);
    case 3: return predict_between<3, Tame>(columns, pair, classes, pitch, x0, count, predictions, stride);
    default: return predict_between<4, Tame>(columns, pair, classes, pitch, x0, count, predictions, stride);
  }
}

template <class T>
void common_leaders(const SourceRow<T>& top, const SourceRow<T>& bottom, int64_t pitch, T* common) {
  const T* a = top.leader.get();
  const T* b = bottom.leader.get();
  for (int64_t j = 0; j + 1 < pitch; ++j)
    common[j] = (a[j] == a[j + 1]) & (b[j] == b[j + 1]) & (a[j] == b[j]) ? a[j] : T(-1);
  common[pitch - 1] = -1;
}

// ---- counting ------------------------------------------------------------------------------------------------

// label * classes for valid pixels, classes * classes for ignored ones: the histogram's last row takes what does not
// count, whatever was predicted. True if some label is neither a class nor ignored (it is not counted either).
template <class L>
bool load_truth(int32_t* __restrict to, const L* __restrict from, int64_t stride, int64_t count, int64_t classes,
                int64_t ignore_index) {
  using Wide = std::conditional_t<sizeof(L) == 8, int64_t, int32_t>;
  const bool can_ignore = int64_t(L(ignore_index)) == ignore_index;
  const Wide ignore = Wide(L(ignore_index)), top = Wide(classes);
  const int32_t width = int32_t(classes), skip = int32_t(classes * classes);
  int32_t bad = 0;
  auto convert = [&](int64_t step) __attribute__((always_inline)) {
    for (int64_t x = 0; x < count; ++x) {
      const Wide v = from[x * step];
      const bool ignored = can_ignore & (v == ignore), known = (v >= 0) & (v < top);
      bad |= int32_t(!(known | ignored));
      to[x] = known & !ignored ? int32_t(v) * width : skip;
    }
  };
  if (stride == 1)
    convert(1);
  else
    convert(stride);
  return bad != 0;
}

bool load_truth(const SegmentationCountsArgs& a, int64_t image, int64_t y, int64_t x, int64_t count, int32_t* to) {
  const int64_t at = image * a.labels_image + y * a.labels_row + x * a.labels_column;
  switch (a.labels_type) {
    case LabelType::u8:
      return load_truth(to, static_cast<const uint8_t*>(a.labels) + at, a.labels_column, count, a.classes,
                        a.ignore_index);
    case LabelType::i32:
      return load_truth(to, static_cast<const int32_t*>(a.labels) + at, a.labels_column, count, a.classes,
                        a.ignore_index);
    default:
      return load_truth(to, static_cast<const int64_t*>(a.labels) + at, a.labels_column, count, a.classes,
                        a.ignore_index);
  }
}

// Counts of (label, prediction). Small ones are kept in several copies, interleaved, so that neighbouring pixels of
// one kind do not wait for each other's increment.
class Histogram {
 public:
  explicit Histogram(int64_t classes)
      : classes_(classes), copies_(classes <= 64 ? kCopies : 1), bins_((classes + 1) * classes * copies_) {
    std::memset(bins_.get(), 0, size_t((classes + 1) * classes * copies_) * 4);
  }

  // truth and predictions are readable up to a whole vector; truth beyond `count` says "skip".
  void add(const int32_t* truth, const int32_t* predictions, int64_t count) {
    if (copies_ == kCopies)
      add<kCopies>(truth, predictions, count);
    else
      add<1>(truth, predictions, count);
  }

  // The bins are 32 bits wide: pour them out before `pixels` more could overflow one.
  void make_room(int64_t pixels, int64_t* counts) {
    if (held_ + pixels > INT32_MAX) pour(counts);
    held_ += pixels;
  }

  // Other threads pour into the same counts; sums of integers do not depend on the order.
  void pour(int64_t* counts) {
    for (int64_t label = 0; label < classes_; ++label)
      for (int64_t prediction = 0; prediction < classes_; ++prediction) {
        uint32_t* bin = bins_.get() + (label * classes_ + prediction) * copies_;
        int64_t sum = 0;
        for (int64_t copy = 0; copy < copies_; ++copy) sum += bin[copy], bin[copy] = 0;
        if (sum) __atomic_fetch_add(counts + label * (classes_ + 1) + prediction, sum, __ATOMIC_RELAXED);
      }
    held_ = 0;
  }

 private:
  static constexpr int kCopies = 4;

  template <int Copies>
  void add(const int32_t* truth, const int32_t* predictions, int64_t count) {
    using i = Lanes<float>::i;
    constexpr int n = Lanes<float>::n;
    uint32_t* bins = bins_.get();
    for (int64_t x = 0; x < count; x += n) {
      const i bin = (load_integers<float>(truth + x) + load_integers<float>(predictions + x)) * Copies;
      if (!any(bin != bin[0])) {
        bins[bin[0]] += n;
      } else {
        int32_t lanes[n];
        std::memcpy(lanes, &bin, sizeof lanes);
        for (int lane = 0; lane < n; ++lane) ++bins[lanes[lane] + lane % Copies];
      }
    }
  }

  int64_t classes_, copies_;
  Scratch<uint32_t> bins_;
  int64_t held_ = 0;
};

// ---- tasks ---------------------------------------------------------------------------------------------------

template <class S>
void run_tasks(int64_t begin, int64_t end, void* context) {
  const auto& job = *static_cast<const Job<S>*>(context);
  using T = typename ComputeType<S>::type;
  const auto& a = job.a;
  Histogram histogram(a.classes);
  SourceRow<T> even(a.classes, job.pitch), odd(a.classes, job.pitch);
  Scratch<T> common(job.pitch);
  Scratch<int32_t> truth(job.block), predictions(kRows * job.block);
  // Counting reads whole vectors: beyond the last column there must be some class.
  std::memset(predictions.get(), 0, size_t(kRows * job.block) * sizeof(int32_t));

  for (int64_t task = begin; task < end; ++task) {
    const int64_t image = task / job.tasks, y0 = task % job.tasks * job.rows;
    const int64_t y1 = y0 + job.rows < a.label_height ? y0 + job.rows : a.label_height;
    histogram.make_room((y1 - y0) * round_up(a.label_width, kBlockMultiple), a.counts);
    for (int64_t x0 = 0; x0 < a.label_width; x0 += job.block) {
      const int64_t count = x0 + job.block < a.label_width ? job.block : a.label_width - x0;
      const int64_t padded = round_up(count, Lanes<float>::n);
      for (int64_t x = count; x < padded; ++x) truth[x] = int32_t(a.classes * a.classes);
      const int64_t first = job.columns ? job.columns->start[x0 / Lanes<T>::n] : x0;
      const int64_t last = job.columns ? source(x0 + count - 1, a.width, a.label_width).index + 1 : x0 + count - 1;
      const int64_t source_columns = (last < a.width ? last + 1 : a.width) - first;
      even.row = odd.row = -1;
      auto fetch = [&](int64_t row) -> SourceRow<T>& {
        SourceRow<T>& slot = row % 2 ? odd : even;
        if (slot.row != row) load_source_row(job, slot, image, row, first, source_columns);
        return slot;
      };
      int64_t common_row = -1;
      for (int64_t y = y0; y < y1;) {
        int rows = 1;
        if (!job.columns) {
          predict_direct(fetch(y), a.classes, job.pitch, count, predictions.get());
        } else {
          const int64_t i = source(y, a.height, a.label_height).index;
          T weight[kRows] = {};
          for (rows = 0; rows < kRows && y + rows < y1; ++rows) {
            const Source s = source(y + rows, a.height, a.label_height);
            if (s.index != i) break;
            weight[rows] = T(s.numerator) / T(2 * a.label_height);
          }
          const SourceRow<T>& top = fetch(i);
          const SourceRow<T>& bottom = fetch(i + 1 < a.height && a.height < a.label_height ? i + 1 : i);
          const bool tame = top.tame && bottom.tame;
          if (job.shortcuts && tame && common_row != i) {
            common_leaders(top, bottom, job.pitch, common.get());
            common_row = i;
          }
          Pair<T> pair{top, bottom, job.shortcuts && tame ? common.get() : nullptr, {}};
          std::memcpy(pair.weight, weight, sizeof weight);
          auto predict = tame ? &predict_rows<true, T> : &predict_rows<false, T>;
          predict(rows, *job.columns, pair, a.classes, job.pitch, x0, count, predictions.get(), job.block);
        }
        for (int r = 0; r < rows; ++r, ++y) {
          if (load_truth(a, image, y, x0, count, truth.get())) {
            int64_t seen = __atomic_load_n(job.bad_image, __ATOMIC_RELAXED);
            while (image < seen && !__atomic_compare_exchange_n(job.bad_image, &seen, image, true, __ATOMIC_RELAXED,
                                                                __ATOMIC_RELAXED)) {
            }
          }
          histogram.add(truth.get(), predictions.get() + r * job.block, count);
        }
      }
    }
  }
  histogram.pour(a.counts);
}

template <class L>
BadLabel find_bad(const SegmentationCountsArgs& a, int64_t image) {
  const L* labels = static_cast<const L*>(a.labels) + image * a.labels_image;
  for (int64_t y = 0; y < a.label_height; ++y)
    for (int64_t x = 0; x < a.label_width; ++x) {
      const int64_t v = int64_t(labels[y * a.labels_row + x * a.labels_column]);
      if (v != a.ignore_index && (v < 0 || v >= a.classes)) return {image, v};
    }
  return {};
}

template <class S>
void count(const SegmentationCountsArgs& a, const Columns<typename ComputeType<S>::type>* columns,
           const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  // Source columns that two rows of all classes have room for, as output columns.
  const int64_t room = kBlockBytes / int64_t(2 * sizeof(T) * a.classes) * a.label_width / a.width;
  const int64_t whole = round_up(a.label_width, kBlockMultiple);
  const int64_t wanted = room < kBlockMultiple ? kBlockMultiple : room / kBlockMultiple * kBlockMultiple;
  const int64_t block = wanted < whole ? wanted : whole;
  const int64_t source_columns = block * a.width / a.label_width + 3;
  int64_t bad_image = a.images;
  Job<S> job{a, columns, false,     block, round_up(source_columns + Lanes<T>::n + 1, kBlockMultiple / 4),
             0, 0,       &bad_image};
  // Looking for leaders costs one argmax per source pixel: worth it where outputs are several times as many.
  job.shortcuts = columns && a.label_height * a.label_width >= 4 * a.height * a.width;
  job.rows = (kTaskPixels + a.label_width - 1) / a.label_width;
  job.tasks = (a.label_height + job.rows - 1) / job.rows;
  parallel.run(a.images * job.tasks, run_tasks<S>, &job);
  if (bad_image == a.images) return;
  switch (a.labels_type) {
    case LabelType::u8: *a.bad = find_bad<uint8_t>(a, bad_image); break;
    case LabelType::i32: *a.bad = find_bad<int32_t>(a, bad_image); break;
    case LabelType::i64: *a.bad = find_bad<int64_t>(a, bad_image); break;
  }
}

template <class S>
void count(const SegmentationCountsArgs& a, const Parallel& parallel) {
  if (a.height == a.label_height && a.width == a.label_width) return count<S>(a, nullptr, parallel);
  const Columns<typename ComputeType<S>::type> columns(a.width, a.label_width);
  count<S>(a, &columns, parallel);
}

}  // namespace

void segmentation_counts(const SegmentationCountsArgs& args, const Parallel& parallel) {
  if (args.images * args.label_height * args.label_width == 0) return;
  switch (args.logits_type) {
    case FloatType::f32: return count<float>(args, parallel);
    case FloatType::f64: return count<double>(args, parallel);
    case FloatType::f16: return count<Half>(args, parallel);
    case FloatType::bf16: return count<BFloat16>(args, parallel);
  }
}

}  // namespace dgseg::DGSEG_ISA
