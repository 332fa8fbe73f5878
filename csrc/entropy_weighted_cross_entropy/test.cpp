// The three passes against the formulas in double, full size and upsampled, with wrong labels and empty bands.
#include <algorithm>

#include "../common/test.h"
#include "kernel.h"

namespace dgseg {
namespace {

using test::Random;

struct Case {
  int64_t N, C, h, w, H, W;
  double band_share, ignored_share;
};

struct Naive {
  std::vector<double> log_sum_exp, entropy, cross_entropy, gradient;
  double loss = 0;
};

double source(int64_t i, int64_t in, int64_t out, int64_t& low, int64_t& high) {
  const double at = std::max(0.0, (double(i) + 0.5) * double(in) / double(out) - 0.5);
  low = std::min(int64_t(at), in - 1);
  high = std::min(low + 1, in - 1);
  return at - double(low);
}

Naive naive(const Case& k, const std::vector<float>& logits, const std::vector<uint8_t>& labels,
            const std::vector<uint8_t>& bands, double alpha) {
  const int64_t pixels = k.N * k.H * k.W;
  Naive r;
  r.log_sum_exp.assign(pixels, 0), r.entropy.assign(pixels, 0), r.cross_entropy.assign(pixels, 0);
  r.gradient.assign(logits.size(), 0);
  std::vector<double> probability(pixels * k.C, 0);
  double n = 0, sum = 0, squares = 0, valid = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    if (labels[i] == 255) continue;
    const int64_t image = i / (k.H * k.W);
    int64_t y0, y1, x0, x1;
    const double fy = source(i / k.W % k.H, k.h, k.H, y0, y1), fx = source(i % k.W, k.w, k.W, x0, x1);
    std::vector<double> x(k.C);
    double total = 0;
    for (int64_t c = 0; c < k.C; ++c) {
      const float* plane = logits.data() + (image * k.C + c) * k.h * k.w;
      x[c] = (1 - fy) * ((1 - fx) * plane[y0 * k.w + x0] + fx * plane[y0 * k.w + x1]) +
             fy * ((1 - fx) * plane[y1 * k.w + x0] + fx * plane[y1 * k.w + x1]);
      total += std::exp(x[c]);
    }
    r.log_sum_exp[i] = std::log(total);
    for (int64_t c = 0; c < k.C; ++c) {
      const double log_p = x[c] - r.log_sum_exp[i];
      probability[i * k.C + c] = std::exp(log_p);
      if (bands[i]) r.entropy[i] -= std::exp(log_p) * log_p;
    }
    r.cross_entropy[i] = r.log_sum_exp[i] - x[labels[i]];
    ++valid;
    if (bands[i]) ++n, sum += r.entropy[i];
  }
  const double mean = n > 0 ? sum / n : 0;
  for (int64_t i = 0; i < pixels; ++i)
    if (bands[i] && labels[i] != 255) squares += (r.entropy[i] - mean) * (r.entropy[i] - mean);
  const double deviation = n > 0 ? std::sqrt(squares / n) : 0;
  for (int64_t i = 0; i < pixels; ++i) {
    if (labels[i] == 255) continue;
    const double in_band = 1 + alpha / (1 + std::exp(-(r.entropy[i] - mean) / (deviation + 1e-6)));
    const double weight = (bands[i] ? in_band : 1) / valid;
    r.loss += weight * r.cross_entropy[i];
    const int64_t image = i / (k.H * k.W);
    int64_t y0, y1, x0, x1;
    const double fy = source(i / k.W % k.H, k.h, k.H, y0, y1), fx = source(i % k.W, k.w, k.W, x0, x1);
    for (int64_t c = 0; c < k.C; ++c) {
      const double g = weight * (probability[i * k.C + c] - (labels[i] == c));
      double* plane = r.gradient.data() + (image * k.C + c) * k.h * k.w;
      plane[y0 * k.w + x0] += (1 - fy) * (1 - fx) * g, plane[y0 * k.w + x1] += (1 - fy) * fx * g;
      plane[y1 * k.w + x0] += fy * (1 - fx) * g, plane[y1 * k.w + x1] += fy * fx * g;
    }
  }
  return r;
}

void close(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(std::fabs(actual[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i])), "%s[%zu] is %g, not %g", what,
          i, double(actual[i]), expected[i]);
}

void run(const Case& k, uint64_t seed) {
  Random random(seed);
  const int64_t pixels = k.N * k.H * k.W;
  std::vector<float> logits(k.N * k.C * k.h * k.w);
  std::vector<uint8_t> labels(pixels), bands(pixels);
  for (float& x : logits) x = float(random.symmetric(4));
  for (uint8_t& l : labels) l = random.uniform() < k.ignored_share ? 255 : uint8_t(random.below(k.C));
  for (uint8_t& b : bands) b = random.uniform() < k.band_share ? uint8_t(1 + random.below(3)) : 0;
  const Naive expected = naive(k, logits, labels, bands, 3.0);

  std::vector<float> first_gradient;
  for (const Parallel& parallel : {test::serial(), test::threaded()}) {
    std::vector<float> log_sum_exp(pixels), entropy(pixels), cross_entropy(pixels), weights(pixels), per_image(k.N),
        gradient(logits.size());
    const LogitsAndLabels in{logits.data(), FloatType::f32, k.N, k.C, k.h, k.w, k.C * k.h * k.w, k.h * k.w, k.w, 1,
                             labels.data(), LabelType::u8,  k.H, k.W, 255};
    EntropyPixelsArgs forward{in, bands.data(), log_sum_exp.data(), entropy.data(), cross_entropy.data(), {}, {}};
    DGSEG_PICK(entropy_pixels)(forward, parallel);
    CHECK(forward.bad.image < 0, "a label was taken for wrong");
    close(log_sum_exp, expected.log_sum_exp, 2e-6, "log_sum_exp");
    close(cross_entropy, expected.cross_entropy, 2e-6, "cross_entropy");
    close(entropy, expected.entropy, 4e-6, "entropy");
    EntropyLossArgs loss{};
    loss.in = in, loss.bands = bands.data(), loss.entropy = entropy.data(), loss.cross_entropy = cross_entropy.data(),
    loss.moments = forward.moments;
    loss.ranks = 1, loss.alpha = 3, loss.eps = 1e-6, loss.denominator = forward.moments.valid;
    loss.weights = weights.data(), loss.per_image = per_image.data();
    DGSEG_PICK(entropy_loss)(loss, parallel);
    CHECK(std::fabs(loss.loss - expected.loss) <= 1e-5 * (1 + expected.loss), "%g, not %g", loss.loss, expected.loss);
    const float one = 1;
    const EntropyBackwardArgs back{
        in, &one, log_sum_exp.data(), weights.data(), {gradient.data(), k.C * k.h * k.w, k.h * k.w, k.w, 1}};
    DGSEG_PICK(entropy_backward)(back, parallel);
    close(gradient, expected.gradient, 1e-5, "gradient");
    if (first_gradient.empty()) first_gradient = gradient;
    CHECK(gradient == first_gradient, "threads changed the gradient's bits");
  }
}

void wrong_label() {
  std::vector<float> logits(3 * 4 * 4, 0.5f), map(16);
  std::vector<uint8_t> labels(16, 1), bands(16, 1);
  labels[5] = 200;
  EntropyPixelsArgs args{
      {logits.data(), FloatType::f32, 1, 3, 4, 4, 48, 16, 4, 1, labels.data(), LabelType::u8, 4, 4, 255},
      bands.data(),
      map.data(),
      map.data(),
      map.data(),
      {},
      {}};
  DGSEG_PICK(entropy_pixels)(args, test::serial());
  CHECK(args.bad.image == 0 && args.bad.value == 200, "image %d, value %d", int(args.bad.image), int(args.bad.value));
}

}  // namespace
}  // namespace dgseg

int main() {
  const dgseg::Case cases[] = {
      {2, 19, 9, 17, 9, 17, 0.3, 0.1},     // full size, ragged blocks
      {1, 3, 70, 61, 70, 61, 0.3, 0.1},    // more than one task
      {2, 19, 8, 16, 32, 64, 0.3, 0.1},    // times 4
      {1, 7, 40, 33, 101, 140, 0.2, 0.1},  // an odd factor, several tasks of source rows, two blocks of columns
      {1, 5, 2, 1, 7, 9, 0.5, 0.0},   // one source column (one source pixel would have no entropy spread to compare)
      {1, 4, 6, 6, 6, 12, 0.0, 0.2},  // one axis only; an empty band
      {1, 1, 3, 3, 3, 3, 1.0, 0.0},   // a single class
  };
  uint64_t seed = 1;
  for (const dgseg::Case& k : cases) dgseg::run(k, seed++);
  dgseg::wrong_label();
  return 0;
}
