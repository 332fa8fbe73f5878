#include "../common/torch.h"

#include <tuple>

#include "kernel.h"

namespace dgseg {
namespace {

// Arguments were checked by dgseg.ops.prototype_ema; what is checked here guards direct calls of the raw operators.

PixelMap pixel_map(const Tensor& map) {
  return {map.const_data_ptr(), label_type(map), map.stride(0), map.stride(1), map.stride(2)};
}

PrototypeCells prototype_cells(const Tensor& labels, const Tensor& bands, int64_t classes, int64_t granularities,
                               bool nested) {
  STD_TORCH_CHECK(labels.dim() == 3 && bands.dim() == 3, "prototype_ema_: labels and bands must be [N, h, w]");
  for (int64_t dim = 0; dim < 3; ++dim)
    STD_TORCH_CHECK(labels.size(dim) == bands.size(dim), "prototype_ema_: labels and bands must have one shape");
  STD_TORCH_CHECK(classes >= 0 && granularities >= 0 && classes * granularities < (int64_t(1) << 31),
                  "prototype_ema_: prototypes has too many cells");
  STD_TORCH_CHECK(labels.numel() < (int64_t(1) << 31), "prototype_ema_: a batch may hold at most 2^31 - 1 pixels");
  return {pixel_map(labels), pixel_map(bands), labels.size(0), labels.size(1),
          labels.size(2),    classes,          granularities,  nested};
}

std::tuple<Tensor, Tensor> prototype_ema_ranks_cpu(const Tensor& labels, const Tensor& bands, const Tensor& sample_ids,
                                                   int64_t seed, int64_t step, int64_t classes, int64_t granularities,
                                                   bool nested, int64_t limit) {
  const PrototypeCells cells = prototype_cells(labels, bands, classes, granularities, nested);
  STD_TORCH_CHECK(
      sample_ids.dim() == 1 && sample_ids.size(0) == cells.images && sample_ids.scalar_type() == ScalarType::Long,
      "prototype_ema_: sample_ids must be int64 [N]");
  const Tensor ids = torch::stable::contiguous(sample_ids);
  const int64_t slots = limit == 0 ? 0 : nested ? granularities : 1;
  Tensor counts = torch::stable::empty({classes, granularities}, ScalarType::Long, std::nullopt, labels.device());
  Tensor ranks = torch::stable::empty({slots, cells.images, cells.height, cells.width}, ScalarType::Int, std::nullopt,
                                      labels.device());
  BadLabel bad_label, bad_band;
  const PrototypeRanksArgs args{cells,
                                static_cast<const int64_t*>(ids.const_data_ptr()),
                                seed,
                                step,
                                limit,
                                static_cast<int64_t*>(counts.mutable_data_ptr()),
                                slots ? static_cast<int32_t*>(ranks.mutable_data_ptr()) : nullptr,
                                &bad_label,
                                &bad_band};
  DGSEG_PICK(prototype_ranks)(args, torch_parallel());
  // Worded like dgseg.ops.prototype_ema.reference.check_values.
  refuse_unless(bad_band.image < 0, "bands hold ", bad_band.value, " at batch index ", bad_band.image,
                "; valid: 0 (no band) to ", granularities, ", one per granularity of prototypes");
  refuse_unless(bad_label.image < 0, "labels hold ", bad_label.value, " at batch index ", bad_label.image,
                " inside a band; valid: 0 to ", classes - 1,
                ": map raw ids to train ids first, or give such pixels band 0");
  return {counts, ranks};
}

Tensor prototype_weighted_sums_cpu(const Tensor& features, const Tensor& labels, const Tensor& bands,
                                   const Tensor& ranks, const Tensor& scales, const Tensor& fades, const Tensor& powers,
                                   bool nested) {
  STD_TORCH_CHECK(scales.dim() == 2 && scales.scalar_type() == ScalarType::Double && fades.dim() == 2 &&
                      fades.scalar_type() == ScalarType::Bool && fades.size(0) == scales.size(0) &&
                      fades.size(1) == scales.size(1),
                  "prototype_weighted_sums: scales must be float64 [C, G], fades bool [C, G]");
  STD_TORCH_CHECK(powers.dim() == 1 && powers.scalar_type() == ScalarType::Double,
                  "prototype_weighted_sums: powers must be float64 [K]");
  const PrototypeCells cells = prototype_cells(labels, bands, scales.size(0), scales.size(1), nested);
  STD_TORCH_CHECK(features.dim() == 4 && features.size(0) == cells.images && features.size(2) == cells.height &&
                      features.size(3) == cells.width,
                  "prototype_weighted_sums: features must be [N, D, h, w] to fit labels [N, h, w]");
  const int64_t slots = nested ? cells.granularities : 1;
  STD_TORCH_CHECK(ranks.scalar_type() == ScalarType::Int && ranks.dim() == 4 &&
                      (ranks.size(0) == 0 || (ranks.size(0) == slots && ranks.numel() == slots * labels.numel())),
                  "prototype_weighted_sums: ranks must be int32 [0, G if nested else 1; N, h, w]");
  const Tensor ranks_dense = torch::stable::contiguous(ranks), scales_dense = torch::stable::contiguous(scales),
               fades_dense = torch::stable::contiguous(fades), powers_dense = torch::stable::contiguous(powers);
  Tensor sums = torch::stable::empty({scales.size(0), scales.size(1), features.size(1)}, ScalarType::Double,
                                     std::nullopt, features.device());
  const PrototypeSumsArgs args{cells,
                               features.const_data_ptr(),
                               float_type(features),
                               features.stride(0),
                               features.stride(1),
                               features.stride(2),
                               features.stride(3),
                               features.size(1),
                               ranks.size(0) ? static_cast<const int32_t*>(ranks_dense.const_data_ptr()) : nullptr,
                               static_cast<const double*>(scales_dense.const_data_ptr()),
                               static_cast<const bool*>(fades_dense.const_data_ptr()),
                               static_cast<const double*>(powers_dense.const_data_ptr()),
                               powers.size(0),
                               static_cast<double*>(sums.mutable_data_ptr())};
  DGSEG_PICK(prototype_sums)(args, torch_parallel());
  return sums;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dgseg, CPU, m) {
  m.impl("prototype_ema_ranks", TORCH_BOX(&prototype_ema_ranks_cpu));
  m.impl("prototype_weighted_sums", TORCH_BOX(&prototype_weighted_sums_cpu));
}

}  // namespace dgseg
