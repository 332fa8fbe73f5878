// What every csrc/<op>/torch.cpp needs of the stable ABI. Kernels never include this.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "parallel.h"

namespace dgseg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Parallel torch_parallel() {
  return {[](int64_t tasks, TaskRange body, void* context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  }};
}

}  // namespace dgseg
