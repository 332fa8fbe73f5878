// The CPU kernels against a naive loop in double: loss, count and gradient, in float and double, in two memory
// layouts, with and without pixels left out; equal bits from one thread and from three; bad labels are reported.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "kernel.h"

namespace {

using namespace dgseg;

uint64_t state = 1;
int64_t random_below(int64_t n) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return int64_t((state >> 33) % uint64_t(n));
}
double random_value() { return double(random_below(20001)) / 10000 - 1; }

const Parallel serial{[](int64_t tasks, TaskRange body, void* context) { body(0, tasks, context); }};
const Parallel threads{[](int64_t tasks, TaskRange body, void* context) {
  std::vector<std::thread> pool;
  for (int64_t t = 0; t < 3; ++t) pool.emplace_back([=] { body(tasks * t / 3, tasks * (t + 1) / 3, context); });
  for (auto& thread : pool) thread.join();
}};

struct Case {
  int64_t N, D, H, W, C, G;
  bool channels_last, all, nested;
};

struct Result {
  double loss = 0;
  int64_t count = 0;
  std::vector<double> gradient;  // of 2 * loss, indexed like the features
};

template <class T>
struct Problem {
  Case c;
  FeatureStrides strides;
  std::vector<T> features, prototypes, weights;
  std::vector<int32_t> labels;
  std::vector<uint8_t> bands;
  std::unique_ptr<bool[]> seen;

  explicit Problem(const Case& c_) : c(c_), seen(new bool[size_t(c_.C * c_.G)]) {
    const int64_t plane = c.H * c.W;
    strides =
        c.channels_last ? FeatureStrides{c.D * plane, 1, c.W * c.D, c.D} : FeatureStrides{c.D * plane, plane, c.W, 1};
    features.resize(size_t(c.N * c.D * plane));
    for (T& v : features) v = T(random_value());
    prototypes.resize(size_t(c.C * c.G * c.D));
    for (T& v : prototypes) v = T(random_value() * 3);
    weights.resize(size_t(c.C * c.G));
    for (T& v : weights) v = T(random_value() + 1);
    for (int64_t k = 0; k < c.C * c.G; ++k) seen[size_t(k)] = k == 0 || random_below(4) > 0;
    for (int64_t i = 0; i < c.N * plane; ++i) {
      bands.push_back(uint8_t(c.all || random_below(4) == 0 ? 1 + random_below(c.G) : 0));
      labels.push_back(bands.back() ? int32_t(random_below(c.C)) : -7);
    }
  }

  int64_t at(int64_t n, int64_t d, int64_t pixel) const {
    return n * strides.image + d * strides.channel + pixel / c.W * strides.row + pixel % c.W * strides.column;
  }

  Result naive() const {
    const int64_t K = c.C * c.G, plane = c.H * c.W;
    const double temperature = 0.1;
    Result result;
    result.gradient.resize(features.size());
    std::vector<double> cosine(size_t(K), 0), slope(size_t(K), 0), lengths(size_t(K), 0);
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t d = 0; d < c.D; ++d) lengths[k] += double(prototypes[k * c.D + d]) * double(prototypes[k * c.D + d]);
      lengths[k] = std::sqrt(lengths[k]);
    }
    for (int64_t i = 0; i < c.N * plane; ++i) {
      if (!bands[i]) continue;
      const int64_t n = i / plane, pixel = i % plane, band = bands[i] - 1;
      double length = 0, sum = 0;
      for (int64_t d = 0; d < c.D; ++d) length += double(features[at(n, d, pixel)]) * double(features[at(n, d, pixel)]);
      length = std::sqrt(length);
      for (int64_t k = 0; k < K; ++k) {
        double dot = 0;
        for (int64_t d = 0; d < c.D; ++d) dot += double(features[at(n, d, pixel)]) * double(prototypes[k * c.D + d]);
        cosine[k] = dot / length / lengths[k];
        if (seen[k]) sum += std::exp(cosine[k] / temperature);
        slope[k] = 0;
      }
      for (int64_t g = band; g < (c.nested ? c.G : band + 1); ++g) {
        const int64_t own = labels[i] * c.G + g;
        if (!seen[own]) continue;
        const double weight = double(weights[own]);
        result.loss += weight * (std::log(sum) - cosine[own] / temperature);
        ++result.count;
        for (int64_t k = 0; k < K; ++k)
          if (seen[k]) slope[k] += 2 / temperature * weight * (std::exp(cosine[k] / temperature) / sum - (k == own));
      }
      for (int64_t d = 0; d < c.D; ++d)
        for (int64_t k = 0; k < K; ++k)
          result.gradient[at(n, d, pixel)] +=
              slope[k] *
              (double(prototypes[k * c.D + d]) / lengths[k] - cosine[k] * double(features[at(n, d, pixel)]) / length) /
              length;
    }
    return result;
  }

  Result kernel(const Parallel& parallel, BadLabel& bad_label, BadLabel& bad_band) const {
    Result result;
    std::vector<T> log_sum_exp(bands.size(), T(NAN)), gradient(features.size(), T(NAN));
    const MapStrides map{c.H * c.W, c.W, 1};
    PrototypeInfoNceArgs args{};
    args.features = features.data(), args.type = sizeof(T) == 8 ? FloatType::f64 : FloatType::f32;
    args.images = c.N, args.channels = c.D, args.height = c.H, args.width = c.W;
    args.feature_strides = args.gradient_strides = strides;
    args.labels = labels.data(), args.label_type = LabelType::i32, args.label_strides = map;
    args.bands = bands.data(), args.band_strides = map;
    args.prototypes = prototypes.data(), args.weights = weights.data(), args.seen = seen.get();
    args.classes = c.C, args.granularities = c.G, args.temperature = 0.1, args.nested = c.nested;
    args.log_sum_exp = log_sum_exp.data(), args.loss_sum = &result.loss, args.count = &result.count;
    args.bad_label = &bad_label, args.bad_band = &bad_band;
    args.loss_gradient = 2, args.gradient = gradient.data();
    DGSEG_PICK(prototype_info_nce_forward)(args, parallel);
    DGSEG_PICK(prototype_info_nce_backward)(args, parallel);
    result.gradient.assign(gradient.begin(), gradient.end());
    return result;
  }
};

int failures = 0;
void expect(bool good, const char* what, const Case& c) {
  if (good) return;
  ++failures;
  std::printf("%s: [%ld, %ld, %ld, %ld] bank [%ld, %ld] channels_last %d all %d nested %d\n", what, long(c.N),
              long(c.D), long(c.H), long(c.W), long(c.C), long(c.G), c.channels_last, c.all, c.nested);
}

template <class T>
void check(const Case& c) {
  Problem<T> problem(c);
  BadLabel bad_label, bad_band;
  const Result expected = problem.naive(), actual = problem.kernel(serial, bad_label, bad_band);
  const double tolerance = sizeof(T) == 8 ? 1e-11 : 3e-5;
  expect(actual.count == expected.count, "count", c);
  expect(std::fabs(actual.loss - expected.loss) <= tolerance * (1 + std::fabs(expected.loss)), "loss", c);
  double scale = 1, error = 0;  // a softmax over one prototype has no gradient: what is left of it is rounding
  for (double v : expected.gradient) scale = std::fmax(scale, std::fabs(v));
  for (size_t i = 0; i < actual.gradient.size(); ++i)
    error = std::isnan(actual.gradient[i]) ? INFINITY
                                           : std::fmax(error, std::fabs(actual.gradient[i] - expected.gradient[i]));
  expect(error <= tolerance * scale, "gradient", c);
  expect(bad_label.image < 0 && bad_band.image < 0, "good labels were called bad", c);
  const Result again = problem.kernel(threads, bad_label, bad_band);
  expect(again.loss == actual.loss, "loss from threads", c);
  expect(std::memcmp(again.gradient.data(), actual.gradient.data(), actual.gradient.size() * sizeof(double)) == 0,
         "gradient from threads", c);

  if (problem.bands.size() == 1) return;
  const size_t last = problem.bands.size() - 1, middle = problem.bands.size() / 2;
  problem.bands[last] = uint8_t(c.G + 1), problem.labels[last] = 0;
  problem.bands[middle] = 1, problem.labels[middle] = int32_t(c.C);
  problem.kernel(threads, bad_label, bad_band);
  const int64_t plane = c.H * c.W;
  expect(bad_label.image == int64_t(middle) / plane && bad_label.value == c.C, "bad label", c);
  expect(bad_band.image == c.N - 1 && bad_band.value == c.G + 1, "bad band", c);
}

}  // namespace

int main() {
  for (bool channels_last : {false, true})
    for (bool all : {false, true})
      for (bool nested : {false, true})
        for (Case c :
             {Case{1, 2, 1, 1, 1, 1, false, false, false}, Case{2, 5, 3, 7, 3, 2, false, false, false},
              Case{1, 40, 8, 32, 13, 1, false, false, false}, Case{2, 33, 29, 41, 19, 3, false, false, false}}) {
          c.channels_last = channels_last, c.all = all, c.nested = nested;
          check<float>(c);
          check<double>(c);
        }
  std::printf("prototype_info_nce, %s: %d failures\n", isa_name(current_isa()), failures);
  return failures != 0;
}
