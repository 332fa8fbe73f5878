"""What a model's features look like: pixels of every class and domain, and how channels vary together in every image.

A model that generalises keeps classes apart and mixes domains. The same pixels are taken for every model: of each class
in each domain as many as asked for, evenly spaced over images that are evenly spaced over the domain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.labels import CLASSES, NUM_CLASSES
from dgseg.evaluation.counting import domains
from dgseg.evaluation.evaluate import scoring
from dgseg.evaluation.loading import resized
from dgseg.evaluation.protocols import Protocol
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import padded

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spot:
    """Pixels that were chosen in one image."""

    dataset: Dataset
    index: int
    domain: int  # its place in Chosen.domains
    pixels: Whole  # [n], positions in the flat label map
    classes: Whole  # [n]


@dataclass(frozen=True)
class Chosen:
    domains: tuple[str, ...]
    spots: tuple[Spot, ...]

    @property
    def classes(self) -> Whole:
        """[pixels]"""
        return np.concatenate([spot.classes for spot in self.spots])

    @property
    def pixel_domains(self) -> Whole:
        return np.concatenate([np.full(len(spot.pixels), spot.domain) for spot in self.spots])

    @property
    def image_domains(self) -> Whole:
        return np.array([spot.domain for spot in self.spots])


@dataclass(frozen=True)
class Frame:
    """Heights and widths: of a label, of its image as the model is shown it, and of that with its padding."""

    label: tuple[int, int]
    shown: tuple[int, int]
    padded: tuple[int, int]

    def inside(self, maps: Tensor) -> Tensor:
        """[C, h, w] without the cells whose middle lies in the padding."""
        cells = zip(maps.shape[-2:], self.shown, self.padded, strict=True)
        height, width = (max(1, -((whole - 2 * count * side) // (2 * whole))) for count, side, whole in cells)
        return maps[:, :height, :width].float()

    def at(self, maps: Tensor, pixels: Whole) -> Tensor:
        """[n, C]: the cells of [C, h, w] that hold the middles of the label's pixels."""
        kept = self.inside(maps)
        places = []
        for axis, along in enumerate(np.divmod(pixels, self.label[1])):
            cells, most = maps.shape[axis + 1] * self.shown[axis], kept.shape[axis + 1] - 1
            places.append(((2 * along + 1) * cells // (2 * self.label[axis] * self.padded[axis])).clip(max=most))
        rows, columns = (torch.from_numpy(place).to(maps.device) for place in places)
        return kept[:, rows, columns].T


@dataclass(frozen=True)
class Features:
    """Of one model at the chosen pixels and images."""

    pixels: Floats  # [pixels, channels], of length 1
    covariances: dict[str, Floats]  # map -> [images, channels * (channels + 1) / 2]


def choose(datasets: Sequence[Dataset], *, images: int, pixels: int, classes: Sequence[int] | None = None) -> Chosen:
    """Up to `images` of every domain, and up to `pixels` of every class in them; `classes`: of these alone."""
    wanted = range(NUM_CLASSES) if classes is None else classes
    spots: list[Spot] = []
    names: list[str] = []
    for dataset in datasets:
        for name, members in domains(dataset).items():
            if name in names:
                raise DataError(f"two data sets go by the name of {name}: give one a name of its own (domain=…)")
            looked_at = [members[place] for place in _evenly(len(members), images)]
            spots += _spots(dataset, looked_at, len(names), pixels, wanted)
            names.append(name)
    if not any(len(spot.pixels) for spot in spots):
        raise DataError("no image has a pixel of these classes")
    return Chosen(tuple(names), tuple(spots))


def _spots(dataset: Dataset, indices: Sequence[int], domain: int, pixels: int, classes: Sequence[int]) -> list[Spot]:
    found: dict[int, list[Whole]] = {c: [] for c in classes}
    for index in indices:
        label = dataset[index].label
        if label is None:
            raise DataError(f"{dataset.id(index)} has no label: there are no classes to tell apart")
        flat = label.numpy().ravel()
        for c, of_class in found.items():
            places = np.flatnonzero(flat == c)
            of_class.append(places[_evenly(len(places), pixels)])
    kept: list[list[tuple[Whole, int]]] = [[] for _ in indices]
    for c, of_class in found.items():
        # All images' pixels in one row, thinned: an image with more of them gives more.
        image = np.repeat(np.arange(len(indices)), [len(places) for places in of_class])
        every = np.concatenate(of_class)
        taken = _evenly(len(every), pixels)
        for place in range(len(indices)):
            kept[place].append((every[taken][image[taken] == place], c))
    return [
        Spot(
            dataset,
            index,
            domain,
            np.concatenate([places for places, _ in parts]),
            np.concatenate([np.full(len(places), c) for places, c in parts]),
        )
        for index, parts in zip(indices, kept, strict=True)
    ]


def _evenly(available: int, wanted: int) -> Whole:
    """Up to `wanted` of so many places, in the middles of equal parts."""
    count = min(available, wanted)
    return ((2 * np.arange(count) + 1) * available // (2 * max(count, 1))).astype(np.int64)


@torch.no_grad()
def features_of(
    model: SegmentationModel,
    chosen: Chosen,
    protocol: Protocol,
    *,
    feature: str = "decoder",
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Features:
    """`feature`: whose pixels are taken. Covariances are those of the instance norms' maps (norm0, norm1, …), which
    BlindNet aligns; of `feature` in a model without. Images are shown whole, at the protocol's size."""
    pixels: list[Tensor] = []
    covariances: dict[str, list[Tensor]] = {}
    with scoring(model):
        for spot in chosen.spots:
            sample = spot.dataset[spot.index]
            shown = protocol.image_size(spot.dataset.name, sample.size)
            image = resized(sample.image, shown)[None].to(device)
            whole = padded(model, model.normalise(image))
            maps = model(whole).features
            if feature not in maps:
                raise ValueError(f"{type(model).__name__} has no features {feature!r}; it has {', '.join(maps)}")
            over = Frame(sample.size, shown, (whole.shape[-2], whole.shape[-1]))
            pixels.append(over.at(maps[feature][0], spot.pixels))
            for name in [name for name in maps if name.startswith("norm")] or [feature]:
                covariances.setdefault(name, []).append(_covariance(over.inside(maps[name][0])))
            if progress is not None:
                progress(1)
    unit = F.normalize(torch.cat(pixels), dim=1)
    return Features(unit.cpu().numpy(), {name: torch.stack(each).cpu().numpy() for name, each in covariances.items()})


def _covariance(maps: Tensor) -> Tensor:
    """Of the channels, over places: the upper triangle of [C, C]."""
    flat = maps.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = centred @ centred.T / max(flat.shape[1] - 1, 1)
    rows, columns = torch.triu_indices(len(flat), len(flat), device=maps.device)
    return covariance[rows, columns]


@dataclass(frozen=True)
class Cloud:
    """Points of one model in the plane, with the groups that they are coloured by."""

    title: str
    points: Floats  # [n, 2]
    groups: Whole  # [n]
    names: tuple[str, ...]  # of the groups
    silhouette: float


def clouds(features: Features, chosen: Chosen, feature: str = "decoder", seed: int = 0) -> list[Cloud]:
    """By class, by domain, and every map's covariances by domain. Silhouettes are of the features themselves: how far
    points lie from other groups rather than from their own; 1 is apart, 0 mixed. That of domains is the mean over
    classes of how far domains are apart within each."""
    flat = plane(features.pixels, seed)
    classes, domains_ = chosen.classes, chosen.pixel_domains
    found = [
        Cloud(f"{feature}, by class", flat, classes, CLASSES, silhouette(features.pixels, classes)),
        Cloud(
            f"{feature}, by domain",
            flat,
            domains_,
            chosen.domains,
            silhouette_within(features.pixels, domains_, classes),
        ),
    ]
    for name, covariances in features.covariances.items():
        apart = silhouette(covariances, chosen.image_domains)
        title = f"covariances of {name}, by domain"
        found.append(Cloud(title, plane(covariances, seed), chosen.image_domains, chosen.domains, apart))
    return found


def plane(points: Floats, seed: int = 0) -> Floats:
    """[n, 2]: t-SNE, the same for the same points and seed."""
    if len(points) < 4:
        raise ValueError(f"t-SNE needs at least 4 points; there are {len(points)}: take more --images or --pixels")
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    with threadpool_limits(1):  # sums then have one order on every machine
        found: Floats = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return found


def silhouette(points: Floats, groups: Whole) -> float:
    """NaN where fewer than two groups have two points."""
    there, counts = np.unique(groups, return_counts=True)
    keep = np.isin(groups, there[counts > 1])
    if (counts > 1).sum() < 2:
        return float("nan")
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return float(silhouette_score(points[keep], groups[keep]))


def silhouette_within(points: Floats, groups: Whole, classes: Whole) -> float:
    each = [silhouette(points[classes == c], groups[classes == c]) for c in np.unique(classes)]
    known = [value for value in each if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
