"""dgseg bench <what>: microbenchmarks, each beside what one would use instead."""

VERBS = {
    "ops": ("dgseg.cli.bench.ops", "the fused operators"),
    "step": ("dgseg.cli.bench.step", "what FLEX-Seg costs in a training step"),
}
