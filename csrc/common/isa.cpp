#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace dgseg {
namespace {

Isa detect() {
  Isa best = Isa::baseline;
#if defined(DGSEG_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    best = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
      best = Isa::avx512;
  }
#endif
  if (const char* wish = std::getenv("DGSEG_ISA")) {
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
      if (std::strcmp(wish, isa_name(isa)) == 0 && isa < best) best = isa;
  }
  return best;
}

}  // namespace

Isa current_isa() {
  static const Isa isa = detect();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::baseline: break;
  }
  return "baseline";
}

}  // namespace dgseg
