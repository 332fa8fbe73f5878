// What every csrc/<op>/cuda.cu needs of torch's stable ABI and of the CUDA runtime.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "torch.h"

namespace dgseg {

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void check_cuda(cudaError_t status, const char* what) {
  STD_TORCH_CHECK(status == cudaSuccess, what, ": ", cudaGetErrorString(status));
}

// Blocks for kernels that walk over their work: enough to fill the GPU several times over.
inline int64_t blocks_for(int64_t work, int per_multiprocessor) {
  int device = 0, multiprocessors = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  const int64_t most = int64_t(multiprocessors) * per_multiprocessor;
  return work < most ? work : most;
}

}  // namespace dgseg
