// Cross-entropy whose band pixels are weighted by their prediction entropy: three passes.
//
//   pixels     logits -> per pixel log-sum-exp, entropy (in bands) and cross-entropy; moments of the band entropy
//   loss       those maps -> weights and the sums that make up the loss; touches no logits
//   backward   logits, log-sum-exp, weights -> gradient
//
// Must move: pixels reads the logits once; backward reads them once and writes as much. The maps are 1/C of that.
// How they walk over the logits, upsampled on the fly, and the legend are in ../common/logit_blocks.h.
#include "backward.h"
#include "loss.h"
#include "pixels.h"

namespace dgseg::DGSEG_ISA {
namespace {

template <class S>
void pixels_typed(EntropyPixelsArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  using ThisJob = Job<EntropyPixelsArgs>;
  const bool full = same_size(args.in);
  const int64_t tasks = block_tasks(args.in);
  Scratch<TaskResult> results(tasks);
  for (int64_t i = 0; i < tasks; ++i) results[i] = TaskResult();
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  ThisJob job{&args, results.get(), &rows, &columns};
  parallel.run(tasks, full ? run_tasks<ThisJob, pixels_task_full<S>> : run_tasks<ThisJob, pixels_task_up<S>>, &job);
  for (int64_t i = 0; i < tasks; ++i) {
    merge(args.moments, results[i].moments);
    if (args.bad.image < 0) args.bad = results[i].bad;
  }
}

template <class S>
void backward_typed(const EntropyBackwardArgs& args, const Parallel& parallel) {
  using T = typename ComputeType<S>::type;
  using ThisJob = Job<const EntropyBackwardArgs>;
  const bool full = same_size(args.in);
  const int64_t tasks = block_tasks(args.in);
  const Axis<T> rows(args.in.h, args.in.H), columns(args.in.w, args.in.W);
  ThisJob job{&args, nullptr, &rows, &columns};
  parallel.run(tasks, full ? run_tasks<ThisJob, backward_task_full<S>> : run_tasks<ThisJob, backward_task_up<S>>, &job);
}

}  // namespace

void entropy_pixels(EntropyPixelsArgs& args, const Parallel& parallel) {
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return pixels_typed<float>(args, parallel);
    case FloatType::f64: return pixels_typed<double>(args, parallel);
    case FloatType::f16: return pixels_typed<Half>(args, parallel);
    case FloatType::bf16: return pixels_typed<BFloat16>(args, parallel);
  }
}

void entropy_loss(EntropyLossArgs& args, const Parallel& parallel) {
  const int64_t segments = loss_segments(args.in), tasks = args.in.N * segments;
  Scratch<LossResult> results(tasks);
  for (int64_t i = 0; i < tasks; ++i) results[i] = LossResult();
  LossJob job{&args, results.get()};
  const bool wide = args.in.type == FloatType::f64;
  if (tasks > 0)
    parallel.run(tasks, wide ? run_tasks<LossJob, loss_task<double>> : run_tasks<LossJob, loss_task<float>>, &job);
  args.loss = 0;
  for (int64_t image = 0; image < args.in.N; ++image) {
    LossResult sum;
    for (int64_t i = image * segments; i < (image + 1) * segments; ++i) {
      sum.loss += results[i].loss;
      sum.plain += results[i].plain;
      sum.valid += results[i].valid;
    }
    args.loss += sum.loss;
    const double mean = sum.valid > 0 ? sum.plain / sum.valid : 0;
    if (wide)
      static_cast<double*>(args.per_image)[image] = mean;
    else
      static_cast<float*>(args.per_image)[image] = float(mean);
  }
}

void entropy_backward(const EntropyBackwardArgs& args, const Parallel& parallel) {
  if (is_empty(args.in)) return;
  switch (args.in.type) {
    case FloatType::f32: return backward_typed<float>(args, parallel);
    case FloatType::f64: return backward_typed<double>(args, parallel);
    case FloatType::f16: return backward_typed<Half>(args, parallel);
    case FloatType::bf16: return backward_typed<BFloat16>(args, parallel);
  }
}

}  // namespace dgseg::DGSEG_ISA
