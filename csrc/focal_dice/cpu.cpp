// Focal and Dice loss from one reading of the logits: two passes.
//
//   sums       logits -> per pixel log-sum-exp; per class the sums of focal loss, of own probability (the Dice
//              intersection), of all probability, and of pixels. Both losses are functions of these 4 C numbers.
//   backward   logits, log-sum-exp, gradient of the sums -> gradient of the logits
//
// Must move: sums reads the logits once; backward reads them once and writes as much. The map is 1/C of that. One
// exponential per class and pixel in each pass; those of a block stay in a buffer that the first-level cache holds.
// How they walk over the logits, upsampled on the fly, and the legend are in ../common/logit_blocks.h.
#include "backward.h"
#include "sums.h"

namespace dgseg::DGSEG_ISA {
namespace {

template <class S>
void sums_typed(FocalDiceSumsArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  const int64_t tasks = block_tasks(args.in), width = kFocalDiceRows * args.in.C;
  Scratch<double> sums(tasks * width);
  Scratch<BadLabel> bad(tasks);
  for (int64_t i = 0; i < tasks; ++i) bad[i] = BadLabel();
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  SumsJob job{&args, sums.get(), bad.get(), &rows, &columns};
  parallel.run(tasks, run_tasks<SumsJob, sums_task<S>>, &job);
  for (int64_t i = 0; i < tasks; ++i) {
    for (int64_t k = 0; k < width; ++k) args.sums[k] += sums[i * width + k];
    if (args.bad.image < 0) args.bad = bad[i];
  }
}

template <class S>
void backward_typed(const FocalDiceBackwardArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  BackwardJob job{&args, &rows, &columns};
  parallel.run(block_tasks(args.in), run_tasks<BackwardJob, backward_task<S>>, &job);
}

}  // namespace

void focal_dice_sums(FocalDiceSumsArgs& args, const Parallel& parallel) {
  for (int64_t i = 0; i < kFocalDiceRows * args.in.C; ++i) args.sums[i] = 0;
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return sums_typed<float>(args, parallel);
    case FloatType::f64: return sums_typed<double>(args, parallel);
    case FloatType::f16: return sums_typed<Half>(args, parallel);
    case FloatType::bf16: return sums_typed<BFloat16>(args, parallel);
  }
}

void focal_dice_backward(const FocalDiceBackwardArgs& args, const Parallel& parallel) {
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return backward_typed<float>(args, parallel);
    case FloatType::f64: return backward_typed<double>(args, parallel);
    case FloatType::f16: return backward_typed<Half>(args, parallel);
    case FloatType::bf16: return backward_typed<BFloat16>(args, parallel);
  }
}

}  // namespace dgseg::DGSEG_ISA
