// Device code that the CPU can run too. A block's work is written once, as phases between barriers:
//
//   machine.phase([&](int thread) { ... });   every thread of the block, then a barrier
//
// On the GPU a phase runs for this thread and ends in __syncthreads(); in the native tests (BlockOnHost) it runs for
// all threads one after the other, forwards or backwards, so that index arithmetic is proven on machines without a GPU.
// Whatever is decided between phases must be the same for all threads of a block.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define DGSEG_PHASE __host__ __device__ __forceinline__
#else
#define DGSEG_PHASE inline
#endif

#if defined(__CUDA_ARCH__)
#define DGSEG_PRAGMA(text) _Pragma(#text)
#define DGSEG_UNROLL(times) DGSEG_PRAGMA(unroll times)
#define DGSEG_UNROLL_ALL DGSEG_PRAGMA(unroll)
#else
#define DGSEG_UNROLL(times)
#define DGSEG_UNROLL_ALL
#endif

#include "types.h"

namespace dgseg {
namespace {

#if defined(__CUDACC__)
struct BlockOnDevice {
  template <class Phase>
  __device__ __forceinline__ void phase(const Phase& run) const {
    run(int(threadIdx.x));
    __syncthreads();
  }
  __device__ __forceinline__ int64_t block() const { return blockIdx.x; }
  __device__ __forceinline__ int64_t blocks() const { return gridDim.x; }
};
#endif

struct BlockOnHost {
  int threads;
  int64_t block_index, block_count;
  bool backwards;

  template <class Phase>
  void phase(const Phase& run) const {
    for (int t = 0; t < threads; ++t) run(backwards ? threads - 1 - t : t);
  }
  int64_t block() const { return block_index; }
  int64_t blocks() const { return block_count; }
};

template <class T>
DGSEG_PHASE void add_atomically(T* to, T value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(to, value);
#else
  *to += value;
#endif
}
[[maybe_unused]] DGSEG_PHASE void or_atomically(uint32_t* to, uint32_t value) {
#if defined(__CUDA_ARCH__)
  atomicOr(to, value);
#else
  *to |= value;
#endif
}

// ---- storage types: values as the computation wants them -----------------------------------------------------------

struct DeviceHalf {
  uint16_t bits;
};
struct DeviceBFloat16 {
  uint16_t bits;
};

template <class To, class From>
DGSEG_PHASE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  union {
    From in;
    To out;
  } both{from};
  return both.out;
}

DGSEG_PHASE float widen(float v) { return v; }
DGSEG_PHASE double widen(double v) { return v; }
[[maybe_unused]] DGSEG_PHASE float widen(DeviceBFloat16 v) { return reinterpret<float>(uint32_t(v.bits) << 16); }
[[maybe_unused]] DGSEG_PHASE float widen(DeviceHalf v) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
  return wide;
#else
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  if (rest >= 0x7c00) return reinterpret<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  return reinterpret<float>(reinterpret<uint32_t>(reinterpret<float>(rest << 13) * 5.192296858534828e33f) | sign);
#endif
}

template <class S>
struct Computed {
  using type = float;
};
template <>
struct Computed<double> {
  using type = double;
};

DGSEG_PHASE int64_t read_label(const void* labels, LabelType type, int64_t at) {
  switch (type) {
    case LabelType::u8: return static_cast<const uint8_t*>(labels)[at];
    case LabelType::i32: return static_cast<const int32_t*>(labels)[at];
    default: return static_cast<const int64_t*>(labels)[at];
  }
}

}  // namespace
}  // namespace dgseg
