// Both passes against the formulas in double, full size and upsampled, with wrong labels and absent classes.
#include <algorithm>

#include "../common/test.h"
#include "kernel.h"

namespace dgseg {
namespace {

using test::Random;

struct Case {
  int64_t N, C, h, w, H, W;
  double gamma, ignored_share;
};

double source(int64_t i, int64_t in, int64_t out, int64_t& low, int64_t& high) {
  const double at = std::max(0.0, (double(i) + 0.5) * double(in) / double(out) - 0.5);
  low = std::min(int64_t(at), in - 1);
  high = std::min(low + 1, in - 1);
  return at - double(low);
}

struct Naive {
  std::vector<double> log_sum_exp, sums, gradient;
};

// The gradient is that of sum(through * sums).
Naive naive(const Case& k, const std::vector<float>& logits, const std::vector<uint8_t>& labels,
            const std::vector<double>& through) {
  const int64_t pixels = k.N * k.H * k.W, C = k.C;
  Naive r{std::vector<double>(pixels), std::vector<double>(4 * C), std::vector<double>(logits.size())};
  for (int64_t i = 0; i < pixels; ++i) {
    if (labels[i] == 255) continue;
    const int64_t image = i / (k.H * k.W), own = labels[i];
    int64_t y0, y1, x0, x1;
    const double fy = source(i / k.W % k.H, k.h, k.H, y0, y1), fx = source(i % k.W, k.w, k.W, x0, x1);
    std::vector<double> p(C), slope(C);
    double total = 0;
    for (int64_t c = 0; c < C; ++c) {
      const float* plane = logits.data() + (image * C + c) * k.h * k.w;
      p[c] = std::exp((1 - fy) * ((1 - fx) * plane[y0 * k.w + x0] + fx * plane[y0 * k.w + x1]) +
                      fy * ((1 - fx) * plane[y1 * k.w + x0] + fx * plane[y1 * k.w + x1]));
      total += p[c];
    }
    r.log_sum_exp[i] = std::log(total);
    for (int64_t c = 0; c < C; ++c) {
      p[c] /= total;
      r.sums[2 * C + c] += p[c];
      slope[c] = through[2 * C + c];
    }
    const double rest = 1 - p[own];
    r.sums[own] += std::pow(rest, k.gamma) * -std::log(p[own]);
    r.sums[C + own] += p[own];
    r.sums[3 * C + own] += 1;
    slope[own] += through[C + own];
    if (rest > 0)
      slope[own] +=
          through[own] * (k.gamma * std::pow(rest, k.gamma - 1) * std::log(p[own]) - std::pow(rest, k.gamma) / p[own]);
    double mean = 0;
    for (int64_t c = 0; c < C; ++c) mean += p[c] * slope[c];
    for (int64_t c = 0; c < C; ++c) {
      const double g = p[c] * (slope[c] - mean);
      double* plane = r.gradient.data() + (image * C + c) * k.h * k.w;
      plane[y0 * k.w + x0] += (1 - fy) * (1 - fx) * g, plane[y0 * k.w + x1] += (1 - fy) * fx * g;
      plane[y1 * k.w + x0] += fy * (1 - fx) * g, plane[y1 * k.w + x1] += fy * fx * g;
    }
  }
  return r;
}

template <class T>
void close(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(std::fabs(actual[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i])), "%s[%zu] is %g, not %g", what,
          i, double(actual[i]), expected[i]);
}

void run(const Case& k, uint64_t seed) {
  Random random(seed);
  const int64_t pixels = k.N * k.H * k.W;
  std::vector<float> logits(k.N * k.C * k.h * k.w);
  std::vector<uint8_t> labels(pixels);
  std::vector<double> through(4 * k.C);
  for (float& x : logits) x = float(random.symmetric(4));
  for (uint8_t& l : labels) l = random.uniform() < k.ignored_share ? 255 : uint8_t(random.below(k.C));
  for (double& t : through) t = random.symmetric(1);
  const Naive expected = naive(k, logits, labels, through);

  std::vector<double> first_sums;
  std::vector<float> first_gradient;
  for (const Parallel& parallel : {test::serial(), test::threaded()}) {
    std::vector<float> log_sum_exp(pixels), gradient(logits.size());
    std::vector<double> sums(4 * k.C, NAN);
    const LogitsAndLabels in{logits.data(), FloatType::f32, k.N, k.C, k.h, k.w, k.C * k.h * k.w, k.h * k.w, k.w, 1,
                             labels.data(), LabelType::u8,  k.H, k.W, 255};
    FocalDiceSumsArgs forward{in, k.gamma, log_sum_exp.data(), sums.data(), {}};
    DGSEG_PICK(focal_dice_sums)(forward, parallel);
    CHECK(forward.bad.image < 0, "a label was taken for wrong");
    close(log_sum_exp, expected.log_sum_exp, 2e-6, "log_sum_exp");
    close(sums, expected.sums, 2e-6, "sums");
    const FocalDiceBackwardArgs back{
        in, k.gamma, through.data(), log_sum_exp.data(), {gradient.data(), k.C * k.h * k.w, k.h * k.w, k.w, 1}};
    DGSEG_PICK(focal_dice_backward)(back, parallel);
    close(gradient, expected.gradient, 1e-5, "gradient");
    if (first_gradient.empty()) first_gradient = gradient, first_sums = sums;
    CHECK(gradient == first_gradient && sums == first_sums, "threads changed bits");
  }
}

void wrong_label() {
  std::vector<float> logits(3 * 4 * 4, 0.5f), map(16);
  std::vector<double> sums(12);
  std::vector<uint8_t> labels(16, 1);
  labels[5] = 200;
  FocalDiceSumsArgs args{
      {logits.data(), FloatType::f32, 1, 3, 4, 4, 48, 16, 4, 1, labels.data(), LabelType::u8, 4, 4, 255},
      1.0,
      map.data(),
      sums.data(),
      {}};
  DGSEG_PICK(focal_dice_sums)(args, test::serial());
  CHECK(args.bad.image == 0 && args.bad.value == 200, "image %d, value %d", int(args.bad.image), int(args.bad.value));
}

}  // namespace
}  // namespace dgseg

int main() {
  const dgseg::Case cases[] = {
      {2, 19, 9, 17, 9, 17, 1.0, 0.1},     // full size, ragged blocks
      {1, 3, 70, 61, 70, 61, 2.0, 0.1},    // more than one task, more pixels than lanes add up
      {2, 19, 8, 16, 32, 64, 1.0, 0.1},    // times 4
      {1, 7, 40, 33, 101, 140, 0.5, 0.1},  // an odd factor, several tasks of source rows, two blocks of columns
      {1, 5, 1, 1, 7, 9, 1.0, 0.0},        // one source pixel
      {1, 4, 6, 6, 6, 12, 0.0, 0.2},       // one axis only; cross-entropy
      {1, 1, 3, 3, 3, 3, 1.0, 0.0},        // a single class
      {1, 2, 5, 5, 5, 5, 1.0, 1.0},        // nothing but void
  };
  uint64_t seed = 1;
  for (const dgseg::Case& k : cases) dgseg::run(k, seed++);
  dgseg::wrong_label();
  return 0;
}
