"""dgseg bench <what>: microbenchmarks, each beside what one would use instead."""

VERBS = {
    "checkpoint": ("dgseg.cli.bench.checkpoint", "how long training stands still for a save"),
    "data": ("dgseg.cli.bench.data", "from disk to batches"),
    "evaluation": ("dgseg.cli.bench.evaluation", "scoring, for a model that costs nothing"),
    "ops": ("dgseg.cli.bench.ops", "the fused operators"),
    "ranks": ("dgseg.cli.bench.ranks", "what workers of one machine tell each other"),
    "step": ("dgseg.cli.bench.step", "what FLEX-Seg costs in a training step"),
}
