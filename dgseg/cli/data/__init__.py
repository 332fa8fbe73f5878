"""dgseg data <verb>: look at data sets, check, choose, pack and compare them."""

VERBS: dict[str, tuple[str, str]] = {
    "pack": ("dgseg.cli.data.pack", "rewrite a data set at training resolution, for fast random access"),
}
