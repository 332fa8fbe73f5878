"""Generated sets in the layout of the DGInStyle tool: images/<source>_genid<N>.png with
labels/<source>_genid<N>_labelTrainIds.png.

The tool stores void as 19. That is an error until one says `void=19`: another tool's 19 may be a class."""

from pathlib import Path
from typing import Any, ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import Ids, train_ids
from dgseg.data.labels import NUM_CLASSES, VOID
from dgseg.data.listing import Alternatives, Layout


class Generated(FileDataset):
    name = "generated"
    splits: ClassVar = {"all": None}
    default_split = "all"

    def __init__(self, root: Path | str, split: str | None = None, *, void: int = VOID, **options: Any) -> None:
        if void != VOID and not NUM_CLASSES <= void < VOID - 1:
            raise ValueError(f"void={void} is a class; the DGInStyle tool stores void as 19")
        self.void = void
        super().__init__(root, split, **options)

    def layouts(self) -> list[Alternatives]:
        ids = train_ids(void=self.void)
        if self.void == VOID:
            hint = "the DGInStyle tool stores void as 19: if that is what it is, open the set with void=19"
            ids = Ids(ids.raw, ids.train, remedy=hint)
        return [[Layout("images", ".png", "labels", "_labelTrainIds.png", ids)]]
