// prototype_ranks and prototype_sums against naive loops.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <vector>

#include "kernel.h"
#include "order.h"

using namespace dgseg;

namespace {

int failures = 0;

void expect(bool holds, const char* what, const char* where) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s (%s)\n", what, where);
}

const Parallel serial = {[](int64_t tasks, TaskRange body, void* context) { body(0, tasks, context); }};
// Tasks one by one and from the last to the first: no result may depend on it.
const Parallel backwards = {[](int64_t tasks, TaskRange body, void* context) {
  for (int64_t task = tasks - 1; task >= 0; --task) body(task, task + 1, context);
}};

struct Random {
  uint64_t state;
  uint64_t next() { return state = absorb(state, 1); }
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }
  double uniform() { return double(next() >> 11) / double(uint64_t(1) << 53) * 2 - 1; }
};

struct Shape {
  const char* why;
  int64_t N, D, h, w, C, G, limit;
};

void check(const Shape& s, bool nested, bool channels_last) {
  Random random{uint64_t(s.N * 31 + s.D * 7 + s.h + s.w)};
  const int64_t hw = s.h * s.w, P = s.N * hw, cells = s.C * s.G, slots = nested ? s.G : 1;
  std::vector<uint8_t> labels(P);
  std::vector<int64_t> bands(P), ids(s.N);
  std::vector<float> features(P * s.D);
  for (auto& v : labels) v = uint8_t(random.below(s.C));
  for (auto& v : bands) v = random.below(s.G + 1);
  for (int64_t n = 0; n < s.N; ++n) ids[n] = n / 2;  // pairs of equal samples: ties
  for (auto& v : features) v = float(random.uniform());
  const PrototypeCells map{{labels.data(), LabelType::u8, hw, s.w, 1},
                           {bands.data(), LabelType::i64, hw, s.w, 1},
                           s.N,
                           s.h,
                           s.w,
                           s.C,
                           s.G,
                           nested};

  std::vector<int64_t> counts(cells);
  std::vector<int32_t> ranks(slots * P);
  BadLabel bad_label, bad_band;
  const PrototypeRanksArgs rank_args{map,           ids.data(),   5,          6,        s.limit,
                                     counts.data(), ranks.data(), &bad_label, &bad_band};
  DGSEG_PICK(prototype_ranks)(rank_args, backwards);
  expect(bad_label.image < 0 && bad_band.image < 0, "no bad value", s.why);

  auto feeds = [&](int64_t p, int64_t g) { return bands[p] > 0 && (nested ? bands[p] - 1 <= g : bands[p] - 1 == g); };
  std::vector<uint64_t> keys(P);
  for (int64_t p = 0; p < P; ++p) keys[p] = pixel_key(sample_state(5, 6, ids[p / hw]), uint64_t(p % hw));
  std::vector<int64_t> newest_first(P);
  std::iota(newest_first.begin(), newest_first.end(), 0);
  std::sort(newest_first.begin(), newest_first.end(),
            [&](int64_t p, int64_t q) { return keys[p] != keys[q] ? keys[p] > keys[q] : p > q; });
  std::vector<int64_t> expected_counts(cells);
  std::vector<int32_t> expected_ranks(slots * P, -1);
  for (int64_t p : newest_first)
    for (int64_t g = 0; g < s.G; ++g) {
      if (!feeds(p, g)) continue;
      const int64_t rank = expected_counts[labels[p] * s.G + g]++;
      if (rank < s.limit) expected_ranks[(nested ? g : 0) * P + p] = int32_t(rank);
    }
  expect(counts == expected_counts, "counts", s.why);
  expect(ranks == expected_ranks, "ranks", s.why);

  std::vector<double> scales(cells), powers(s.limit), sums(cells * s.D), again(cells * s.D);
  std::vector<char> fades(cells);
  for (auto& v : scales) v = random.uniform();
  for (auto& v : fades) v = char(random.below(2));
  for (int64_t r = 0; r < s.limit; ++r) powers[r] = std::pow(0.9, double(r));
  const int64_t stride_d = channels_last ? 1 : hw, stride_p = channels_last ? s.D : 1;
  const PrototypeSumsArgs sum_args{map,
                                   features.data(),
                                   FloatType::f32,
                                   hw * s.D,
                                   stride_d,
                                   s.w * stride_p,
                                   stride_p,
                                   s.D,
                                   ranks.data(),
                                   scales.data(),
                                   reinterpret_cast<const bool*>(fades.data()),
                                   powers.data(),
                                   s.limit,
                                   sums.data()};
  DGSEG_PICK(prototype_sums)(sum_args, serial);
  PrototypeSumsArgs other = sum_args;
  other.sums = again.data();
  DGSEG_PICK(prototype_sums)(other, backwards);
  expect(sums == again, "equal bits for any order of tasks", s.why);

  std::vector<double> expected(cells * s.D);
  for (int64_t p = 0; p < P; ++p) {
    const float* feature = features.data() + p / hw * hw * s.D + p % hw * stride_p;
    double norm = 0;
    for (int64_t d = 0; d < s.D; ++d) norm += double(feature[d * stride_d]) * feature[d * stride_d];
    norm = std::fmax(std::sqrt(norm), 1e-12);
    for (int64_t g = 0; g < s.G; ++g) {
      if (!feeds(p, g)) continue;
      const int64_t cell = labels[p] * s.G + g, rank = ranks[(nested ? g : 0) * P + p];
      const double weight = scales[cell] * (!fades[cell] ? 1.0 : rank < 0 ? 0.0 : powers[rank]);
      for (int64_t d = 0; d < s.D; ++d) expected[cell * s.D + d] += weight * double(feature[d * stride_d]) / norm;
    }
  }
  double worst = 0, largest = 1;
  for (int64_t i = 0; i < cells * s.D; ++i) {
    worst = std::fmax(worst, std::fabs(sums[i] - expected[i]));
    largest = std::fmax(largest, std::fabs(expected[i]));
  }
  expect(worst < 1e-5 * largest, "sums", s.why);
}

void check_bad_values() {
  std::vector<uint8_t> labels(12, 1), bands(12, 1);
  labels[2] = 255, bands[2] = 0;  // outside bands anything goes
  labels[7] = 9, labels[11] = 8, bands[9] = 5;
  const PrototypeCells map{
      {labels.data(), LabelType::u8, 4, 2, 1}, {bands.data(), LabelType::u8, 4, 2, 1}, 3, 2, 2, 3, 2, false};
  std::vector<int64_t> counts(6);
  BadLabel bad_label, bad_band;
  const PrototypeRanksArgs args{map, nullptr, 0, 0, 0, counts.data(), nullptr, &bad_label, &bad_band};
  DGSEG_PICK(prototype_ranks)(args, serial);
  expect(bad_label.image == 1 && bad_label.value == 9, "the first bad label", "bad values");
  expect(bad_band.image == 2 && bad_band.value == 5, "the first bad band", "bad values");
  expect(counts[2] == 8, "bad values are in no cell", "bad values");
}

}  // namespace

int main() {
  const Shape shapes[] = {
      {"one pixel", 1, 1, 1, 1, 1, 1, 3},
      {"ties, ragged tiles and channels", 4, 37, 9, 13, 3, 2, 20},
      {"several tasks of ranks", 2, 3, 70, 65, 2, 3, 100},
      {"fewer pixels a tile, for many channels", 1, 1500, 5, 11, 4, 2, 6},
  };
  for (const Shape& shape : shapes)
    for (bool nested : {false, true})
      for (bool channels_last : {false, true}) check(shape, nested, channels_last);
  check_bad_values();
  if (failures == 0) std::printf("ok (%s)\n", isa_name(current_isa()));
  return failures != 0;
}
