"""What every dataset offers, whatever its files look like."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dgseg.data.labels import NUM_CLASSES
from dgseg.data.sample import LazySample, Sample


class DataError(ValueError):
    """Something about a dataset's files is wrong; the message names dataset, file and remedy."""


class DataWarning(UserWarning):
    """Something about a dataset looks wrong but does not stop anybody."""


class CorruptFile(DataError):
    """One file cannot be read or does not hold what it should; training counts these and goes on up to a share."""

    def __init__(self, path: Path | str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.message = message

    def __reduce__(self) -> tuple[type["CorruptFile"], tuple[str, str]]:
        return type(self), (self.path, self.message)  # from worker processes


class Dataset(ABC):
    """Samples by index. Subclasses load nothing before they are asked to, and travel to loader workers by pickle."""

    name: str  # "gta5", "streets"
    domain: str  # what scores and batches are grouped by: "gta5", "acdc/fog", "fog"
    num_classes: int = NUM_CLASSES
    unknown: bool = False  # whether it marks objects of no class: those are scored, too
    conditions: tuple[str, ...] = ()  # scored apart, and as a whole: an id names its own after the dataset's name
    # Predicted and true components of fewer pixels do not count; SegmentMeIfYouCan's sizes for large anomalies.
    component_sizes: tuple[int, int] = (500, 100)
    component_pixels: int | None = None  # of the images that these sizes are stated for; None: of any

    def domain_of(self, index: int) -> str:
        """What the scores of an image are grouped by: `domain`, or a condition of it, as in "acdc/fog"."""
        if self.conditions and self.domain == self.name:
            condition = self.id(index).split("/")[1]
            if condition in self.conditions:
                return f"{self.domain}/{condition}"
        return self.domain

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def id(self, index: int) -> str:
        """Stable across machines and roots: it names the sample in reports, hashes and checkpoints."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def lazy(self, index: int) -> Sample | LazySample:
        """The same sample for augmentation: where decoding a part is cheaper than all, the image stays undecoded."""
        return self[index]

    @abstractmethod
    def class_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each train id per sample, [len(self), num_classes]: what rare-class sampling counts with. Made once
        (`dgseg data check` does it for files, with a progress bar) and cached."""
