"""evaluate against the official arithmetic written here in whole numbers, over ranks, sizes, and damaged files."""

import gc
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dgseg.data import Dataset, Sample, from_spec, open_dataset
from dgseg.data.dataset import CorruptFile, DataError
from dgseg.data.labels import CITYSCAPES_IDS
from dgseg.data.pack import Settings, pack
from dgseg.evaluation import (
    PROTOCOLS,
    SYNTHIA_16,
    ComponentScores,
    Confusion,
    Evaluation,
    Protocol,
    evaluate,
    outside_map,
    protocol_named,
)
from dgseg.evaluation.confusion import mean_iou
from dgseg.evaluation.counting import component_sizes
from dgseg.evaluation.detection import detect
from dgseg.evaluation.evaluate import EXTRAS, check
from dgseg.evaluation.gallery import spread
from dgseg.evaluation.loading import resized, scored_dataset
from dgseg.evaluation.ood import OodScores, above
from dgseg.evaluation.scorers import SCORERS, STANDARD, Odin, anomaly_scores, scorers_of
from dgseg.models import build, predict_logits
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from tests.data import trees

NATIVE = PROTOCOLS["native"]


class Colours(SegmentationModel):
    """Logits at a quarter of the size, a function of the image's colours there."""

    multiple, minimum = 4, 4

    def __init__(self, num_classes: int = 19, *, own: bool = False, align_corners: bool = False) -> None:
        super().__init__(num_classes)
        self.align_corners, self.own = align_corners, own
        self.head = nn.Conv2d(3, num_classes, 1)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(3))
        nn.init.normal_(self.head.bias, generator=torch.Generator().manual_seed(4))

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        logits = self.head(F.avg_pool2d(images, 4))
        return Prediction(logits, {}, [], {"uncertainty": logits[:, 0] - logits[:, 1]} if self.own else {})


class Pixels(Dataset):
    """Random images and labels of the sizes given; an index in `broken` cannot be read."""

    name = domain = "pixels"

    def __init__(self, sizes: Sequence[tuple[int, int]], broken: Sequence[int] = (), domain: str = "pixels") -> None:
        self.sizes, self.broken, self.domain = list(sizes), frozenset(broken), domain

    def __len__(self) -> int:
        return len(self.sizes)

    def id(self, index: int) -> str:
        return f"{self.domain}/{index}"

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise CorruptFile(f"/data/{index}.png", "is no picture")
        g = torch.Generator().manual_seed(index)
        height, width = self.sizes[index]
        label = torch.randint(0, 19, (height, width), generator=g, dtype=torch.uint8)
        label[torch.rand(label.shape, generator=g) < 0.1] = 255
        label[torch.rand(label.shape, generator=g) < 0.1] = 254
        return Sample(torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8), label, self.id(index))

    def class_pixels(self) -> Any:
        raise NotImplementedError


def _rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world_size}", rank=rank, world_size=world_size)
    torch.save(found_by(dist.group.WORLD).as_dict(), f"{folder}/{world_size}-{rank}.pt")
    dist.destroy_process_group()


def found_by(group: Any) -> Evaluation:
    sizes = [(32, 48)] * 5 + [(40, 64)] * 2 + [(32, 48)]
    data = [Pixels(sizes, broken=[1, 6]), Pixels(sizes[3:6], domain="more")]
    model = build("bisenet_mini").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return evaluate(model, data, NATIVE, batch_size=2, group=group, extras=EXTRAS)


def without_speed(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "images_per_second"}


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_finds_the_same(tmp_path, world_size):
    """Batch norms, convolutions, sizes that differ, damaged files: to the last digit."""
    torch.multiprocessing.start_processes(_rank, (world_size, str(tmp_path)), nprocs=world_size, start_method="fork")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # the others have one each
    alone = without_speed(found_by(None).as_dict())
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    assert alone["images"] == 9
    assert len(alone["corrupt"]) == 2
    for rank in range(world_size):
        assert without_speed(torch.load(tmp_path / f"{world_size}-{rank}.pt", weights_only=True)) == alone


def official_table(root: Path, model: SegmentationModel) -> np.ndarray:
    """[34, 34] of raw ids over the miniature Cityscapes, from the files: interpolated in float64."""
    table = np.zeros((34, 34), np.int64)
    to_raw = np.array(CITYSCAPES_IDS)
    for path in sorted((root / "leftImg8bit/val").rglob("*.png")):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
        label = Path(str(path).replace("leftImg8bit", "gtFine").replace("gtFine.png", "gtFine_labelIds.png"))
        truth = np.array(Image.open(label))
        with torch.no_grad():
            logits = model(image).logits.double()
        predicted = F.interpolate(logits, truth.shape, mode="bilinear", align_corners=False).argmax(1)[0].numpy()
        for t, p in zip(truth.ravel().tolist(), to_raw[predicted].ravel().tolist(), strict=True):
            if t != 255:
                table[t, p] += 1
    return table


def test_equal_to_the_official_evaluator_from_files(tmp_path):
    trees.cityscapes(tmp_path, cities=("lindau",), each=3)
    for path in tmp_path.rglob("*.png"):  # sides that four divides
        Image.open(path).resize((24, 16), Image.Resampling.NEAREST).save(path)
    model = Colours().eval()
    with pytest.warns(UserWarning, match="the provider ships 500"):
        data = open_dataset("cityscapes", tmp_path, "val")
    found = evaluate(model, [data], NATIVE, batch_size=2)
    table = official_table(tmp_path, model)
    ious = []
    for raw in CITYSCAPES_IDS:
        tp = int(table[raw, raw])
        fn = int(table[raw].sum()) - tp
        fp = sum(int(table[other, raw]) for other in CITYSCAPES_IDS) - tp
        ious.append(tp / (tp + fn + fp) if tp + fn + fp else math.nan)
    scores = found.domains["cityscapes"].scores
    np.testing.assert_array_equal(scores.iou, ious)
    assert scores.miou == pytest.approx(np.nanmean(ious), rel=1e-15)
    assert scores.pixels == sum(int(table[raw].sum()) for raw in CITYSCAPES_IDS) > 0
    assert found.domains["cityscapes"].images == 3


def counts_by_hand(model: SegmentationModel, data: Dataset, protocol: Protocol) -> Tensor:
    """Logits at the labels' size, in memory, and their argmax."""
    confusion = Confusion()
    for index in range(len(data)):
        sample = data[index]
        image = resized(sample.image, protocol.image_size(data.name, sample.size))
        logits = predict_logits(model, image[None], window=protocol.window, stride=protocol.stride, size=sample.size)
        confusion.update_labels(logits.argmax(1).to(torch.uint8), sample.label[None])
    return confusion.matrix


@pytest.mark.parametrize(
    ("protocol", "align_corners", "size"),
    [
        (NATIVE, False, (32, 48)),  # straight from low-resolution logits
        (NATIVE, False, (33, 50)),  # sides that the model cannot take
        (NATIVE, True, (32, 48)),  # an upsampling that the counting does not do
        (Protocol("w", {"pixels": (24, 40)}, others="refused", window=16, stride=8), False, (48, 80)),
        (Protocol("w", {"pixels": (64, 96)}, others="refused", window=32, stride=24), False, (32, 48)),  # enlarged
        (Protocol("w", {"pixels": (24, 40)}, others="refused", window=16, stride=8), True, (48, 80)),
        (Protocol("s", {"pixels": (24, 40)}, others="refused"), False, (48, 80)),  # whole, at another size
    ],
    ids=["fused", "padded", "align corners", "windows", "windows of enlarged", "windows, corners", "whole, smaller"],
)
def test_every_way_counts_what_full_logits_give(protocol, align_corners, size):
    model, data = Colours(align_corners=align_corners).eval(), Pixels([size] * 3)
    found = evaluate(model, [data], protocol, batch_size=2).domains["pixels"].confusion.matrix
    expected = counts_by_hand(model, data, protocol)
    # A pixel between two classes may fall either way where interpolation is done in another order.
    assert int((found - expected).abs().sum()) <= 0.002 * int(expected.sum())
    assert torch.equal(found.sum(1), expected.sum(1))


def test_images_are_shown_as_opencv_resizes_them():
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size in ((32, 48), (40, 60), (96, 144)):
        theirs = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
        ours = resized(image, size).permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_paper_protocol_goes_by_the_architecture():
    assert protocol_named("paper", "hrda_mitb5").name == "paper-hrda"
    assert protocol_named("paper", "daformer_r101").name == "paper-daformer"
    assert protocol_named("native") is NATIVE
    with pytest.raises(ValueError, match=r"no protocol 'paper2'.*paper-hrda"):
        protocol_named("paper2")


def acdc(root: Path, conditions: Sequence[str]) -> None:
    for place, condition in enumerate(conditions):
        for number in range(2):
            stem = f"{condition}/val/GOPR1/GOPR1_frame_{number:06d}"
            trees.image(root / f"rgb_anon/{stem}_rgb_anon.png", 10 * place + number, (16, 24))
            trees.grey(root / f"gt/{stem}_gt_labelTrainIds.png", trees.ids([*range(19), 255], (16, 24)))


@pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")
def test_acdc_is_scored_by_condition_and_as_a_whole(tmp_path):
    acdc(tmp_path, ("fog", "night", "rain", "snow"))
    found = evaluate(Colours().eval(), [open_dataset("acdc", tmp_path, "val")], NATIVE, batch_size=3, extras=["images"])
    assert list(found.domains) == ["acdc", "acdc/fog", "acdc/night", "acdc/rain", "acdc/snow"]
    parts = [found.domains[f"acdc/{c}"] for c in ("fog", "night", "rain", "snow")]
    whole = found.domains["acdc"]
    assert torch.equal(whole.confusion.matrix, sum(part.confusion.matrix for part in parts))
    assert whole.images == found.images == 8
    assert [part.images for part in parts] == [2] * 4
    assert whole.per_image.scored_ids == [sample for part in parts for sample in part.per_image.scored_ids]
    np.testing.assert_array_equal(whole.per_image.parts.sum(0)[1], whole.confusion.matrix.sum(1))
    assert "acdc" in found.as_dict()["domains"]

    fog = open_dataset("acdc", tmp_path, "val", condition="fog")
    alone = evaluate(Colours().eval(), [fog], NATIVE)
    assert list(alone.domains) == ["acdc/fog"]
    assert torch.equal(alone.domains["acdc/fog"].confusion.matrix, parts[0].confusion.matrix)


@pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")
def test_averages_take_acdc_with_all_its_conditions_only(tmp_path):
    acdc(tmp_path, ("fog", "night", "rain", "snow"))
    dark = Pixels([(16, 24)], domain="dark_zurich")
    some = [open_dataset("acdc", tmp_path, "val", condition=c) for c in ("fog", "rain")]
    found = evaluate(Colours().eval(), [*some, dark], NATIVE)
    assert "acdc" in found.domains
    assert found.averages() == {}
    found = evaluate(Colours().eval(), [open_dataset("acdc", tmp_path, "val"), dark], NATIVE)
    mious = [found.domains[name].scores.miou for name in ("acdc", "dark_zurich")]
    assert found.averages() == {"Avg2": pytest.approx(sum(mious) / 2)}


def test_averages_of_the_streets_world():
    data = [from_spec(f"streets={d},size=32x64,length=1") for d in ("fog", "rain", "snow", "night")]
    found = evaluate(Colours().eval(), data, PROTOCOLS["streets"])
    assert found.averages() == {"adverse": pytest.approx(np.mean([r.scores.miou for r in found.domains.values()]))}


def test_a_damaged_file_is_named_skipped_and_counted(tmp_path):
    images = tmp_path / "images"
    for number in range(4):
        trees.image(images / f"{number}.png", number, (16, 24))
        trees.grey(tmp_path / f"labels/{number}.png", trees.ids([*range(19)], (16, 24)))
    content = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(content[: len(content) // 2])
    model, data = Colours().eval(), open_dataset("folder", tmp_path, domain="mine")
    found = evaluate(model, [data], NATIVE, batch_size=3, extras=["images"])
    (named,) = found.corrupt
    assert named == "folder/2"
    assert str(images / "2.png") in found.corrupt[named]
    assert (found.domains["mine"].images, found.domains["mine"].corrupt) == (3, 1)
    assert found.domains["mine"].per_image.scored_ids == ["folder/0", "folder/1", "folder/3"]
    for path in (images / "2.png", tmp_path / "labels/2.png"):
        path.unlink()
    without = evaluate(model, [open_dataset("folder", tmp_path, domain="mine")], NATIVE)
    assert torch.equal(without.domains["mine"].confusion.matrix, found.domains["mine"].confusion.matrix)


def test_damaged_files_of_one_id_are_all_named(tmp_path):
    for folder in ("one", "two"):
        for number in range(2):
            trees.image(tmp_path / folder / f"images/{number}.png", number, (16, 24))
            trees.grey(tmp_path / folder / f"labels/{number}.png", trees.ids([*range(19)], (16, 24)))
        (tmp_path / folder / "images/1.png").write_bytes(b"nothing")
    data = [open_dataset("folder", tmp_path / folder) for folder in ("one", "two")]
    found = evaluate(Colours().eval(), data, NATIVE, extras=["ood", "components"])
    assert sorted(found.corrupt) == ["one: folder/1", "two: folder/1"]
    assert [result.corrupt for result in found.domains.values()] == [1, 1]


def test_loading_processes_change_nothing():
    data = [Pixels([(16, 24)] * 5 + [(20, 24)], broken=[1]), from_spec("streets=fog,size=32x64,length=3,unknown=true")]
    one, two = (evaluate(Colours().eval(), data, NATIVE, batch_size=2, workers=w, extras=EXTRAS) for w in (0, 2))
    assert without_speed(one.as_dict(per_image=True)) == without_speed(two.as_dict(per_image=True))


class Watched(Pixels):
    """Knows how many of its samples are still held."""

    alive, most = 0, 0

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(sample.image, self.release)
        return sample

    def release(self) -> None:
        self.alive -= 1


def test_memory_does_not_grow_with_the_data():
    most = []
    for length in (8, 24):
        data = Watched([(16, 24)] * length)
        evaluate(Colours().eval(), [data], NATIVE, batch_size=2, extras=("boundary", "calibration"))
        gc.collect()
        assert data.alive == 0
        most.append(data.most)
    assert max(most) <= 2 * (torch.get_num_threads() + 2)  # of a batch of 2, in every thread and on the way


def test_the_model_is_left_as_it_was():
    model = build("bisenet_mini").train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, [Pixels([(32, 48)] * 3)], NATIVE, extras=["ood"])
    assert model.training
    assert not frozen.training
    assert sum(not module.training for module in model.modules()) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model(Pixels([(32, 48)])[0].image[None].repeat(2, 1, 1, 1)).logits.sum().backward()  # training goes on

    class Broken(Colours):
        def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
            return super().predict(images * torch.nan, seed=seed, step=step)

    model = Broken().train()
    with pytest.raises(ValueError, match="NaN"):
        evaluate(model, [Pixels([(16, 24)])], NATIVE)
    assert model.training


@pytest.mark.parametrize("protocol", [NATIVE, Protocol("w", {}, others="own size", window=16, stride=8)])
def test_out_of_distribution_scores_equal_scikit_learn(protocol):
    model, data = Colours(own=True).eval(), Pixels([(32, 48)] * 4)
    found = evaluate(model, [data], protocol, extras=["ood"]).domains["pixels"].ood
    assert set(found) == set(STANDARD)
    scores: dict[str, list[Tensor]] = {kind: [] for kind in STANDARD}
    outside = []
    for index in range(len(data)):
        sample = data[index]
        logits = predict_logits(model, sample.image[None], window=protocol.window, stride=protocol.stride)
        p = logits.double().softmax(1)
        valid = sample.label != 255
        scores["max_softmax"].append((1 - p.amax(1))[0][valid])
        scores["entropy"].append(-(p * p.log()).sum(1)[0][valid])
        scores["energy"].append(-logits.double().logsumexp(1)[0][valid])
        # The two channels are mixed linearly, as everything is until here.
        scores["learned"].append((logits[:, 0] - logits[:, 1])[0][valid])
        outside.append(sample.label[valid] == 254)
    truth = torch.cat(outside).numpy()
    for kind, parts in scores.items():
        result, values = found[kind].result(), torch.cat(parts).double()
        assert result.positives == int(truth.sum())
        assert result.negatives == int((~truth).sum())
        for name, expected in scikit_learn(truth, values.half().double()).items():
            assert getattr(result, name) == pytest.approx(expected, abs=2e-4), (kind, name)
        for name, expected in scikit_learn(truth, values).items():
            low, high = result.interval[name]
            assert low - 1e-5 <= expected <= high + 1e-5, (kind, name)


def test_components_are_counted_at_the_threshold_that_is_best_for_pixels():
    model, data = Colours().eval(), from_spec("streets=fog,size=256x512,length=2,unknown=true")
    result = evaluate(model, [data], NATIVE, extras=["ood", "components"]).domains["fog"]
    assert set(result.components) == {"max_softmax", "entropy", "energy"}
    sizes = component_sizes(data)
    assert sizes.predicted == round(500 * 256 * 512 / (1280 * 720))
    expected = ComponentScores(sizes)
    for index in range(len(data)):
        sample = data[index]
        energy = -predict_logits(model, sample.image[None]).logsumexp(1)
        expected.update(energy >= result.ood["energy"].result().best_threshold - 1e-3, outside_map(sample.label[None]))
    theirs, ours = expected.result(), result.components["energy"].result()
    assert ours.true_components == theirs.true_components > 0
    assert ours.siou == pytest.approx(theirs.siou, abs=0.01)
    assert ours.ppv == pytest.approx(theirs.ppv, abs=0.01)
    assert result.as_dict()["ood"]["energy"]["components"]["f1"] == ours.f1
    assert result.as_dict()["ood"]["energy"]["smallest_components"] == vars(sizes)
    (row,), _ = detect(model, [data], {"energy": SCORERS["energy"]})  # the other verb says the same
    assert (row.siou, row.ppv, row.f1) == (ours.siou, ours.ppv, ours.f1)


@pytest.mark.parametrize("size", ["96x192", "90x187"])  # one that the model takes, one that is padded
def test_every_scorer_scores_as_it_does_alone(size):
    torch.manual_seed(0)
    model = build("deeplabv3plus_mobilenetv2", uncertainty=True).eval()
    with torch.no_grad():  # a head that differs from the logits it begins as
        model.uncertainty.weight.add_(0.1 * torch.randn_like(model.uncertainty.weight))
    data = [from_spec(f"streets={domain},size={size},length=2,unknown=true") for domain in ("fog", "night")]
    scorers = scorers_of(model, [*SCORERS, "mahalanobis"], from_spec(f"streets=game,size={size},length=3"))
    rows, _ = detect(model, data, scorers, batch_size=2)
    assert [(row.dataset, row.scorer) for row in rows] == [(d.domain, name) for d in data for name in scorers]
    for row in rows:
        dataset = next(each for each in data if each.domain == row.dataset)
        samples = [dataset[index] for index in range(2)]
        alone = [anomaly_scores(model, sample.image[None], scorers[row.scorer]) for sample in samples]
        outside = [outside_map(sample.label[None]) for sample in samples]
        pixels, components = OodScores(), ComponentScores(component_sizes(dataset))
        for scores, truth in zip(alone, outside, strict=True):
            pixels.update(scores, truth)
        for scores, truth in zip(alone, outside, strict=True):
            components.update(above(scores, pixels.result().best_threshold), truth)
        expected, parts = pixels.result(), components.result()
        # The same up to the last digit of upsampled logits, which fp16 rounds to one score or its neighbour.
        assert (row.auroc, row.ap) == pytest.approx((expected.auroc, expected.ap), abs=1e-4)
        assert row.fpr95 == pytest.approx(expected.fpr95, abs=5e-3)
        assert (row.siou, row.ppv, row.f1) == pytest.approx((parts.siou, parts.ppv, parts.f1), abs=5e-3)


def test_a_scorer_that_sees_whole_images_refuses_windows():
    data, windows = [Pixels([(32, 48)])], Protocol("w", {}, others="own size", window=16)
    with pytest.raises(ValueError, match="odin: scored on whole images"):
        evaluate(Colours().eval(), data, windows, extras=["ood"], scorers={"odin": Odin()})


def test_a_limit_takes_the_first_images_of_every_data_set():
    data = [Pixels([(16, 24)] * 5), Pixels([(16, 24)] * 2, domain="more")]
    found = evaluate(Colours().eval(), data, NATIVE, limit=3, extras=["images"])
    assert found.domains["pixels"].per_image.scored_ids == ["pixels/0", "pixels/1", "pixels/2"]
    assert [result.images for result in found.domains.values()] == [3, 2]


def scikit_learn(truth: np.ndarray, values: Tensor) -> dict[str, float]:
    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, values.numpy(), drop_intermediate=False)
    return {
        "auroc": sklearn.metrics.roc_auc_score(truth, values.numpy()),
        "ap": sklearn.metrics.average_precision_score(truth, values.numpy()),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
    }


def test_scores_that_nobody_gave_are_not_reported():
    data = from_spec("streets=fog,size=32x64,length=1")  # without unknown objects
    assert evaluate(Colours(own=True).eval(), [data], NATIVE, extras=["ood"]).domains["fog"].ood == {}
    data = from_spec("streets=fog,size=64x128,length=2,unknown=true")
    assert set(evaluate(Colours().eval(), [data], NATIVE, extras=["ood"]).domains["fog"].ood) == set(STANDARD[:-1])


def test_every_image_is_shown_and_progress_ends():
    data = [Pixels([(16, 24)] * 3, broken=[1]), Pixels([(16, 24)] * 2, domain="more")]
    seen, heard = [], []
    evaluate(
        Colours().eval(), data, NATIVE, batch_size=2,
        on_image=lambda seeing: seen.append((seeing.domain, seeing.index, tuple(seeing.logits.shape))),
        progress=lambda done, of: heard.append((done, of)),
    )  # fmt: skip
    assert sorted(seen) == [(d, i, (19, 4, 6)) for d, i in (("more", 0), ("more", 1), ("pixels", 0), ("pixels", 2))]
    assert heard == [(2, 5), (3, 5), (5, 5)]


def test_synthia_on_16_classes():
    data = [Pixels([(16, 24)] * 2)]
    found = evaluate(Colours().eval(), data, NATIVE, classes=SYNTHIA_16, extras=["boundary", "images"])
    every = evaluate(Colours().eval(), data, NATIVE).domains["pixels"].scores
    assert found.domains["pixels"].scores.miou == pytest.approx(np.nanmean(every.iou[list(SYNTHIA_16)]))
    result, content = found.domains["pixels"], found.domains["pixels"].as_dict()
    assert content["boundary"]["trimap_miou"][-1] == result.scores.miou  # every pixel
    near = content["boundary_iou"]
    assert list(near["iou"]) == list(content["iou"])
    assert near["mean"] == pytest.approx(np.mean([iou for iou in near["iou"].values() if iou is not None]))
    mious = mean_iou(result.per_image.parts[..., list(SYNTHIA_16)])
    assert spread(result, 1)[0][1] == f"worst of 2, mIoU {100 * mious.min():.1f}"
    assert "16 classes" in found.describe()
    assert "terrain, truck, train" in found.describe()


def test_what_is_refused():
    model, data = Colours().eval(), Pixels([(16, 24)])
    unlabelled = from_spec("streets=fog@train,size=32x64,length=1,use=adaptation")
    for message, call in [
        ("no data set", lambda: evaluate(model, [], NATIVE)),
        ("extras may be .*; got colours", lambda: evaluate(model, [data], NATIVE, extras=["colours"])),
        ("two data sets go by the name of pixels", lambda: evaluate(model, [data, data], NATIVE)),
        ("by the name of a:", lambda: evaluate(model, [Pixels([(8, 8)], domain=d) for d in ("a/b", "a")], NATIVE)),
        ("ask for both", lambda: evaluate(model, [data], NATIVE, extras=["components"])),
        ("says nothing about 'pixels'", lambda: evaluate(model, [data], PROTOCOLS["paper-hrda"])),
        ("batch_size must be at least 1", lambda: evaluate(model, [data], NATIVE, batch_size=0)),
        ("has no samples", lambda: evaluate(model, [Pixels([])], NATIVE)),
        ("used without labels", lambda: evaluate(model, [unlabelled], NATIVE)),
        ("call model.to", lambda: evaluate(Colours().to("meta").eval(), [data], NATIVE)),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def _failing_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    data = Pixels([(16, 24)] * 4)
    if rank == 1:
        data.sizes[1] = (-1, 24)  # no picture has such a side
    try:
        evaluate(Colours().eval(), [data], NATIVE, batch_size=1, group=dist.group.WORLD)
    except Exception as error:
        Path(folder, str(rank)).write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def test_a_failing_rank_ends_the_others(tmp_path):
    torch.multiprocessing.start_processes(_failing_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    assert "rank 1 could not score" in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text().startswith("RuntimeError")


def test_a_split_that_is_scored_is_the_default(tmp_path):
    trees.cityscapes(tmp_path, "val", ("lindau",), 1)
    with pytest.warns(UserWarning, match="the provider ships 500"):
        assert scored_dataset(f"cityscapes={tmp_path}").split == "val"
    assert scored_dataset("streets=fog").split == "test"


def test_labels_that_a_pack_resized_are_no_published_protocols(tmp_path):
    trees.cityscapes(tmp_path / "city", "val", ("lindau",), 1)
    with pytest.warns(UserWarning, match="the provider ships 500"):
        source = open_dataset("cityscapes", tmp_path / "city", "val")
    height, width = source[0].size
    pack(source, tmp_path / "same", Settings())
    pack(source, tmp_path / "small", Settings(size=(height // 2, width // 2)))
    paper = PROTOCOLS["paper-daformer"]
    check([scored_dataset(f"packed={tmp_path}/same")], paper, batch_size=1, workers=0, extras=())
    with pytest.warns(UserWarning, match="resized when they were packed"):
        small = scored_dataset(f"packed={tmp_path}/small")
    check([small], NATIVE, batch_size=1, workers=0, extras=())
    with pytest.raises(DataError, match="score the files themselves"):
        check([small], paper, batch_size=1, workers=0, extras=())
