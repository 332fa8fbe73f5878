"""Data sets: whether each opens, and its first sample with it."""

from collections.abc import Iterator

from dgseg.cli.doctor.finding import Finding, Settings

AREA = "data"

_EMBEDDED = "streets=game@train,size=64x128"


def data_sets(settings: Settings) -> Iterator[Finding]:
    from dgseg.data import from_spec

    for spec in (_EMBEDDED, *settings.data):
        try:
            dataset = from_spec(spec)
            sample = dataset[0]
        except Exception as error:
            yield Finding(AREA, spec, "broken", str(error), "dgseg data check says more", stops=True)
            continue
        height, width = sample.image.shape[-2:]
        yield Finding(AREA, spec, "ok", f"{len(dataset)} samples, the first is {height}x{width}")


CHECKS = (data_sets,)
