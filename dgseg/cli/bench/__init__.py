"""dgseg bench <what>: microbenchmarks, each beside what one would use instead."""

VERBS = {
    "ops": ("dgseg.cli.bench.ops", "the fused operators"),
    "data": ("dgseg.cli.bench.data", "samples per second, and the candidates for packing"),
}
