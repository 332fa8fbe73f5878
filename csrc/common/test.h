// What the native tests share: a check that names itself, random numbers, and two ways to run tasks.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "isa.h"
#include "parallel.h"

#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      std::fprintf(stderr, "%s:%d (%s): %s: ", __FILE__, __LINE__, dgseg::isa_name(dgseg::current_isa()), #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                                                               \
      std::fprintf(stderr, "\n");                                                                                      \
      std::exit(1);                                                                                                    \
    }                                                                                                                  \
  } while (0)

namespace dgseg::test {

// Same numbers on every platform, unlike the standard library's distributions.
struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t next() {
    state += 0x9e3779b97f4a7c15ull;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(next() % uint64_t(n)); }
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  double symmetric(double scale) { return (2 * uniform() - 1) * scale; }
};

inline Parallel serial() {
  return {[](int64_t tasks, TaskRange body, void* context) { body(0, tasks, context); }};
}

// Three threads with uneven shares, the last part first: results must not depend on it.
inline Parallel threaded() {
  return {[](int64_t tasks, TaskRange body, void* context) {
    const int64_t a = tasks / 5, b = tasks / 2;
    std::thread last([=] { body(b, tasks, context); }), middle([=] { body(a, b, context); });
    body(0, a, context);
    last.join();
    middle.join();
  }};
}

}  // namespace dgseg::test
