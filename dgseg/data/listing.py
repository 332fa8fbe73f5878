"""Which pairs of image and label lie below a root, compactly enough for millions."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError
from dgseg.data.ids import Ids

# Written beside plain .png labels by other tools: no labels of their own.
_DERIVED = ("_labelTrainIds.png",)


class MissingSplit(DataError):
    """The folders or lists of a split are not there."""


@dataclass(frozen=True)
class Layout:
    """<root>/<images>/<key><image_suffix> with <root>/<labels>/<key><label_suffix>; <prefix><key> names the sample."""

    images: str
    image_suffix: str
    labels: str
    label_suffix: str
    ids: Ids
    prefix: str = ""
    member: Callable[[str], bool] | None = None  # which keys belong to the split; None: all

    def image(self, root: Path, key: str) -> Path:
        return root / self.images / (key + self.image_suffix)

    def label(self, root: Path, key: str) -> Path:
        return root / self.labels / (key + self.label_suffix)


# Layouts that a provider's folder may have, the likeliest first; several where the files lie in several parts.
Alternatives = Sequence[Layout]


@dataclass(frozen=True)
class Listing:
    layouts: tuple[Layout, ...]
    part: npt.NDArray[np.uint8]  # index into layouts, per sample
    keys: npt.NDArray[np.bytes_]
    unpaired: tuple[tuple[str, str], ...]  # sample id, what is missing

    def key(self, index: int) -> tuple[Layout, str]:
        return self.layouts[self.part[index]], os.fsdecode(self.keys[index])

    def ids(self) -> Iterator[str]:
        for part, key in zip(self.part, self.keys, strict=True):
            yield self.layouts[part].prefix + os.fsdecode(key)

    def take(self, kept: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Listing":
        return Listing(self.layouts, self.part[kept], self.keys[kept], self.unpaired)


def list_pairs(name: str, root: Path, parts: Sequence[Alternatives], labels: bool) -> Listing:
    if not root.is_dir():
        raise DataError(
            f"{name}: there is no folder {root}; pass the one that holds {parts[0][0].images.split('/')[0]}/"
        )
    walked: dict[str, list[str]] = {}

    def below(folder: str) -> list[str]:
        if folder not in walked:
            walked[folder] = list(_files(root / folder))
        return walked[folder]

    layouts: list[Layout] = []
    part: list[npt.NDArray[np.uint8]] = []
    keys: list[str] = []
    unpaired: list[tuple[str, str]] = []
    for alternatives in parts:
        chosen = _choose(name, root, alternatives, below, labels)
        mine = {id(layout): _keys(below(layout.images), layout.image_suffix, layout) for layout in chosen}
        every = set().union(*mine.values())
        if len(every) < sum(len(found) for found in mine.values()):
            twice = next(key for key in sorted(every) if sum(key in found for found in mine.values()) > 1)
            raise DataError(f"{name}: {root / chosen[0].images} holds {twice} with two suffixes; remove one of the two")
        for layout in chosen:
            found = mine[id(layout)]
            if labels:
                labelled = _keys(below(layout.labels), layout.label_suffix, layout)
                unpaired += [
                    (layout.prefix + key, f"{layout.image(root, key)} has no label {layout.label(root, key)}")
                    for key in sorted(found - labelled)
                ]
                if layout is chosen[0]:
                    unpaired += [
                        (layout.prefix + key, f"{layout.label(root, key)} has no image {layout.image(root, key)}")
                        for key in sorted(labelled - every)
                    ]
                found = found & labelled
            part.append(np.full(len(found), len(layouts), np.uint8))
            keys += sorted(found)
            layouts.append(replace(layout, member=None))  # listed: it need not travel to other processes
    _insist_on_text(name, root, [*keys, *(key for key, _ in unpaired)])
    encoded = np.array([os.fsencode(key) for key in keys], np.bytes_)
    return Listing(tuple(layouts), np.concatenate(part) if part else np.zeros(0, np.uint8), encoded, tuple(unpaired))


def _insist_on_text(name: str, root: Path, keys: list[str]) -> None:
    """Keys become ids, which stand in lists, one a line, and in JSON."""
    for key in keys:
        if not key.isprintable() or key != key.strip():
            raise DataError(
                f"{name}: below {root} a file's name {key!r} is not plain text (other bytes than UTF-8, a tab, a line "
                "end, a space at its end); rename it and its partner"
            )


def _choose(
    name: str, root: Path, alternatives: Alternatives, below: Callable[[str], list[str]], labels: bool
) -> list[Layout]:
    """The first alternative whose files are there, with those that differ from it in the image's suffix alone."""
    there = [layout for layout in alternatives if (root / layout.images).is_dir()]
    if not there:
        wanted = " or ".join(dict.fromkeys(layout.images for layout in alternatives))
        raise MissingSplit(
            f"{name}: {root} holds no {wanted}; pass the folder that the provider's archives unpack into"
        )
    used = [layout for layout in there if any(file.endswith(layout.image_suffix) for file in below(layout.images))]
    if labels:
        used = [
            layout for layout in used if any(file.endswith(layout.label_suffix) for file in below(layout.labels))
        ] or used
    if not used:
        wanted = " or ".join(dict.fromkeys(f"*{layout.image_suffix}" for layout in there))
        raise MissingSplit(f"{name}: {root / there[0].images} holds no {wanted}; unpack the images there")
    first = used[0]

    def kin(layout: Layout) -> tuple[str, str, str]:
        return layout.images, layout.labels, layout.label_suffix

    return [layout for layout in used if kin(layout) == kin(first)]


def _keys(files: list[str], suffix: str, layout: Layout) -> set[str]:
    derived = _DERIVED if suffix == ".png" else ()
    keys = {file.removesuffix(suffix) for file in files if file.endswith(suffix) and not file.endswith(derived)}
    return {key for key in keys if layout.member(key)} if layout.member else keys


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all files, through links to folders; hidden ones (some archives' ._00001.png) do not count."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(place, name)]
        relative = os.path.relpath(place, folder).replace(os.sep, "/")
        below = "" if relative == "." else relative + "/"
        for file in files:
            if not file.startswith("."):
                yield below + file


def _leads_back(place: str, name: str) -> bool:
    """A link to a folder that it lies in: its files would be listed again and again."""
    path = os.path.join(place, name)
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())
