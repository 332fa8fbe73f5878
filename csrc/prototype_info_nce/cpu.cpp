// -log softmax of a pixel's similarities to all prototypes, at its own (class, band), and its gradient.
//
// Work for P band pixels, D channels, K seen prototypes: forward 2PDK FLOP, backward 4PDK (similarities again, then
// the gradient): at 65,536 x 256 x 57, 5.7 GFLOP. Must move: the features twice, the gradient once (192 MB there).
//
// A task is a range of pixels of one image. Its band pixels are packed tile by tile (tile.h); per panel of two vectors
// of pixels the similarities to all prototypes (multiply.h), the softmax and the gradient stay in the first-level
// cache. The backward uses the forward's logsumexp, so it keeps nothing else.
//
// Legend: D channels, k seen prototype, n lanes of a vector, panel = 2n pixels, entry = class * granularities + band,
// cosine = <f, p_k> / (|f| |p_k|), similarity = cosine / temperature.
#include "../common/simd.h"
#include "bank.h"
#include "kernel.h"
#include "tile.h"

namespace dgseg::DGSEG_ISA {
namespace {

constexpr int64_t kRange = 1024;  // pixels per task

int64_t ranges(const PrototypeInfoNceArgs& a) { return (a.height * a.width + kRange - 1) / kRange; }

template <class T>
struct Call {
  const PrototypeInfoNceArgs& a;
  const Bank<T>& bank;
  double* losses;  // per task, and so below
  int64_t* counts;
  BadLabel* bad_labels;
  BadLabel* bad_bands;
};

int64_t label_at(const PrototypeInfoNceArgs& a, int64_t offset) {
  switch (a.label_type) {
    case LabelType::u8: return static_cast<const uint8_t*>(a.labels)[offset];
    case LabelType::i32: return static_cast<const int32_t*>(a.labels)[offset];
    case LabelType::i64: break;
  }
  return static_cast<const int64_t*>(a.labels)[offset];
}

// The pixels of [begin, end) that have a term, and their entries. Bad labels and bands make no term.
template <class T>
int64_t select_pixels(const PrototypeInfoNceArgs& a, const Bank<T>& bank, int64_t image, int64_t begin, int64_t end,
                      int64_t* pixels, int64_t* entries, BadLabel& bad_label, BadLabel& bad_band) {
  int64_t count = 0, y = begin / a.width, x = begin % a.width;
  for (int64_t pixel = begin; pixel < end; ++pixel, ++x) {
    if (x == a.width) x = 0, ++y;
    const int64_t band = a.bands[image * a.band_strides.image + y * a.band_strides.row + x * a.band_strides.column];
    if (band == 0) continue;
    const int64_t label =
        label_at(a, image * a.label_strides.image + y * a.label_strides.row + x * a.label_strides.column);
    if (band > a.granularities) {
      if (bad_band.image < 0) bad_band = {image, band};
    } else if (label < 0 || label >= a.classes) {
      if (bad_label.image < 0) bad_label = {image, label};
    } else if (const int64_t entry = label * a.granularities + band - 1; bank.usable(entry)) {
      pixels[count] = pixel;
      entries[count++] = entry;
    }
  }
  return count;
}

// cosines[k][pixel of the panel], and 1 / |f|.
template <class T, int V>
void cosines_of(const Bank<T>& bank, const T* panel, const T* squares, T* cosines, T* inverse) {
  for (int i = 0; i < kPanel<T>; ++i) {
    const T length = std::sqrt(squares[i]);
    inverse[i] = T(1) / (length < T(kSmallestLength) ? T(kSmallestLength) : length);  // NaN stays NaN
  }
  multiply<T, V>(bank.by_prototype(), bank.seen(), panel, bank.channels(), [&](int64_t k, const auto& sums) {
    for (int v = 0; v < V; ++v)
      store(cosines + k * kPanel<T> + v * Lanes<T>::n, sums[v] * load(inverse + v * Lanes<T>::n));
  });
}

template <class T, int V>
void forward_panel(const Call<T>& call, const T* panel, const T* squares, const int64_t* pixels, const int64_t* entries,
                   int64_t count, T* cosines, T* log_sum_exp, double& loss, int64_t& terms) {
  using f = typename Lanes<T>::f;
  constexpr int n = Lanes<T>::n;
  alignas(64) T inverse[kPanel<T>], log_sums[kPanel<T>];
  cosines_of<T, V>(call.bank, panel, squares, cosines, inverse);
  const T scale = T(1 / call.a.temperature);
  const int64_t K = call.bank.seen();
  for (int v = 0; v < V; ++v) {
    const T* column = cosines + v * n;
    f biggest = load(column) * scale;
    for (int64_t k = 1; k < K; ++k) biggest = larger(biggest, load(column + k * kPanel<T>) * scale);
    f sum{};
    for (int64_t k = 0; k < K; ++k) sum += exponential<T>(load(column + k * kPanel<T>) * scale - biggest);
    store(log_sums + v * n, biggest + logarithm(sum));
  }
  for (int64_t i = 0; i < count; ++i) {
    log_sum_exp[pixels[i]] = log_sums[i];
    call.bank.each_term(entries[i], [&](int64_t k, T weight) {
      loss += double(weight * (log_sums[i] - cosines[k * kPanel<T> + i] * scale));
      ++terms;
    });
  }
}

// Turns the panel's features into their gradients.
template <class T, int V>
void backward_panel(const Call<T>& call, T* panel, const T* squares, const int64_t* pixels, const int64_t* entries,
                    int64_t count, T* cosines, const T* log_sum_exp) {
  using f = typename Lanes<T>::f;
  constexpr int n = Lanes<T>::n;
  alignas(64) T inverse[kPanel<T>], log_sums[kPanel<T>] = {}, total[kPanel<T>] = {}, along[kPanel<T>] = {};
  cosines_of<T, V>(call.bank, panel, squares, cosines, inverse);
  const T scale = T(1 / call.a.temperature), gradient = T(call.a.loss_gradient / call.a.temperature);
  const int64_t K = call.bank.seen();
  // d loss / d cosine_k = gradient * (sum of the terms' weights * softmax_k - weight_k where k is a term).
  for (int64_t i = 0; i < count; ++i) {
    log_sums[i] = log_sum_exp[pixels[i]];
    call.bank.each_term(entries[i], [&](int64_t k, T weight) {
      total[i] += weight * gradient;
      along[i] -= weight * gradient * cosines[k * kPanel<T> + i];
    });
  }
  for (int v = 0; v < V; ++v) {
    T* column = cosines + v * n;
    const f sums = load(total + v * n), shift = load(log_sums + v * n);
    f dot = load(along + v * n);
    for (int64_t k = 0; k < K; ++k) {
      const f cosine = load(column + k * kPanel<T>);
      const f slope = sums * exponential<T>(cosine * scale - shift);
      dot += slope * cosine;
      store(column + k * kPanel<T>, slope);
    }
    store(along + v * n, dot);
  }
  for (int64_t i = 0; i < count; ++i)
    call.bank.each_term(entries[i], [&](int64_t k, T weight) { cosines[k * kPanel<T> + i] -= weight * gradient; });
  // f / |f| turns; below the smallest length it only stretches, and the part along f stays.
  for (int i = 0; i < kPanel<T>; ++i)
    along[i] = std::sqrt(squares[i]) < T(kSmallestLength) ? T(0) : along[i] * inverse[i] * inverse[i];
  multiply<T, V>(call.bank.by_channel(), call.bank.channels(), cosines, K, [&](int64_t channel, const auto& sums) {
    for (int v = 0; v < V; ++v) {
      T* at = panel + channel * kPanel<T> + v * n;
      store(at, sums[v] * load(inverse + v * n) - load(at) * load(along + v * n));
    }
  });
}

template <class T, class S, bool backward>
void run_ranges(int64_t first, int64_t last, void* context) {
  const auto& call = *static_cast<const Call<T>*>(context);
  const PrototypeInfoNceArgs& a = call.a;
  const int64_t D = a.channels, size = a.height * a.width, capacity = Tile<T>::capacity(D);
  Tile<T> tile(D, a.width, kRange);
  Scratch<T> cosines((call.bank.seen() + 1) * kPanel<T>);
  Scratch<int64_t> pixel_memory(kRange), entry_memory(kRange);
  for (int64_t task = first; task < last; ++task) {
    const int64_t image = task / ranges(a), begin = task % ranges(a) * kRange;
    const int64_t end = begin + kRange < size ? begin + kRange : size;
    BadLabel bad_label, bad_band;
    const int64_t selected =
        select_pixels(a, call.bank, image, begin, end, pixel_memory.get(), entry_memory.get(), bad_label, bad_band);
    const S* features = static_cast<const S*>(a.features) + image * a.feature_strides.image;
    T* log_sum_exp = static_cast<T*>(a.log_sum_exp) + image * size;
    double loss = 0;
    int64_t terms = 0;
    if (!backward) std::memset(log_sum_exp + begin, 0, size_t(end - begin) * sizeof(T));
    int64_t written = begin;  // the gradient of all pixels before this one
    for (int64_t start = 0; start < selected || (backward && written < end);) {
      const int64_t count = selected - start < capacity ? selected - start : capacity;
      const int64_t* pixels = pixel_memory.get() + start;
      const int64_t* entries = entry_memory.get() + start;
      if (count > 0) tile.load_pixels(features, a.feature_strides, pixels, count);
      for (int64_t at = 0; at < count; at += kPanel<T>) {
        const int64_t rest = count - at < kPanel<T> ? count - at : kPanel<T>, index = at / kPanel<T>;
        const bool half = rest <= Lanes<T>::n;
        T* panel = tile.panel(index);
        const T* squares = tile.squares(index);
        if constexpr (backward)
          (half ? backward_panel<T, 1> : backward_panel<T, 2>)(call, panel, squares, pixels + at, entries + at, rest,
                                                               cosines.get(), log_sum_exp);
        else
          (half ? forward_panel<T, 1> : forward_panel<T, 2>)(call, panel, squares, pixels + at, entries + at, rest,
                                                             cosines.get(), log_sum_exp, loss, terms);
      }
      start += count;
      if constexpr (backward) {
        const int64_t stop = start < selected ? pixel_memory[start] : end;
        tile.store_pixels(static_cast<S*>(a.gradient) + image * a.gradient_strides.image, a.gradient_strides, pixels,
                          count, written, stop);
        written = stop;
      }
    }
    if constexpr (!backward) {
      call.losses[task] = loss;
      call.counts[task] = terms;
      call.bad_labels[task] = bad_label;
      call.bad_bands[task] = bad_band;
    }
  }
}

template <class T, class S>
void forward(const PrototypeInfoNceArgs& a, const Parallel& parallel) {
  const int64_t tasks = a.images * ranges(a);
  const Bank<T> bank(a);
  Scratch<double> losses(tasks);
  Scratch<int64_t> counts(tasks);
  Scratch<BadLabel> bad_labels(tasks), bad_bands(tasks);
  Call<T> call{a, bank, losses.get(), counts.get(), bad_labels.get(), bad_bands.get()};
  if (tasks > 0) parallel.run(tasks, run_ranges<T, S, false>, &call);
  *a.loss_sum = 0;
  *a.count = 0;
  for (int64_t task = 0; task < tasks; ++task) {
    *a.loss_sum += losses[task];
    *a.count += counts[task];
    if (a.bad_label->image < 0) *a.bad_label = bad_labels[task];
    if (a.bad_band->image < 0) *a.bad_band = bad_bands[task];
  }
}

template <class T, class S>
void backward(const PrototypeInfoNceArgs& a, const Parallel& parallel) {
  const int64_t tasks = a.images * ranges(a);
  const Bank<T> bank(a);
  Call<T> call{a, bank, nullptr, nullptr, nullptr, nullptr};
  if (tasks > 0) parallel.run(tasks, run_ranges<T, S, true>, &call);
}

}  // namespace

void prototype_info_nce_forward(const PrototypeInfoNceArgs& args, const Parallel& parallel) {
  switch (args.type) {
    case FloatType::f32: return forward<float, float>(args, parallel);
    case FloatType::f64: return forward<double, double>(args, parallel);
    case FloatType::f16: return forward<float, Half>(args, parallel);
    case FloatType::bf16: return forward<float, BFloat16>(args, parallel);
  }
}

void prototype_info_nce_backward(const PrototypeInfoNceArgs& args, const Parallel& parallel) {
  switch (args.type) {
    case FloatType::f32: return backward<float, float>(args, parallel);
    case FloatType::f64: return backward<double, double>(args, parallel);
    case FloatType::f16: return backward<float, Half>(args, parallel);
    case FloatType::bf16: return backward<float, BFloat16>(args, parallel);
  }
}

}  // namespace dgseg::DGSEG_ISA
