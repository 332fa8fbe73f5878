"""Geometry once, then the colours of every view: Sample -> {view: Sample}."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dgseg.data.augment.transform import AnySample, Transform
from dgseg.data.sample import Draw, Sample

ORIGINAL = "original"
AUGMENTED = "augmented"


@dataclass(frozen=True)
class Pipeline:
    """All views show the same places: only the shared part may move pixels. Label and maps exist once, shared, but
    for views that a sample brings itself: those have their own. A view that is not named here is coloured as the
    original is."""

    shared: tuple[Transform, ...] = ()
    views: Mapping[str, tuple[Transform, ...]] = field(default_factory=lambda: {ORIGINAL: ()})

    def __post_init__(self) -> None:
        if ORIGINAL not in self.views:
            raise ValueError(f"Pipeline: one view must be named {ORIGINAL!r}; there are {sorted(self.views)}")
        for name, transforms in self.views.items():
            for transform in transforms:
                if transform.geometric:
                    raise ValueError(f"Pipeline: {transform} moves pixels; move it from view {name!r} to `shared`")

    def __call__(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> dict[str, Sample]:
        if sample.label is not None and tuple(sample.label.shape[-2:]) != sample.size:
            raise ValueError(
                f"{sample.id}: the label is {tuple(sample.label.shape[-2:])}, the image {sample.size}; "
                "a dataset hands out both at one size"
            )
        if isinstance(sample, Sample):
            for name, view in sample.views.items():
                if view.size != sample.size or (view.label is not None and view.label.shape != sample.image.shape[-2:]):
                    raise ValueError(f"{sample.id}: its view {name!r} is {view.size}, and it is {sample.size}")
        for transform in self.shared:
            sample = transform(sample, rng, draw)
        shown = sample.whole()
        brought, plain = shown.views, replace(shown, views={})
        return {
            name: _apply(self.views.get(name, self.views[ORIGINAL]), brought.get(name, plain), rng, draw)
            for name in dict.fromkeys((*self.views, *brought))
        }


def _apply(transforms: tuple[Transform, ...], sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
    changed: AnySample = sample
    for transform in transforms:
        changed = transform(changed, rng, draw)
    return changed.whole()
