// How kernels spread work: they see one function pointer, so that the torch binding can hand them torch's pool
// and the native tests a plain loop. Work is always cut into tasks whose number depends on the shape alone:
// results are the same bits for any number of threads.
#pragma once
#include <cstdint>

namespace dgseg {

using TaskRange = void (*)(int64_t begin, int64_t end, void* context);

struct Parallel {
  void (*run)(int64_t tasks, TaskRange body, void* context);
};

}  // namespace dgseg
