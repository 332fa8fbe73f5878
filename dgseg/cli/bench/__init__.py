"""dgseg bench <what>: microbenchmarks, each beside what one would use instead."""

VERBS = {
    "data": ("dgseg.cli.bench.data", "from disk to batches"),
    "ops": ("dgseg.cli.bench.ops", "the fused operators"),
}
