"""dgseg bench <what>: microbenchmarks, each beside what one would use instead."""

VERBS = {
    "evaluation": ("dgseg.cli.bench.evaluation", "scoring, for a model that costs nothing"),
    "ops": ("dgseg.cli.bench.ops", "the fused operators"),
}
