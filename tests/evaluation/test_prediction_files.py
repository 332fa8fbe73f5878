"""Where predictions go, what is in them, and what becomes of files that are none."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgseg.data.decoding import read_image
from dgseg.data.labels import TRAIN_TO_CITYSCAPES
from dgseg.evaluation.pictures import overlay
from dgseg.evaluation.prediction_files import KINDS, Settings, check, plan, predict_files, predict_maps
from dgseg.models import build, predict_logits

pytestmark = pytest.mark.usefixtures("one_thread")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("bisenet_mini", width=8, decoder=8).eval()


def image(path: Path, pixels: np.ndarray = PIXELS, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def run(model, inputs: list[Path], out: Path, threads: int = 2, **options):
    wanted = Settings(**options)
    out.mkdir(exist_ok=True)
    complaints: list[str] = []
    outcome = predict_files(
        model,
        plan(inputs, out, wanted.kinds).jobs,
        out,
        wanted,
        threads=threads,
        complain=lambda broken: complaints.append(str(broken)),
        progress=lambda done: None,
    )
    assert complaints == [str(broken) for broken in outcome.broken]
    return outcome


def names(found, out: Path, kind: str = "labels") -> list[str]:
    return [job.outputs[kind].relative_to(out / kind).as_posix() for job in found.jobs]


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), window=st.sampled_from([None, 16, 40]))
def test_maps_are_the_model_s_logits(model, size: tuple[int, int], window: int | None):
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    maps = predict_maps(model, pixels, Settings(kinds=KINDS, window=window))
    logits = predict_logits(model, torch.from_numpy(pixels).permute(2, 0, 1)[None], window=window)[0].double()
    p = logits.softmax(0)
    assert set(maps) == set(KINDS) - {"overlays"}
    assert (p.gather(0, torch.from_numpy(maps["labels"]).long()[None])[0] >= p.amax(0) - 1e-6).all()
    entropy = -(p * p.log()).sum(0) / np.log(19)
    for kind, want in (("confidence", p.amax(0)), ("entropy", entropy), ("probabilities", p)):
        assert maps[kind].shape == tuple(want.shape)
        np.testing.assert_allclose(maps[kind], 255 * want, atol=0.51)


def test_every_kind_is_read_back(model, tmp_path: Path):
    source = image(tmp_path / "in/a.png")
    outcome = run(model, [source], tmp_path / "out", kinds=KINDS)
    assert (outcome.done, outcome.broken) == (1, [])
    maps = predict_maps(model, PIXELS, Settings(kinds=KINDS))
    for kind in ("labels", "confidence", "entropy"):
        with Image.open(tmp_path / "out" / kind / "a.png") as written:
            assert written.mode == "L"
            np.testing.assert_array_equal(np.asarray(written), maps[kind])
    with np.load(tmp_path / "out/probabilities/a.npz") as written:
        np.testing.assert_array_equal(written["probabilities"], maps["probabilities"])
    np.testing.assert_array_equal(read_image(tmp_path / "out/overlays/a.png"), overlay(PIXELS, maps["labels"]))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    run(model, [source], tmp_path / "official", ids="cityscapes")
    with Image.open(tmp_path / "official/labels/a.png") as written:
        np.testing.assert_array_equal(np.asarray(written), TRAIN_TO_CITYSCAPES[maps["labels"]])


def test_what_an_image_is_stored_as_makes_no_difference(model, tmp_path: Path):
    grey = np.repeat(PIXELS[..., :1], 3, -1)
    folder = tmp_path / "in"
    image(folder / "rgb.png", grey)
    image(folder / "l.png", grey[..., 0])
    image(folder / "deep.png", grey[..., 0].astype(np.uint16) * 256 + 77)
    image(folder / "alpha.png", np.dstack([grey, PIXELS[..., 1]]))
    image(folder / "la.png", np.dstack([grey[..., 0], PIXELS[..., 1]]))
    Image.fromarray(grey[..., 0]).convert("P").save(folder / "palette.png")
    Image.fromarray(grey).save(folder / "animated.gif", save_all=True, append_images=[Image.fromarray(PIXELS)])
    Image.fromarray(grey).save(folder / "layers.tif", save_all=True, append_images=[Image.fromarray(PIXELS)])
    outcome = run(model, [folder], tmp_path / "out", kinds=("labels", "probabilities"))
    assert outcome.done == 8
    with np.load(tmp_path / "out/probabilities/rgb.npz") as first:
        want = first["probabilities"]
    for path in sorted((tmp_path / "out/probabilities").iterdir()):
        with np.load(path) as found:
            np.testing.assert_array_equal(found["probabilities"], want, err_msg=path.name)


def test_images_stand_upright(model, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right way up is clockwise
    image(tmp_path / "in/turned.png", PIXELS, exif=exif)
    image(tmp_path / "in/upright.png", np.rot90(PIXELS, -1))
    run(model, [tmp_path / "in"], tmp_path / "out")
    turned, upright = (read_image(tmp_path / f"out/overlays/{name}.png") for name in ("turned", "upright"))
    assert turned.shape == (40, 24, 3)
    np.testing.assert_array_equal(turned, upright)


@pytest.mark.parametrize("threads", [1, 3])
def test_broken_files_are_named_skipped_and_counted(model, tmp_path: Path, threads: int):
    folder = tmp_path / "in"
    whole = image(folder / "b.png").read_bytes()
    (folder / "a.png").write_bytes(whole[:200])
    (folder / "c.jpg").write_text("no image")
    (folder / "d.png").write_bytes(b"")
    (folder / "e.png").symlink_to("nowhere")
    image(folder / "f.png")
    os.mkfifo(folder / "g.png")
    image(folder / "h.tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    outcome = run(model, [folder], tmp_path / "out", threads)
    assert outcome.done == 2
    assert [Path(broken.path).name for broken in outcome.broken] == [
        "a.png", "c.jpg", "d.png", "e.png", "g.png", "h.tif",
    ]  # fmt: skip
    assert "floating-point values" in outcome.broken[-1].message
    assert sorted(path.name for path in (tmp_path / "out/labels").iterdir()) == ["b.png", "f.png"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_anywhere_is_met(model, tmp_path: Path):
    """Whatever a decoder makes of damage, it is a broken file or an image, never the end of the run."""
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "tif", "bmp", "webp"):
        data = bytearray(image(tmp_path / f"whole.{suffix}").read_bytes())
        for n in range(12):
            damaged = data.copy()
            for place in rng.integers(len(data), size=4):
                damaged[place] = rng.integers(256)
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / f"in/{suffix}{n}.{suffix}").write_bytes(damaged)
    outcome = run(model, [tmp_path / "in"], tmp_path / "out", window=64)
    assert outcome.done + len(outcome.broken) == 72
    assert outcome.broken


def test_a_file_that_cannot_be_written_ends_the_run(model, tmp_path: Path):
    sources = [image(tmp_path / f"in/{n}.png") for n in range(5)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/overlays").write_text("in the way")
    with pytest.raises(FileExistsError):
        run(model, sources, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_model_that_computes_nan_is_refused(tmp_path: Path):
    broken = build("bisenet_mini", width=8, decoder=8).eval()
    with torch.no_grad():
        broken.classifier.bias[3] = float("nan")
    with pytest.raises(ValueError, match="computes NaN"):
        run(broken, [image(tmp_path / "in/a.png")], tmp_path / "out")


def test_folders_keep_their_structure_and_frames_their_order(tmp_path: Path):
    for name in ("frame10.jpg", "frame9.jpg", "b/frame1.JPG", ".hidden.png", ".thumbs/x.png", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    found = plan([tmp_path / "in"], tmp_path / "out", ("labels", "probabilities"))
    assert names(found, tmp_path / "out") == ["b/frame1.png", "frame9.png", "frame10.png"]
    assert names(found, tmp_path / "out", "probabilities")[1] == "frame9.npz"


def test_several_inputs_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("run1/frames/0.png", "run2/frames/0.png", "run1/x.tga"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    given_twice = [Path("run1/frames"), Path("run2"), Path("run1/frames/0.png"), Path("run1/x.tga")]
    found = plan(given_twice, tmp_path / "out", ("labels",))
    assert names(found, tmp_path / "out") == ["run1/frames/0.png", "run2/frames/0.png", "run1/x.png"]


def test_images_that_differ_in_their_suffix_keep_it(tmp_path: Path):
    for name in ("a.png", "a.jpg", "b.png"):
        (tmp_path / name).touch()
    found = plan([tmp_path], tmp_path / "out", ("labels",))
    assert names(found, tmp_path / "out") == ["a.jpg.png", "a.png.png", "b.png"]
    (tmp_path / "a.jpg.gif").touch()
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.jpg\.gif would both become .*a\.jpg\.png"):
        plan([tmp_path], tmp_path / "out", ("labels",))


@settings(max_examples=60, deadline=None)
@given(
    files=st.sets(
        st.from_regex(r"\A(labels/|overlays/|[ab]/){0,2}[ab]{1,2}(\.png|\.jpg|\.png\.png)\Z"), min_size=1, max_size=8
    ),
    out=st.sampled_from([".", "labels", "out", "a"]),
)
def test_nothing_is_written_twice_or_over_an_input(files: set[str], out: str):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        try:
            found = plan([root], root / out, KINDS, "replace")
        except ValueError:  # refused, which is one way not to
            return
        written = [path for job in found.jobs for path in job.outputs.values()]
        assert len(set(written)) == len(written)
        assert not {os.path.realpath(path) for path in written} & {os.path.realpath(job.image) for job in found.jobs}


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path):
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/a/1.png", "in/b/2.png", "elsewhere/3.png"):
        (tmp_path / name).touch()
    (tmp_path / "in/a/to_b").symlink_to("../b")
    (tmp_path / "in/b/to_a").symlink_to("../a")
    (tmp_path / "in/up").symlink_to(".")
    (tmp_path / "in/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/same.png").symlink_to("a/1.png")
    found = plan([tmp_path / "in"], tmp_path / "out", ("labels",))
    assert sorted(Path(name).name for name in names(found, tmp_path / "out")) == ["1.png", "2.png", "3.png", "same.png"]


def test_outputs_that_are_there(model, tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "in"  # OUT may be the folder itself
    image(folder / "a.png")
    image(folder / "b.png")
    run(model, [folder / "a.png"], out)
    with pytest.raises(ValueError, match=r"labels/a\.png is there already.*0 more of 2.*--existing skip"):
        plan([folder], out, ("labels", "overlays"))
    left = plan([folder], out, ("labels", "overlays"), "skip")
    assert ([job.image.name for job in left.jobs], left.skipped) == (["b.png"], 1)
    (out / "overlays/a.png").unlink()  # stopped between the two
    assert len(plan([folder], out, ("labels", "overlays"), "skip").jobs) == 2
    assert len(plan([folder], out, ("labels",), "replace").jobs) == 2


def test_an_input_is_never_written_over(model, tmp_path: Path):
    ours = image(tmp_path / "labels/a.png")
    for existing in ("refuse", "replace", "skip"):
        with pytest.raises(ValueError, match="written over an image that is to be read"):
            plan([ours], tmp_path, ("labels",), existing)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").symlink_to(tmp_path / "labels")
    with pytest.raises(ValueError, match="written over an image"):
        plan([ours], tmp_path / "out", ("labels",), "replace")
    # A link to an input is replaced by a file of its own.
    (tmp_path / "other/labels").mkdir(parents=True)
    (tmp_path / "other/labels/a.png").symlink_to(ours)
    before = ours.read_bytes()
    jobs = plan([ours], tmp_path / "other", ("labels",), "replace").jobs
    predict_files(
        model, jobs, tmp_path / "other", Settings(("labels",)), threads=1, complain=print, progress=lambda done: None
    )
    assert ours.read_bytes() == before
    assert not (tmp_path / "other/labels/a.png").is_symlink()


def test_what_cannot_be_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image; looked for"):
        plan([tmp_path / "empty"], tmp_path / "out", ("labels",))
    with pytest.raises(ValueError, match="no image and no folder at"):
        plan([tmp_path / "missing.png"], tmp_path / "out", ("labels",))
    with pytest.raises(ValueError, match="nothing called depth to write"):
        check(Settings(kinds=("depth",)), 19)
    with pytest.raises(ValueError, match="name something to write"):
        check(Settings(kinds=()), 19)
    with pytest.raises(ValueError, match="this model has 5"):
        check(Settings(ids="cityscapes"), 5)
    with pytest.raises(ValueError, match="leave overlays out"):
        check(Settings(), 40)
