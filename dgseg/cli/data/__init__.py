"""dgseg data <verb>: look at data sets, check, choose, pack and compare them."""

VERBS: dict[str, tuple[str, str]] = {
    "check": ("dgseg.cli.data.check", "scan every file: decodable, sizes, labels, leaks between splits"),
    "pack": ("dgseg.cli.data.pack", "rewrite a data set at training resolution, for fast random access"),
    "select": ("dgseg.cli.data.select", "write the papers' subsets as lists"),
    "stats": ("dgseg.cli.data.stats", "the class distributions of two datasets, side by side"),
}
