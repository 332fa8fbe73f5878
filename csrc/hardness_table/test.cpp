// The table against the definition, computed in long double from the scores alone: sums, probabilities, and where every
// stretch of [0, 1) leads; at sizes around the fan-out and through wild scores; then restoring, bit by bit.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../common/test.h"
#include "table.h"

namespace {

using namespace dgseg;
using test::Random;

void check_exp() {
  Random random(1);
  for (int i = 0; i < 50000; ++i) {
    const double x = i < 3 ? double(i - 1) * 708 : random.symmetric(i % 2 ? 708 : 2);
    const double truth = std::exp(x), error = std::fabs(portable_exp(x) / truth - 1);
    CHECK(error < 4.5e-16, "exp(%g) is off by %g", x, error);
  }
  CHECK(portable_exp(-709) == 0 && std::isinf(portable_exp(710)), "past the ends");
}

// Probabilities from the scores alone: unseen images take the mean of the others.
std::vector<long double> expected(const HardnessTable& table) {
  long double sum = 0, largest = -1e300L, total = 0;
  int64_t seen = 0;
  for (double h : table.scores())
    if (!std::isnan(h)) sum += h, ++seen, largest = std::max(largest, (long double)(h));
  const long double mean = seen ? sum / seen : 0;
  if (!seen) largest = 0;
  const long double rate = 1 / ((long double)(table.temperature()) * table.scale());
  std::vector<long double> p;
  for (double h : table.scores()) p.push_back(expl(((std::isnan(h) ? mean : (long double)(h)) - largest) * rate));
  for (long double w : p) total += w;
  for (long double& w : p) w /= total;
  return p;
}

void check_distribution(const HardnessTable& table, const char* when) {
  const auto p = expected(table);
  for (int64_t i = 0; i < table.size(); ++i) {
    const double want = double(p[size_t(i)]), have = table.probability(i);
    CHECK(std::fabs(want - have) <= 1e-9 * want + 1e-250, "%s: p of %d is %g, not %g", when, int(i), have, want);
  }
  // Evenly spaced numbers hit every image as often as its probability says, to within one.
  const int64_t count = 5003;
  std::vector<double> u;
  for (int64_t i = 0; i < count; ++i) u.push_back((double(i) + .5) / double(count));
  u.front() = 0;
  u.back() = 1 - 0x1p-53;
  std::vector<int64_t> images(u.size()), hits(size_t(table.size()));
  table.draw(u.data(), count, images.data());
  for (int64_t image : images) {
    CHECK(image >= 0 && image < table.size(), "%s: image %d", when, int(image));
    ++hits[size_t(image)];
  }
  for (int64_t i = 0; i < table.size(); ++i) {
    const double want = double(p[size_t(i)]) * double(count);
    CHECK(std::fabs(double(hits[size_t(i)]) - want) <= 2.1, "%s: image %d drawn %d times, not %g", when, int(i),
          int(hits[size_t(i)]), want);
  }
}

void check_table(int64_t size, double temperature, double spread) {
  Random random{uint64_t(size) * 31 + uint64_t(spread)};
  HardnessTable table(size, .9, temperature);
  check_distribution(table, "before any update");
  for (int round = 0; round < 12; ++round) {
    std::vector<int64_t> images;
    std::vector<double> losses;
    for (int64_t i = 0; i < 1 + size / 4; ++i) {
      images.push_back(random.below(size));
      losses.push_back(random.uniform() * spread * std::pow(.1, round % 5));
    }
    table.update(images.data(), losses.data(), int64_t(images.size()));
    if (round % 3 == 2) table.standardise();
    check_distribution(table, "after updates");
  }
  for (int64_t i = 0; i < size; ++i) {
    const double loss = double(i % 7) * spread / 7;
    table.update(&i, &loss, 1);
  }
  CHECK(table.seen() == size, "all are seen, not %d", int(table.seen()));
  check_distribution(table, "with all seen");
}

void check_average() {
  HardnessTable table(3, .75, 1);
  const int64_t images[] = {1, 1, 1};
  const double losses[] = {8, 4, 0};
  table.update(images, losses, 3);
  CHECK(table.scores()[1] == (8 * .75 + 4 * .25) * .75, "first loss as it is, then the average: %g", table.scores()[1]);
  CHECK(table.seen() == 1 && table.mean() == table.scores()[1] && std::isnan(table.scores()[0]), "one is seen");
}

void check_restore() {
  Random random(5);
  const int64_t size = 1000;
  HardnessTable table(size, .9, .05), other(size, .9, .05);
  auto step = [&](HardnessTable& t, Random numbers) {
    std::vector<int64_t> images(50);
    std::vector<double> losses(50), u(50);
    for (size_t i = 0; i < 50; ++i) images[i] = numbers.below(size), losses[i] = numbers.uniform() * 9;
    t.update(images.data(), losses.data(), 50);
    for (double& x : u) x = numbers.uniform();
    t.draw(u.data(), 50, images.data());
    return images;
  };
  for (int i = 0; i < 100; ++i) step(table, Random(random.next()));
  table.standardise();
  for (int i = 0; i < 7; ++i) step(table, Random(random.next()));
  other.restore(table.scores().data(), table.scale(), table.offset());
  for (int i = 0; i < 100; ++i) {
    const Random numbers(random.next());
    CHECK(step(table, numbers) == step(other, numbers), "draws differ after restoring");
    for (int64_t k = 0; k < size; ++k) CHECK(table.probability(k) == other.probability(k), "p differs in a bit");
  }
}

}  // namespace

int main() {
  check_exp();
  check_average();
  check_restore();
  for (int64_t size : {1, 2, 15, 16, 17, 255, 256, 257, 1500})  // around one, two and three levels
    for (double temperature : {1.0, .01})
      for (double spread : {0.0, 3.0, 500.0})  // 500 / .01: far outside what a double's exponential holds
        check_table(size, temperature, spread);
  std::printf("ok (%s)\n", isa_name(current_isa()));
  return 0;
}
