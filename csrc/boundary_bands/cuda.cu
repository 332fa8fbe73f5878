#include <vector>

#include "../common/cuda_torch.h"
#include "cuda_phases.h"
#include "cuda_ranges.h"

namespace dgseg {
namespace {

// Blocks to have room for on a multiprocessor: what shared memory allows at radii (1, 2, 4), and fewer for wide labels,
// whose reading needs registers.
template <class L>
constexpr int kResident = sizeof(L) == 1 ? 4 : 2;
constexpr int kBlocksPerMultiprocessor = 16;

template <class L, bool Dense>
__global__ void __launch_bounds__(kBandThreads, kResident<L>) tile_kernel(BandsOnDevice a) {
  extern __shared__ uint32_t shared[];
  band_tile<L, Dense>(BlockOnDevice{}, a, shared);
}

__global__ void range_kernel(BandsOnDevice a, Ranges ranges, int64_t pixels, int64_t before, int64_t radius) {
  for (int64_t pixel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; pixel < pixels;
       pixel += int64_t(gridDim.x) * blockDim.x)
    widen_range(a, ranges, pixel, before, radius);
}

__global__ void mark_kernel(BandsOnDevice a, Ranges ranges, int64_t pixels, int64_t radius, int band) {
  for (int64_t pixel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; pixel < pixels;
       pixel += int64_t(gridDim.x) * blockDim.x)
    mark_band(a, ranges, pixel, radius, band);
}

template <class L, bool Dense>
void launch_tiles(const BandsOnDevice& a, cudaStream_t stream) {
  const int shared = int(Tile::words(a) * int64_t(sizeof(uint32_t)));
  check_cuda(cudaFuncSetAttribute(tile_kernel<L, Dense>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
             "cudaFuncSetAttribute");
  tile_kernel<L, Dense><<<unsigned(a.tiles), kBandThreads, size_t(shared), stream>>>(a);
  check_cuda(cudaGetLastError(), "boundary_bands");
}

template <class L>
void launch_tiles(BandsOnDevice a, int64_t images, const std::vector<int64_t>& radii, cudaStream_t stream) {
  a.bands = int(radii.size());
  for (int band = 0; band < a.bands; ++band) a.radii[band] = int(radii[size_t(band)]);
  cut_into_tiles(a, images);
  STD_TORCH_CHECK(a.tiles <= INT32_MAX, "boundary_bands: too many pixels for one call; split the batch");
  if (a.dense())
    launch_tiles<L, true>(a, stream);
  else
    launch_tiles<L, false>(a, stream);
}

void launch_ranges(const BandsOnDevice& a, const Tensor& labels, const std::vector<int64_t>& radii,
                   cudaStream_t stream) {
  const int64_t N = labels.size(0), pixels = N * a.height * int64_t(a.width);
  Tensor memory = torch::stable::empty({2, pixels}, ScalarType::Long, std::nullopt, labels.device());
  int64_t* values = static_cast<int64_t*>(memory.mutable_data_ptr());
  const Ranges ranges{values, values + pixels};
  const unsigned blocks = unsigned(blocks_for((pixels + kBandThreads - 1) / kBandThreads, kBlocksPerMultiprocessor));
  int64_t before = -1;
  for (size_t band = 0; band < radii.size(); ++band) {
    // A window larger than the image sees no more than the image.
    const int64_t whole = int64_t(a.width) + a.height, radius = radii[band] < whole ? radii[band] : whole;
    range_kernel<<<blocks, kBandThreads, 0, stream>>>(a, ranges, pixels, before, radius);
    mark_kernel<<<blocks, kBandThreads, 0, stream>>>(a, ranges, pixels, radius, int(band));
    before = radius;
  }
  check_cuda(cudaGetLastError(), "boundary_bands");
}

// Arguments were checked by dgseg.ops.boundary_bands; what is checked here guards direct calls of the raw operator.
Tensor boundary_bands_cuda(const Tensor& labels, std::vector<int64_t> radii, int64_t stride,
                           std::optional<std::vector<int64_t>> size, int64_t ignore_index) {
  STD_TORCH_CHECK(labels.dim() == 3, "boundary_bands: labels must be [N, H, W]");
  STD_TORCH_CHECK(!radii.empty() && radii.size() <= 254, "boundary_bands: 1 to 254 radii");
  int64_t previous = 0;
  for (int64_t r : radii) {
    STD_TORCH_CHECK(r > previous, "boundary_bands: radii must be positive and increasing");
    previous = r;
  }
  STD_TORCH_CHECK(stride >= 1, "boundary_bands: stride must be at least 1");
  STD_TORCH_CHECK(!size || size->size() == 2, "boundary_bands: size must hold two numbers");
  const int64_t N = labels.size(0), H = labels.size(1), W = labels.size(2);
  const int64_t h = size ? (*size)[0] : (H + stride - 1) / stride, w = size ? (*size)[1] : (W + stride - 1) / stride;
  const torch::stable::accelerator::DeviceGuard guard(labels.get_device_index());
  Tensor out = torch::stable::empty({N, h, w}, ScalarType::Byte, std::nullopt, labels.device());
  if (N * h * w == 0) return out;
  STD_TORCH_CHECK(h <= INT32_MAX / 2 && w <= INT32_MAX / 2, "boundary_bands: an image side of more than 2^30 pixels");
  const Sampling rows = size ? Sampling{H / h, H % h, h} : Sampling{stride, 0, h};
  const Sampling columns = size ? Sampling{W / w, W % w, w} : Sampling{stride, 0, w};
  const BandsOnDevice a{labels.const_data_ptr(),
                        label_type(labels),
                        labels.stride(0),
                        labels.stride(1),
                        labels.stride(2),
                        0,
                        rows,
                        columns,
                        ignore_index,
                        0,
                        static_cast<uint8_t*>(out.mutable_data_ptr()),
                        int(h),
                        int(w),
                        0,
                        {},
                        0,
                        0,
                        0,
                        0,
                        0};
  const cudaStream_t stream = current_stream(labels);
  if (!tile_holds(radii.data(), int(radii.size()))) {
    launch_ranges(a, labels, radii, stream);
    return out;
  }
  switch (a.type) {
    case LabelType::u8: launch_tiles<uint8_t>(a, N, radii, stream); break;
    case LabelType::i32: launch_tiles<int32_t>(a, N, radii, stream); break;
    case LabelType::i64: launch_tiles<int64_t>(a, N, radii, stream); break;
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CUDA, m) { m.impl("boundary_bands", TORCH_BOX(&boundary_bands_cuda)); }

}  // namespace dgseg
