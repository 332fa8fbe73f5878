"""From a packed dataset through augmentation to batches: the same pixels for any number of workers, and for the plain
way through whole images."""

from itertools import islice

import pytest
import torch

from dgseg.data import Loader
from dgseg.data.augment import BlindNet, Streets
from dgseg.data.pack import Packed, Settings, pack
from dgseg.data.samplers import RareClass
from tests.data.folder import write_folder


class Whole(Packed):
    """Decodes everything before it is cropped, as datasets of plain files do."""

    def lazy(self, index):
        return super().lazy(index).whole()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    pack(write_folder(folder / "png", 9, (90, 140)), folder / "packed", Settings(tile=(32, 48)))
    return folder / "packed"


def batches(dataset, preset, workers):
    sampler = RareClass(dataset.class_pixels(), batch_size=4, seed=0, min_pixels=1)
    return list(islice(Loader([dataset], sampler, preset.build(), batch_size=4, seed=3, workers=workers), 4))


@pytest.mark.parametrize(
    "preset", [Streets(crop=(48, 64)), BlindNet((48, 48))], ids=lambda preset: type(preset).__name__
)
def test_batches_are_the_same(root, preset):
    here = batches(Packed(root), preset, 0)
    for others in (batches(Packed(root), preset, 2), batches(Whole(root), preset, 0)):
        for one, other in zip(here, others, strict=True):
            assert one.ids == other.ids
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            for name, view in one.views.items():
                assert torch.equal(view.images, other.views[name].images)
    assert ("augmented" in here[0].views) == isinstance(preset, BlindNet)
    assert here[0].images.shape[1:] == (3, *preset.crop)
