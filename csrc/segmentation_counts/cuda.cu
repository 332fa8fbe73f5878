#include "../common/cuda_torch.h"
#include "cuda_phases.h"

namespace dgseg {
namespace {

constexpr int64_t kSharedBytes = 48 * 1024;  // what every GPU gives without asking
constexpr int kBlocksPerMultiprocessor = 8;
// Blocks that must fit on a multiprocessor at once. Asking for more would leave ptxas too few registers: it spills.
template <class S>
constexpr int kResident = sizeof(S) == 8 ? 2 : 3;

template <class S, int R, bool Upsample>
__global__ void __launch_bounds__(kCountThreads, kResident<S>) counts_kernel(CountsOnDevice a) {
  extern __shared__ uint32_t histogram[];
  count_tiles<S, R, Upsample>(BlockOnDevice{}, a, histogram);
}

template <class S, int R, bool Upsample>
void launch(CountsOnDevice a, int64_t images, cudaStream_t stream) {
  cut_into_tiles(a, images, Upsample ? a.height : (a.label_height + R - 1) / R);
  const int64_t blocks = blocks_for(a.tiles, kBlocksPerMultiprocessor);
  const size_t shared = a.shared_histogram ? size_t(a.classes * a.classes) * sizeof(uint32_t) : 0;
  counts_kernel<S, R, Upsample><<<unsigned(blocks), kCountThreads, shared, stream>>>(a);
  check_cuda(cudaGetLastError(), "segmentation_counts");
}

template <class S>
void launch(const CountsOnDevice& a, int64_t images, cudaStream_t stream) {
  if (a.height == a.label_height && a.width == a.label_width) return launch<S, 4, false>(a, images, stream);
  // As many rows at a time as usually lie between two source rows.
  const int64_t rows = (a.label_height + a.height - 1) / a.height;
  if (rows == 1) return launch<S, 1, true>(a, images, stream);
  if (rows == 2) return launch<S, 2, true>(a, images, stream);
  launch<S, 4, true>(a, images, stream);
}

// Arguments were checked by dgseg.ops.segmentation_counts; what is checked here guards direct calls of the raw
// operator.
Tensor segmentation_counts_cuda(const Tensor& logits, const Tensor& labels, int64_t ignore_index) {
  STD_TORCH_CHECK(logits.dim() == 4 && labels.dim() == 3,
                  "segmentation_counts: logits must be [N, C, h, w], labels [N, H, W]");
  const int64_t N = logits.size(0), C = logits.size(1), h = logits.size(2), w = logits.size(3);
  const int64_t H = labels.size(1), W = labels.size(2);
  STD_TORCH_CHECK(labels.size(0) == N, "segmentation_counts: logits and labels must have one batch size");
  STD_TORCH_CHECK(labels.get_device_index() == logits.get_device_index(),
                  "segmentation_counts: logits and labels must be on one device");
  STD_TORCH_CHECK(C >= 1 && C <= 4096, "segmentation_counts: 1 to 4096 classes");
  STD_TORCH_CHECK(h <= H && w <= W && (h * w > 0 || H * W == 0),
                  "segmentation_counts: logits must be at label size or below");
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const cudaStream_t stream = current_stream(logits);
  Tensor counts = torch::stable::empty({C, C + 1}, ScalarType::Long, std::nullopt, logits.device());
  check_cuda(cudaMemsetAsync(counts.mutable_data_ptr(), 0, size_t(C * (C + 1)) * sizeof(int64_t), stream),
             "cudaMemsetAsync");
  if (N * H * W == 0) return counts;
  const CountsOnDevice a{logits.const_data_ptr(),
                         C,
                         h,
                         w,
                         logits.stride(0),
                         logits.stride(1),
                         logits.stride(2),
                         logits.stride(3),
                         labels.const_data_ptr(),
                         label_type(labels),
                         H,
                         W,
                         labels.stride(0),
                         labels.stride(1),
                         labels.stride(2),
                         ignore_index,
                         static_cast<unsigned long long*>(counts.mutable_data_ptr()),
                         C * C * int64_t(sizeof(uint32_t)) <= kSharedBytes,
                         0,
                         0,
                         0,
                         0};
  switch (float_type(logits)) {
    case FloatType::f32: launch<float>(a, N, stream); break;
    case FloatType::f64: launch<double>(a, N, stream); break;
    case FloatType::f16: launch<DeviceHalf>(a, N, stream); break;
    case FloatType::bf16: launch<DeviceBFloat16>(a, N, stream); break;
  }
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CUDA, m) { m.impl("segmentation_counts", TORCH_BOX(&segmentation_counts_cuda)); }

}  // namespace dgseg
