"""dgseg tracking <verb>: runs' records in MLflow."""

VERBS: dict[str, tuple[str, str]] = {
    "replay": ("dgseg.cli.tracking.replay", "send what MLflow has not confirmed while a run trained"),
}
