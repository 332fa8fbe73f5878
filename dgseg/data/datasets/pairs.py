"""Pairs of an image and what a generator made of it, as `dgseg generate` writes them: the layout of generated sets,

    images/<source>_genid<N>.png      labels/<source>_genid<N>_labelTrainIds.png

with the images that they were made from beside it:

    originals/<source>.png            original_labels/<source>_labelTrainIds.png

`generated=PATH` reads the first half alone."""

from pathlib import Path
from typing import Any

import torch

from dgseg.data.dataset import CorruptFile, DataError
from dgseg.data.datasets.generated import Generated
from dgseg.data.decoding import read_image
from dgseg.data.sample import Sample

AUGMENTED = "augmented"
GENERATED, GENERATED_LABELS, ORIGINALS, ORIGINAL_LABELS = "images", "labels", "originals", "original_labels"
IMAGE_SUFFIX, LABEL_SUFFIX, NUMBER = ".png", "_labelTrainIds.png", "_genid"


class Pairs(Generated):
    """Samples are the originals; what was generated is their view "augmented"."""

    name = "pairs"

    def __init__(self, root: Path | str, split: str | None = None, **options: Any) -> None:
        super().__init__(root, split, **options)
        alone = [self.id(index) for index in range(len(self)) if not self._original(index)[0].is_file()]
        if alone:
            raise DataError(
                f"pairs: {len(alone)} generated images have no original below {self.root / ORIGINALS}, such as that of "
                f"{alone[0]}; without originals open the set as generated={self.root}"
            )

    def __getitem__(self, index: int) -> Sample:
        views = {AUGMENTED: super().__getitem__(index)}
        image_path, label_path = self._original(index)
        with self._naming_itself():
            image = read_image(image_path)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if not self.labels:
            return Sample(pixels, None, self.id(index), views=views)
        ids = self._list.key(index)[0].ids
        with self._naming_itself():
            raw = ids.read(label_path)
        try:
            label = ids.convert(raw)
        except ValueError as error:
            raise CorruptFile(label_path, f"pairs: {error}") from error
        if label.shape != image.shape[:2] or pixels.shape != views[AUGMENTED].image.shape:
            raise CorruptFile(
                image_path,
                f"pairs: image {image.shape[:2]}, label {label.shape} and generated image {views[AUGMENTED].size} "
                "differ in size; generate the pair again",
            )
        return Sample(pixels, torch.from_numpy(label), self.id(index), views=views)

    def _original(self, index: int) -> tuple[Path, Path]:
        source = self._list.key(index)[1].rpartition(NUMBER)[0]
        return self.root / ORIGINALS / (source + IMAGE_SUFFIX), self.root / ORIGINAL_LABELS / (source + LABEL_SUFFIX)
