"""dgseg data <verb>: look at data sets, check, choose, pack and compare them."""

VERBS: dict[str, tuple[str, str]] = {
    "check": ("dgseg.cli.data.check", "scan every file: decodable, sizes, labels, leaks between splits"),
    "gap": ("dgseg.cli.data.gap", "how far the streets world's targets are from its source"),
    "pack": ("dgseg.cli.data.pack", "rewrite a data set at training resolution, for fast random access"),
    "select": ("dgseg.cli.data.select", "write the papers' subsets as lists"),
    "show": ("dgseg.cli.data.show", "a contact sheet: images, labels, bands, misalignment, depth"),
    "stats": ("dgseg.cli.data.stats", "the class distributions of two datasets, side by side"),
}
