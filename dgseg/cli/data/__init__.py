"""dgseg data <verb>: look at data sets, check, choose, pack and compare them."""

VERBS: dict[str, tuple[str, str]] = {
    "gap": ("dgseg.cli.data.gap", "how far the streets world's targets are from its source"),
    "show": ("dgseg.cli.data.show", "a contact sheet: images, labels, bands, misalignment, depth"),
}
