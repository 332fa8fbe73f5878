"""Datasets of image and label files: a provider's folders become samples of train ids.

A subclass names its splits, with how many images the provider ships, and its layouts: dgseg/data/datasets/ has one
short file per provider."""

import hashlib
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from dgseg.data.dataset import CorruptFile, DataError, Dataset, DataWarning
from dgseg.data.decoding import read_image, verify_checksums
from dgseg.data.ids import Ids
from dgseg.data.listing import Alternatives, list_pairs
from dgseg.data.lists import read_list
from dgseg.data.sample import Sample

log = logging.getLogger("dgseg.data")


class FileDataset(Dataset):
    """`labels=False` serves images alone. `quarantine` and `files` name lists of sample ids: those to skip (written by
    `dgseg data check --quarantine`), those to keep (by `dgseg data select`). `strict=False` lists what has a pair and
    leaves what has none in `unpaired`: for checking."""

    splits: ClassVar[Mapping[str, int | None]]  # how many images the provider ships; None: that differs
    default_split: ClassVar[str] = "train"
    unlabelled: ClassVar[frozenset[str]] = frozenset()  # splits whose labels the provider keeps
    oriented: ClassVar[bool] = False  # whether EXIF orientation counts
    pairing: ClassVar[str] = ""  # what else to try where files have no partner

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        *,
        labels: bool = True,
        quarantine: Path | str | None = None,
        files: Path | str | None = None,
        strict: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        self.split = self.default_split if split is None else split
        self.labels = labels
        if not hasattr(self, "domain"):
            self.domain = self.name
        if self.split not in self.splits:
            near = get_close_matches(self.split, self.splits, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{self.name} has no split {self.split!r}, but {', '.join(self.splits)}{hint}")
        if labels and self.split in self.unlabelled:
            raise DataError(f"{self.name}: the provider ships no labels of {self.split}; open it with labels=False")
        self._list = list_pairs(self.name, self.root, self.layouts(), labels)
        self.quarantined = 0
        if quarantine is not None:
            self._leave_out(quarantine)
        if files is not None:
            self._keep_only(files)
        self.unpaired = [(f"{self.name}/{sample}", what) for sample, what in self._list.unpaired]
        if strict:
            self._insist(chosen=files is not None)

    @abstractmethod
    def layouts(self) -> Sequence[Alternatives]:
        """Where this split's files lie: one group of alternatives per part."""

    def expected(self) -> int | None:
        """How many images the provider ships."""
        return self.splits[self.split]

    def __len__(self) -> int:
        return len(self._list.keys)

    def __repr__(self) -> str:
        skipped = f", {self.quarantined} quarantined" if self.quarantined else ""
        return f"<{self.name}/{self.split}: {len(self)} images{skipped}>"

    def id(self, index: int) -> str:
        layout, key = self._list.key(index)
        return f"{self.name}/{layout.prefix}{key}"

    def ids(self) -> list[str]:
        return [f"{self.name}/{sample}" for sample in self._list.ids()]

    def image_path(self, index: int) -> Path:
        layout, key = self._list.key(index)
        return layout.image(self.root, key)

    def label_path(self, index: int) -> Path:
        layout, key = self._list.key(index)
        return layout.label(self.root, key)

    def read_image(self, index: int) -> npt.NDArray[np.uint8]:
        """RGB [H, W, 3]."""
        with self._naming_itself():
            return read_image(self.image_path(index), oriented=self.oriented)

    def read_label(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Train ids [H, W] and, where the provider marks what is out of distribution, 0 in, 1 out, 255 void."""
        layout, key = self._list.key(index)
        path = layout.label(self.root, key)
        with self._naming_itself():
            raw = layout.ids.read(path, oriented=self.oriented)
        try:
            return layout.ids.convert(raw), layout.ids.outside(raw)
        except ValueError as error:
            raise CorruptFile(path, f"{self.name}: {error}") from error

    def __getitem__(self, index: int) -> Sample:
        image = self.read_image(index)
        # Channels last in memory: that is how decoders write, and resizing is fastest on it.
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if not self.labels:
            return Sample(pixels, None, self.id(index))
        label, outside = self.read_label(index)
        self.check_sizes(index, image, label)
        extra = {} if outside is None else {"out_of_distribution": torch.from_numpy(outside)}
        return Sample(pixels, torch.from_numpy(label), self.id(index), extra)

    def check_sizes(self, index: int, image: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8]) -> None:
        if image.shape[:2] != label.shape:
            (height, width), (tall, wide) = image.shape[:2], label.shape
            raise CorruptFile(
                self.label_path(index),
                f"{self.name}: the label is {wide}×{tall}, its image {self.image_path(index)} {width}×{height}; "
                "unpack both again, or quarantine the pair (dgseg data check --quarantine)",
            )

    def verify_checksums(self, index: int) -> None:
        """Of the image and, with labels, of the label: what decoders pass over."""
        with self._naming_itself():
            verify_checksums(self.image_path(index))
            if self.labels:
                verify_checksums(self.label_path(index))

    @contextmanager
    def _naming_itself(self) -> Iterator[None]:
        try:
            yield
        except CorruptFile as error:
            remedy = "unpack it again, or quarantine it (dgseg data check --quarantine)"
            raise CorruptFile(error.path, f"{self.name}: {error.message}; {remedy}") from error

    def class_pixels(self) -> npt.NDArray[np.int64]:
        from dgseg.data.statistics import class_pixels

        return class_pixels(self)

    def subset(self, kept: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "FileDataset":
        """The same dataset with some of its samples."""
        fewer = copy(self)
        fewer._list = self._list.take(kept)
        return fewer

    def digest(self) -> str:
        """Names the list of samples, whatever their files hold and wherever they lie."""
        return hashlib.sha256("\n".join(self.ids()).encode()).hexdigest()[:16]

    def labels_digest(self) -> str:
        """Changes with the samples, with their label files' sizes and times and with what their ids become."""
        state = hashlib.sha256(self.digest().encode())
        for layout in self._list.layouts:
            ids: Ids = layout.ids
            state.update(ids.raw.tobytes() + ids.train.tobytes() + repr((ids.colours, ids.rest)).encode())
        for index in range(len(self)):
            try:
                status = self.label_path(index).stat()
            except OSError:  # a dangling link: named when it is read
                state.update(b"absent\n")
            else:
                state.update(b"%d %d\n" % (status.st_size, status.st_mtime_ns))
        return state.hexdigest()[:32]

    def _leave_out(self, path: Path | str) -> None:
        listed = read_list(path).ids
        strangers = sorted(sample for sample in listed if not sample.startswith(f"{self.name}/"))
        if strangers:
            raise DataError(
                f"{self.name}: {path} lists {strangers[0]}, which is of another dataset; name the quarantine that "
                f"`dgseg data check {self.name}` wrote"
            )
        kept = np.array([sample not in listed for sample in self.ids()], np.bool_)
        unpaired = tuple(pair for pair in self._list.unpaired if f"{self.name}/{pair[0]}" not in listed)
        self.quarantined = int((~kept).sum()) + len(self._list.unpaired) - len(unpaired)
        self._list = replace(self._list.take(kept), unpaired=unpaired)
        log.info("%s/%s: %d samples are in quarantine (%s)", self.name, self.split, self.quarantined, path)

    def _keep_only(self, path: Path | str) -> None:
        chosen = read_list(path)
        kept = np.array([sample in chosen.ids for sample in self.ids()], np.bool_)
        # A list's header says how many images it took from each split; without one all of them must be here.
        per_split = chosen.header.get("images", {self.split: len(chosen.ids)})
        if self.split not in per_split:
            of = " and ".join(per_split)
            raise DataError(
                f"{self.name}: {path} lists images of split {of}, not of {self.split}; open that split with it"
            )
        wanted = int(per_split[self.split])
        if kept.sum() + self.quarantined < wanted or not kept.any():
            absent = sorted(chosen.ids - set(self.ids()))[:3]
            raise DataError(
                f"{self.name}/{self.split}: {path} lists {wanted} images of this split, {int(kept.sum())} are here "
                f"(not here: {', '.join(absent)}); take another split, or write the list again with dgseg data select"
            )
        self._list = self._list.take(kept)

    def _insist(self, chosen: bool) -> None:
        if self.unpaired:
            examples = "; ".join(what for _, what in self.unpaired[:3])
            raise DataError(
                f"{self.name}/{self.split}: {len(self.unpaired)} files have no partner: {examples}; unpack them again, "
                f"or skip them: `dgseg data check {self.name} {self.root} --quarantine bad.txt`, then "
                f"quarantine=bad.txt{self.pairing}"
            )
        if not len(self):
            raise DataError(
                f"{self.name}/{self.split}: the list of files is empty below {self.root}; unpack the provider's "
                "archives there, or look at what `files` and `quarantine` leave"
            )
        expected = self.expected()
        if expected is not None and not chosen and len(self) + self.quarantined != expected:
            warnings.warn(
                f"{self.name}/{self.split}: {len(self) + self.quarantined} images below {self.root}, the provider "
                f"ships {expected}; unpack what is missing, or name the subset that you mean with files=…",
                DataWarning,
                stacklevel=3,
            )
