"""CG-Aug on disk: generators, the filter, and a set that is written whole or gone on with."""

import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dgseg.cli import main
from dgseg.data import Loader, Sample, open_dataset
from dgseg.data.augment import Pipeline
from dgseg.data.dataset import DataError, Dataset
from dgseg.data.labels import COLOURS
from dgseg.data.samplers import Uniform
from dgseg.data.streets import Streets
from dgseg.generation import Command, Filter, Function, Request, Settings, StreetsRenderer, by_colour, generate
from dgseg.generation.augment import scorer_of
from dgseg.generation.generator import function_named
from dgseg.models import build

SIZE = (64, 128)


def streets(length: int = 4) -> Streets:
    return Streets("game", "train", size=SIZE, length=length)


def request_of(index: int = 0, seed: int = 5) -> Request:
    label = streets()[index].label.numpy().copy()
    objects = np.zeros_like(label)
    objects[40:58, 50:80] = 1
    label[objects > 0] = 254
    return Request(label, objects, 'fog, "at night"; $HOME {seed}', seed, index)


def flat(label: np.ndarray, prompt: str, seed: int) -> np.ndarray:
    """A generator: every class in its colour, the unknown one in one that depends on the seed."""
    table = np.zeros((256, 3), np.uint8)
    table[:19] = COLOURS
    table[254] = (255, seed % 256, 0)
    return table[label]


# generators


def test_a_function_draws() -> None:
    request = request_of()
    image = Function(flat)(request)
    assert image[request.objects > 0].tolist()[0] == [255, 5, 0]
    half = Function(lambda label, prompt, seed: flat(label, prompt, seed)[::2, ::2])(request)
    assert half.shape == (*SIZE, 3), "brought to the label map's size"
    with pytest.raises(DataError, match=r"the function gave float64 \[64, 128\]"):
        Function(lambda label, prompt, seed: label / 2)(request)


SCRIPT = """
import sys
import numpy as np
from PIL import Image
label, colours, out, prompt, seed = sys.argv[1:]
assert prompt == 'fog, "at night"; $HOME {seed}', prompt
map_ = np.asarray(Image.open(label))
picture = np.asarray(Image.open(colours)).copy()
picture[map_ == 254] = int(seed)
Image.fromarray(picture).save(out)
"""


def test_a_command_draws_and_reads_its_words_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "draw it.py"
    script.write_text(SCRIPT)
    words = (
        f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{label}} {{colours}} {{out}} {{prompt}} {{seed}}"
    )
    request = request_of()
    image = Command(words)(request)
    assert (image[request.objects > 0] == 5).all()
    road = request.label == 0
    assert (image[road] == COLOURS[0]).all()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    python = shlex.quote(sys.executable)
    with pytest.raises(ValueError, match=r"must say \{out\}"):
        Command("draw {label}")
    with pytest.raises(DataError, match="did not run"):
        Command(f"{tmp_path}/absent {{label}} {{out}}")(request_of())
    with pytest.raises(DataError, match="status 1 and no image: no memory left"):
        Command(f"{python} -c \"import sys; sys.exit('no memory left')\" {{label}} {{out}}")(request_of())
    with pytest.raises(DataError, match="timed out"):
        Command(f'{python} -c "import time; time.sleep(60)" {{label}} {{out}}', timeout=0.2)(request_of())


@pytest.mark.parametrize("shift", ["coherent", "both", "semantic"])
def test_the_renderer_draws_the_object_where_it_was_pasted(shift: str) -> None:
    request = request_of(1)
    image, again = (StreetsRenderer(streets(), shift)(request) for _ in range(2))
    assert np.array_equal(image, again)
    original = streets()[1].image.permute(1, 2, 0).numpy()
    far = np.s_[:16]
    assert np.array_equal(image[far], original[far]) == (shift == "semantic")
    assert (image[request.objects > 0] != original[request.objects > 0]).any(-1).mean() > 0.9


def test_the_renderer_draws_the_streets_world_alone() -> None:
    with pytest.raises(DataError, match="give another generator"):
        StreetsRenderer(Numbered())
    with pytest.raises(ValueError, match="every image has one"):
        StreetsRenderer(streets(), "covariate")


def test_functions_are_found_by_name() -> None:
    assert function_named("os.path:join")("a", "b") == "a/b"
    for name in ("os.path", "os.path:joined", "no_such_module:f"):
        with pytest.raises(ValueError, match=name):
            function_named(name)


# the filter


def test_objects_that_are_there_pass_and_those_that_are_not_do_not() -> None:
    renderer, good, absent = StreetsRenderer(Streets("game", "train", size=(128, 256), length=12)), [], []
    for index in range(12):
        label, _ = renderer.pairs.draw(index)
        objects = renderer.pairs.paste(label, np.random.default_rng(index))
        shown = np.where(objects > 0, np.uint8(254), label)
        image = renderer(Request(shown, objects, "", index, index))
        good.append(Filter(by_colour)(image, objects).good)
        plain = renderer.pairs.draw(index)[1].transpose(1, 2, 0)
        absent.append(Filter(by_colour)(plain, objects).good)
    assert np.mean(good) > 0.5
    assert np.mean(absent) < 0.2


def test_verdicts_name_their_reason() -> None:
    image, objects = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    objects[5:10, 5:15] = 1
    objects[12:18, 20:28] = 2

    def half(image: Any, box: Any) -> Any:
        found = np.zeros(image.shape[:2], bool)
        found[box.top : box.top + box.height, box.left : box.left + box.width // 2] = True
        return found

    verdict = Filter(half)(image, objects)
    assert (verdict.good, verdict.iou) == (False, 0.5)
    assert verdict.reason == "IoU 0.50, wanted more than 0.7"
    assert not Filter(half, least_iou=0.5)(image, objects).good, "more than, not as much as"
    assert Filter(half, least_iou=0.49)(image, objects).good
    told = Filter(scorer=lambda image: np.full((20, 30), -3.5), least_score=-3.02)(image, objects)
    assert (told.good, told.score, told.reason) == (False, -3.5, "mean anomaly score -3.5, wanted -3.02")
    assert Filter(by_colour)(image, np.zeros_like(objects)).good, "nothing is pasted"


def test_a_filter_is_not_switched_off_by_what_it_is_given() -> None:
    image, objects = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    objects[5:10, 5:15] = 1
    for painted in (np.uint8(255), np.float32(1)):
        verdict = Filter(lambda image, box, on=painted: (objects > 0) * on)(image, objects)
        assert (verdict.good, verdict.iou) == (True, 1.0), "a mask of 0 and anything"
    assert not Filter(scorer=lambda image: np.full((20, 30), np.nan), least_score=-9)(image, objects).good
    for iou in (float("nan"), -0.1, 1.0):
        with pytest.raises(ValueError, match="least_iou is at least 0 and below 1"):
            Filter(by_colour, iou)
    with pytest.raises(ValueError, match="least_score is NaN"):
        Filter(least_score=float("nan"))


def test_a_model_is_asked() -> None:
    torch.manual_seed(0)
    model = build("bisenet_mini", width=8, decoder=16).eval()
    scores = scorer_of(model, "entropy")(streets()[0].image.permute(1, 2, 0).numpy())
    assert scores.shape == SIZE
    assert 0 < float(scores.mean()) < 3


# the set


class Numbered(Dataset):
    """Two label maps, one without a road."""

    name = domain = "numbered"

    def __len__(self) -> int:
        return 2

    def id(self, index: int) -> str:
        return f"numbered/town/{index}"

    def __getitem__(self, index: int) -> Sample:
        label = torch.full((40, 60), 8 if index else 0, dtype=torch.uint8)
        return Sample(torch.full((3, 40, 60), 7, dtype=torch.uint8), label, self.id(index))

    def class_pixels(self) -> Any:
        raise AssertionError


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_set_is_what_pairs_reads(tmp_path: Path) -> None:
    summary = generate(streets(), tmp_path, StreetsRenderer(streets()), Settings(variants=2))
    assert (summary.accepted, summary.rejected, summary.tries) == (8, 0, 8)
    found = open_dataset("pairs", tmp_path)
    assert found.id(3) == "pairs/game/0/1_genid1"
    pair, scene = found[3], streets()[1]
    assert torch.equal(pair.image, scene.image)
    assert torch.equal(pair.label, scene.label)
    view = pair.views["augmented"]
    out = view.label == 254
    assert bool(out.any())
    assert torch.equal(view.label[~out], scene.label[~out])
    assert not torch.equal(view.image, found[2].views["augmented"].image), "variants differ"
    batch = next(iter(Loader([found], Uniform(8, batch_size=2, seed=0), Pipeline(), batch_size=2)))
    assert batch.views["augmented"].labels.shape == (2, *SIZE)
    record = json.loads((tmp_path / "records/game/0/1_genid1.json").read_text())
    assert (record["accepted"], record["file_name"], record["class"]) == (True, "images/game/0/1_genid1.png", 254)


def test_stopped_at_any_time_it_goes_on(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    generate(streets(), whole, StreetsRenderer(streets()))

    class Stopping:
        def __init__(self) -> None:
            self.calls = itertools.count()
            self.draw = StreetsRenderer(streets())

        def __call__(self, request: Request) -> Any:
            if next(self.calls) == 1:
                raise KeyboardInterrupt
            return self.draw(request)

    runs = 0
    for _ in range(10):
        try:
            generate(streets(), broken, Stopping())
            break
        except KeyboardInterrupt:
            runs += 1
    assert runs == 3
    assert files(broken) == files(whole)


def test_parts_make_the_same_set(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    generate(streets(), whole, StreetsRenderer(streets()))
    for which in (2, 0, 1):
        generate(streets(), parts, StreetsRenderer(streets()), part=(which, 3))
    assert files(parts) == files(whole)


def test_tries_are_bounded_and_rejections_recorded(tmp_path: Path) -> None:
    tries = []

    def refuse(image: Any, box: Any) -> Any:
        tries.append(box)
        return np.zeros(image.shape[:2], bool)

    summary = generate(Numbered(), tmp_path, Function(flat), Settings(tries=3), Filter(refuse))
    assert (summary.accepted, summary.rejected, len(tries)) == (0, 2, 3)
    record = json.loads((tmp_path / "records/town/0_genid0.json").read_text())
    assert record["file_name"] is None
    assert [each["reason"] for each in record["tries"]] == ["IoU 0.00, wanted more than 0.7"] * 3
    assert len({each["seed"] for each in record["tries"]}) == 3
    assert len(set(tries)) > 1, "another place, another object"
    record = json.loads((tmp_path / "records/town/1_genid0.json").read_text())
    assert [each["reason"] for each in record["tries"]] == ["the label map has no road"]
    again = generate(Numbered(), tmp_path, Function(flat), Settings(tries=3), Filter(refuse))
    assert (again, len(tries)) == (summary, 3), "what was rejected is not tried again"


def test_a_score_that_is_no_number_leaves_json_that_every_reader_takes(tmp_path: Path) -> None:
    unknown = Filter(scorer=lambda image: np.full(image.shape[:2], np.nan))
    generate(Numbered(), tmp_path, Function(flat), Settings(tries=1), unknown)
    text = (tmp_path / "records/town/0_genid0.json").read_text()
    [tried] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["tries"]
    assert (tried["score"], tried["reason"]) == (None, "mean anomaly score nan, wanted 0")


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other things"):
        generate(Numbered(), tmp_path, Function(flat))
    generate(Numbered(), tmp_path / "new", Function(flat))
    with pytest.raises(DataError, match="begun with another tries, seed"):
        generate(Numbered(), tmp_path / "new", Function(flat), Settings(tries=2, seed=1))
    with pytest.raises(DataError, match="begun with another made_by"):
        generate(Numbered(), tmp_path / "new", Function(flat), made_by="somebody else")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "set")
    spec = "streets=game@train,size=64x128,length=3"
    assert main(["generate", spec, "-o", out, "--streets", "both", "--segmenter", "none"]) == 0
    assert f"Train on pairs of it and the originals as pairs={out}" in capsys.readouterr().out
    assert len(open_dataset("pairs", out)) == 3
    with pytest.raises(SystemExit, match="begun with another"):
        main(["generate", spec, "-o", out, "--segmenter", "none"])
    with pytest.raises(SystemExit, match="takes --weights and --least-score, and --model where"):
        main(["generate", spec, "-o", out, "--model", "bisenet_mini"])
    with pytest.raises(SystemExit, match="takes --weights and --least-score"):
        main(["generate", spec, "-o", out, "--scorer", "energy"])
    name = "tests.generation.test_generation:flat"
    assert main(["generate", spec, "-o", f"{out}2", "--function", name, "--iou", "0.3", "--part", "1/3"]) == 0
    assert "1 images" in capsys.readouterr().out
    assert main(["generate", spec, "-o", f"{out}3", "--part", "4/4"]) == 0
    assert "part 4/4 has nothing to do: 3 images are wanted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--seed", "-1"], "seed is -1"), (["--seed", str(1 << 64)], "seed is"), (["--masks", "absent"], r"no \*.png")],
)
def test_mistakes_leave_no_folder_that_was_begun_with_them(tmp_path: Path, arguments: list[str], said: str) -> None:
    out = tmp_path / "set"
    with pytest.raises(SystemExit, match=said):
        main(["generate", "streets=game@train,size=64x128,length=3", "-o", str(out), *arguments])
    assert not out.exists()


def test_another_model_in_the_filter_is_another_set(tmp_path: Path) -> None:
    """Every run's file has the same name: what it holds tells them apart."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir()
        save_file(build("bisenet_mini").state_dict(), tmp_path / str(seed) / "weights.safetensors")
    words = ["generate", "streets=game@train,size=64x128,length=1", "-o", str(tmp_path / "set"), "--segmenter", "none"]
    words += ["--model", "bisenet_mini", "--least-score=-1000", "--weights"]
    for _ in range(2):
        assert main([*words, str(tmp_path / "0/weights.safetensors")]) == 0
    with pytest.raises(SystemExit, match="begun with another made_by"):
        main([*words, str(tmp_path / "1/weights.safetensors")])
