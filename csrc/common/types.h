// What kernels are told about tensors: raw pointers, these tags, and strides in elements.
#pragma once
#include <cstdint>

namespace dgseg {

enum class FloatType { f32, f64, f16, bf16 };
enum class LabelType { u8, i32, i64 };

// The first label (by batch index) that is neither a class nor ignored; kernels stay in bounds and report it.
struct BadLabel {
  int64_t image = -1;
  int64_t value = 0;
};

}  // namespace dgseg
