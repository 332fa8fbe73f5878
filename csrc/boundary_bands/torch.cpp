#include "../common/torch.h"
#include "kernel.h"

#include <algorithm>
#include <vector>

namespace dgseg {
namespace {

// Arguments were checked by dgseg.ops.boundary_bands; what is checked here guards direct calls of the raw operator.
Tensor boundary_bands_cpu(const Tensor& labels, std::vector<int64_t> radii, int64_t stride,
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
  // A window larger than the map sees no more than the map.
  const int64_t h = size ? (*size)[0] : (H + stride - 1) / stride, w = size ? (*size)[1] : (W + stride - 1) / stride;
  for (int64_t& r : radii) r = std::min(r, std::max<int64_t>(1, std::max(h, w)));
  Tensor out = torch::stable::empty({N, h, w}, ScalarType::Byte, std::nullopt, labels.device());
  std::vector<int64_t> rows(static_cast<size_t>(h)), columns(static_cast<size_t>(w));
  bool dense = labels.stride(2) == 1 || w == 1;
  for (int64_t i = 0; i < h; ++i) rows[i] = size ? i * H / h : i * stride;
  for (int64_t j = 0; j < w; ++j) {
    columns[j] = size ? j * W / w : j * stride;
    dense &= columns[j] == j;
  }
  BoundaryBandsArgs args{labels.const_data_ptr(),
                         label_type(labels),
                         N,
                         labels.stride(0),
                         labels.stride(1),
                         labels.stride(2),
                         rows.data(),
                         columns.data(),
                         dense,
                         h,
                         w,
                         radii.data(),
                         int(radii.size()),
                         ignore_index,
                         static_cast<uint8_t*>(out.mutable_data_ptr())};
  DGSEG_PICK(boundary_bands)(args, torch_parallel());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) { m.impl("boundary_bands", TORCH_BOX(&boundary_bands_cpu)); }

}  // namespace dgseg
