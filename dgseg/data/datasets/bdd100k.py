"""BDD100K, semantic segmentation, in either layout that the provider has shipped:

seg/images/val/7d2f7975-e0c1c5a7.jpg      seg/labels/val/7d2f7975-e0c1c5a7_train_id.png
images/10k/val/7d2f7975-e0c1c5a7.jpg      labels/sem_seg/masks/val/7d2f7975-e0c1c5a7.png"""

from typing import ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import TRAIN_IDS
from dgseg.data.listing import Alternatives, Layout


class BDD100K(FileDataset):
    name = "bdd100k"
    splits: ClassVar = {"train": 7000, "val": 1000, "test": 2000}
    unlabelled: ClassVar = frozenset({"test"})

    def layouts(self) -> list[Alternatives]:
        split = self.split
        return [
            [
                Layout(f"seg/images/{split}", ".jpg", f"seg/labels/{split}", "_train_id.png", TRAIN_IDS),
                Layout(f"images/10k/{split}", ".jpg", f"labels/sem_seg/masks/{split}", ".png", TRAIN_IDS),
            ]
        ]
