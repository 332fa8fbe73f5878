"""dgseg data <verb>: look at data sets, check, choose, pack and compare them."""

VERBS: dict[str, tuple[str, str]] = {}
