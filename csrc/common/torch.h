// What every csrc/<op>/torch.cpp needs of the stable ABI. Kernels never include this.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "parallel.h"
#include "types.h"

namespace dgseg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#if !defined(__CUDACC__)  // nvcc's host pass does not take a lambda inside a lambda
inline Parallel torch_parallel() {
  return {[](int64_t tasks, TaskRange body, void* context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  }};
}
#endif

// For what users get wrong: the message alone, where STD_TORCH_CHECK puts the source file in front.
template <class... Parts>
inline void refuse_unless(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline LabelType label_type(const Tensor& labels) {
  switch (labels.scalar_type()) {
    case ScalarType::Byte: return LabelType::u8;
    case ScalarType::Int: return LabelType::i32;
    case ScalarType::Long: return LabelType::i64;
    default: STD_TORCH_CHECK(false, "labels must be uint8, int32 or int64");
  }
}

inline FloatType float_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return FloatType::f32;
    case ScalarType::Double: return FloatType::f64;
    case ScalarType::Half: return FloatType::f16;
    case ScalarType::BFloat16: return FloatType::bf16;
    default: STD_TORCH_CHECK(false, "floating tensors must be float32, float64, float16 or bfloat16");
  }
}

// What losses and statistics are held in: double for double, float for everything else.
inline ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_labels(const BadLabel& bad, int64_t classes, int64_t ignore_index) {
  // Worded like dgseg.ops._checks.label_message.
  refuse_unless(bad.image < 0, "labels hold ", bad.value, " at batch index ", bad.image, "; valid: 0 to ", classes - 1,
                ", or ", ignore_index, " to ignore: map raw ids to train ids first");
}

// A fresh tensor of many megabytes costs more in page faults than in writing: ask for huge pages. Only a hint.
inline void want_huge_pages([[maybe_unused]] const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t huge = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + huge - 1) & ~(huge - 1);
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(tensor.data_ptr()) + size_t(tensor.numel()) * tensor.element_size()) & ~(huge - 1);
  if (end > begin && end - begin >= 2 * huge) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace dgseg
