"""A folder of one's own: images/ and labels/ with the same names below them, at any depth.
docs/tutorials/own-data.md walks through it."""

from pathlib import Path
from typing import Any, ClassVar

from dgseg.data.dataset import DataError
from dgseg.data.files import FileDataset
from dgseg.data.ids import CITYSCAPES_LABEL_IDS, TRAIN_IDS, Ids, read_classes
from dgseg.data.listing import Alternatives, Layout

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_EITHER_CASE = tuple(variant for suffix in _SUFFIXES for variant in (suffix, suffix.upper()))


class Folder(FileDataset):
    """images/a/b.jpg with labels/a/b.png. With a split both lie one folder deeper: images/train/, labels/train/.

    `image_suffix`, `label_suffix`: what follows the common name ("_leftImg8bit.png", "_labelTrainIds.png"). `classes`:
    what the label maps hold: "train_ids" (0–18, 254, 255), "cityscapes" (its labelIds) or the path of a classes file.
    `domain`: what scores are grouped by; the folder's name otherwise.
    """

    name = "folder"
    splits: ClassVar = {"all": None, "train": None, "val": None, "test": None}
    default_split = "all"
    oriented = True
    pairing = "; if names end differently, say how: image_suffix=_rgb.jpg, label_suffix=_mask.png"

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        *,
        domain: str | None = None,
        image_suffix: str | None = None,
        label_suffix: str = ".png",
        classes: str = "train_ids",
        **options: Any,
    ) -> None:
        self.domain = Path(root).expanduser().resolve().name if domain is None else domain
        self.image_suffix = image_suffix
        self.label_suffix = label_suffix
        self.classes = classes
        super().__init__(root, split, **options)

    def layouts(self) -> list[Alternatives]:
        if not (self.root / "images").is_dir() and self.root.is_dir():
            raise DataError(
                f"folder: {self.root} holds no images/; put the images there, and the label maps into labels/"
            )
        below = "" if self.split == "all" else f"/{self.split}"
        prefix = below.removeprefix("/") + "/" if below else ""
        suffixes = _EITHER_CASE if self.image_suffix is None else (self.image_suffix,)
        ids = self._ids()
        return [
            [Layout("images" + below, suffix, "labels" + below, self.label_suffix, ids, prefix) for suffix in suffixes]
        ]

    def _ids(self) -> Ids:
        if self.classes == "train_ids":
            return TRAIN_IDS
        return CITYSCAPES_LABEL_IDS if self.classes == "cityscapes" else read_classes(self.classes)
