// The CPU kernel, and the CUDA kernel's phases run on the CPU, against a naive loop in double. Logits are small
// integers and sizes such that interpolation is exact in every type: counts must be equal, ties included.
#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

#include "cuda_phases.h"
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
  int64_t N, C, h, w, H, W;
  bool wild;  // infinities and NaN among the logits
};

double logit(const Case& c, const std::vector<double>& logits, int64_t n, int64_t k, int64_t i, int64_t j) {
  return logits[size_t(((n * c.C + k) * c.h + i) * c.w + j)];
}

// As torch: source coordinate cut off at 0, products before sums.
double upsampled(const Case& c, const std::vector<double>& logits, int64_t n, int64_t k, int64_t y, int64_t x) {
  if (c.h == c.H && c.w == c.W) return logit(c, logits, n, k, y, x);
  const double v = std::fmax(0, (double(y) + .5) * double(c.h) / double(c.H) - .5);
  const double u = std::fmax(0, (double(x) + .5) * double(c.w) / double(c.W) - .5);
  const int64_t i = int64_t(v), j = int64_t(u), below = i + (i + 1 < c.h && c.h < c.H),
                right = j + (j + 1 < c.w && c.w < c.W);
  const double low = v - double(i), far = u - double(j);
  auto across = [&](int64_t row) {
    return (1 - far) * logit(c, logits, n, k, row, j) + far * logit(c, logits, n, k, row, right);
  };
  return (1 - low) * across(i) + low * across(below);
}

std::vector<int64_t> naive(const Case& c, const std::vector<double>& logits, const std::vector<int64_t>& labels,
                           int64_t ignore) {
  std::vector<int64_t> counts(size_t(c.C * (c.C + 1)));
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t y = 0; y < c.H; ++y)
      for (int64_t x = 0; x < c.W; ++x) {
        const int64_t label = labels[size_t((n * c.H + y) * c.W + x)];
        if (label == ignore) continue;
        int64_t best = 0;
        double value = upsampled(c, logits, n, 0, y, x);
        for (int64_t k = 1; k < c.C; ++k) {
          const double v = upsampled(c, logits, n, k, y, x);
          if ((v > value || v != v) && value == value) best = k, value = v;
        }
        ++counts[size_t(label * (c.C + 1) + best)];
      }
  return counts;
}

template <class S>
S encode(double v);
template <>
float encode(double v) {
  return float(v);
}
template <>
double encode(double v) {
  return v;
}
template <>
DeviceBFloat16 encode(double v) {  // small integers only
  return {uint16_t(reinterpret<uint32_t>(float(v)) >> 16)};
}
template <>
DeviceHalf encode(double v) {
  if (v == 0) return {0};
  if (v != v) return {0x7e00};
  const uint16_t sign = v < 0 ? 0x8000 : 0;
  if (std::isinf(v)) return {uint16_t(sign | 0x7c00)};
  int exponent;
  const double mantissa = std::frexp(std::fabs(v), &exponent);  // in [1/2, 1)
  return {uint16_t(sign | (exponent + 14) << 10 | int(mantissa * 2048) % 1024)};
}

template <class S, int R, bool Upsample>
void on_device(CountsOnDevice a, int64_t images, bool backwards, uint32_t* histogram) {
  cut_into_tiles(a, images, Upsample ? a.height : (a.label_height + R - 1) / R);
  const int64_t blocks = a.tiles < 3 ? a.tiles : 3;
  for (int64_t block = 0; block < blocks; ++block)
    count_tiles<S, R, Upsample>(BlockOnHost{kCountThreads, block, blocks, backwards}, a, histogram);
}

int failures = 0;

void compare(const Case& c, const char* what, const std::vector<int64_t>& expected, const int64_t* actual) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (expected[i] != actual[i]) {
      std::printf("%s: N=%d C=%d %dx%d -> %dx%d: label %d prediction %d: %lld, expected %lld\n", what, int(c.N),
                  int(c.C), int(c.h), int(c.w), int(c.H), int(c.W), int(i) / int(c.C + 1), int(i) % int(c.C + 1),
                  static_cast<long long>(actual[i]), static_cast<long long>(expected[i]));
      ++failures;
      return;
    }
}

template <class S, class L>
void check(const Case& c, FloatType float_type, LabelType label_type, int64_t ignore, bool channels_last) {
  std::vector<double> logits(size_t(c.N * c.C * c.h * c.w));
  std::vector<int64_t> labels(size_t(c.N * c.H * c.W));
  for (auto& v : logits) v = double(random_below(9) - 4);
  if (c.wild)
    for (int i = 0; i < 5; ++i) {
      const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
      const double kinds[] = {nan, infinity, -infinity};
      logits[size_t(random_below(int64_t(logits.size())))] = kinds[random_below(3)];
    }
  for (auto& v : labels) v = random_below(8) == 0 ? ignore : random_below(c.C);
  const auto expected = naive(c, logits, labels, ignore);

  // Strided on purpose: rows are longer than their width, label columns two apart.
  const int64_t pitch = c.w + 3, label_pitch = 2 * c.W + 1;
  const int64_t row = channels_last ? pitch * c.C : pitch, column = channels_last ? c.C : 1;
  const int64_t plane = channels_last ? 1 : c.h * pitch, image = c.C * c.h * pitch;
  std::vector<S> stored(size_t(c.N * image + 1), encode<S>(99));
  std::vector<L> stored_labels(size_t(c.N * c.H * label_pitch + 1), L(77));
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t k = 0; k < c.C; ++k)
      for (int64_t i = 0; i < c.h; ++i)
        for (int64_t j = 0; j < c.w; ++j)
          stored[size_t(n * image + k * plane + i * row + j * column)] = encode<S>(logit(c, logits, n, k, i, j));
  for (int64_t n = 0; n < c.N; ++n)
    for (int64_t y = 0; y < c.H; ++y)
      for (int64_t x = 0; x < c.W; ++x)
        stored_labels[size_t((n * c.H + y) * label_pitch + 2 * x)] = L(labels[size_t((n * c.H + y) * c.W + x)]);

  for (const Parallel& parallel : {serial, threads}) {
    std::vector<int64_t> counts(expected.size());
    BadLabel bad;
    SegmentationCountsArgs args{stored.data(),
                                float_type,
                                c.N,
                                c.C,
                                c.h,
                                c.w,
                                image,
                                plane,
                                row,
                                column,
                                stored_labels.data(),
                                label_type,
                                c.H,
                                c.W,
                                c.H * label_pitch,
                                label_pitch,
                                2,
                                ignore,
                                counts.data(),
                                &bad};
    DGSEG_PICK(segmentation_counts)(args, parallel);
    compare(c, "cpu", expected, counts.data());
    if (bad.image >= 0) std::printf("a good label was called bad\n"), ++failures;
    if (c.N > 1) {
      // The first image with a bad label is named, and nothing is written out of bounds.
      const size_t at = size_t((c.H + c.H / 2) * label_pitch);
      const L good = stored_labels[at];
      stored_labels[at] = L(c.C + 1);
      DGSEG_PICK(segmentation_counts)(args, parallel);
      if (bad.image != 1 || bad.value != c.C + 1) std::printf("the bad label was not found\n"), ++failures;
      stored_labels[at] = good;
    }
  }
  for (bool backwards : {false, true})
    for (bool shared : {true, false}) {
      std::vector<unsigned long long> counts(expected.size());
      std::vector<uint32_t> histogram(size_t(c.C * c.C), 12345);
      CountsOnDevice a{stored.data(),
                       c.C,
                       c.h,
                       c.w,
                       image,
                       plane,
                       row,
                       column,
                       stored_labels.data(),
                       label_type,
                       c.H,
                       c.W,
                       c.H * label_pitch,
                       label_pitch,
                       2,
                       ignore,
                       counts.data(),
                       shared,
                       0,
                       0,
                       0,
                       0};
      if (c.h == c.H && c.w == c.W)
        on_device<S, 4, false>(a, c.N, backwards, histogram.data());
      else if (c.H == c.h)
        on_device<S, 1, true>(a, c.N, backwards, histogram.data());
      else if (c.H <= 2 * c.h)
        on_device<S, 2, true>(a, c.N, backwards, histogram.data());
      else
        on_device<S, 4, true>(a, c.N, backwards, histogram.data());
      const std::vector<int64_t> as_signed(counts.begin(), counts.end());
      compare(c, shared ? "cuda, shared histogram" : "cuda, counting in the result", expected, as_signed.data());
    }
}

}  // namespace

int main() {
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, false},        // a single pixel of a single class
      {2, 3, 5, 7, 5, 7, false},        // logits at label size
      {1, 19, 9, 300, 9, 300, false},   // the same, more columns than a block
      {1, 19, 8, 16, 32, 64, false},    // the usual 4x
      {2, 5, 3, 4, 24, 32, false},      // 8x: more output rows between two source rows than are done at once
      {1, 4, 6, 10, 12, 20, false},     // 2x
      {1, 3, 5, 6, 5, 24, false},       // one direction only
      {1, 3, 5, 6, 20, 6, false},       // the other
      {1, 2, 1, 1, 16, 32, false},      // one source pixel
      {1, 150, 3, 40, 12, 160, false},  // many classes: several blocks, one histogram copy
      {1, 7, 4, 260, 16, 1040, false},  // several blocks, each with its seam
      {1, 3, 12, 12, 16, 16, false},    // 4/3: not a whole ratio, yet exact (eighths)
      {2, 6, 7, 9, 7, 9, true},         // NaN and infinities, at label size
      {2, 6, 8, 8, 32, 32, true},       // upsampled
      {2, 6, 8, 8, 8, 32, true},        // in one direction: the other has no neighbours
      {2, 6, 8, 8, 16, 8, true},        // the other way round
  };
  for (const Case& c : cases)
    for (bool channels_last : {false, true}) {
      check<float, uint8_t>(c, FloatType::f32, LabelType::u8, 255, channels_last);
      check<float, int32_t>(c, FloatType::f32, LabelType::i32, -1, channels_last);
      check<double, int64_t>(c, FloatType::f64, LabelType::i64, 0, channels_last);
      check<DeviceHalf, uint8_t>(c, FloatType::f16, LabelType::u8, 200, channels_last);
      check<DeviceBFloat16, int64_t>(c, FloatType::bf16, LabelType::i64, 300, channels_last);
    }
  if (!failures) std::printf("ok (%s)\n", isa_name(current_isa()));
  return failures != 0;
}
