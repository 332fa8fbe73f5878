"""The command line: recipes by name or file, every field as a flag, and what is said to whoever mistypes one."""

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dgseg.cli import main as dgseg
from dgseg.objectives import CrossEntropy, PrototypeContrast, Whitening
from dgseg.recipes import RECIPES, TABLES, flatten, from_words, named, override, to_yaml
from dgseg.runs.launch.command import Command, parse
from dgseg.runs.launch.config import LaunchConfig
from dgseg.runs.launch.main import checked
from dgseg.training.optimizers import SGDConfig
from dgseg.training.run import RunConfig


def read(line: str) -> Command:
    return parse(line.split(), prog="train")


def explained(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about a command line that leads to no run."""
    with pytest.raises(SystemExit):
        read(line)
    said = capsys.readouterr()
    return re.sub(r"[│\s]+", " ", said.out + said.err)


def test_no_arguments_are_the_default_recipe() -> None:
    assert read("") == Command(named("flexseg-streets"), RunConfig(), LaunchConfig())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_read_as_it_is(name: str) -> None:
    assert read(name).recipe == named(name)
    assert read(name.replace("-", "_")).recipe == named(name)


@pytest.mark.parametrize(
    "words",
    [
        "hrda --model.backbone r101 --with flexseg --as published",
        "blindnet --from cityscapes",
        "study:ablation/gap-ube",
        "study:ablation-blindnet/cml-0.1",
    ],
)
def test_options_and_rows_decide_what_the_flags_begin_with(words: str) -> None:
    recipe = read(f"{words} --seed 3").recipe
    assert recipe == replace(from_words(words.split()).recipe, seed=3)


def test_an_old_name_is_told_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = read("flexseg_daformer --seed 3")
    assert capsys.readouterr().err == (
        "flexseg-daformer is now daformer --with flexseg (to resume an older run add --name flexseg-daformer)\n"
    )
    assert command == read("daformer --with flexseg --seed 3")
    assert capsys.readouterr().err == ""


def test_the_rows_of_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = explained("study:", capsys)
    for name, table in TABLES.items():
        assert f"study:{name}: {table.summary} {' '.join(table.recipes())} " in f"{said} "


def test_fields_are_flags_by_their_dotted_names() -> None:
    command = read(
        "daformer --objective.ube.alpha 5 --data.augment.crop 256 512 --train.compile --with flexseg "
        "--optimizer.lr=1e-3 "
        "--sampler.hardness.per_draw --train.clip 1 --data.test a b --seed 3 "
        "--workers 8 --min-workers 4 --name mine --strategy fsdp --run.storage s3://bucket/runs"
    )
    changed = {
        name: value
        for name, value in flatten(command.recipe).items()
        if flatten(named("daformer", methods=["flexseg"]))[name] != value
    }
    assert changed == {
        "objective.ube.alpha": 5.0,
        "data.augment.crop": (256, 512),
        "train.compile": True,
        "optimizer.lr": 1e-3,
        "sampler.hardness.per_draw": True,
        "train.clip": 1.0,
        "data.test": ("a", "b"),
        "seed": 3,
    }
    assert command.launch == LaunchConfig(workers=8, min_workers=4)
    assert command.run == RunConfig(name="mine", strategy="fsdp", storage="s3://bucket/runs")


def test_the_models_own_options() -> None:
    model = read("--model.options.drop-path 0.2 --model.options.align_corners=true --model.num_classes 3").recipe.model
    assert model.options == {"drop_path": 0.2, "align_corners": True}
    assert model.num_classes == 3


def test_an_option_that_the_recipe_sets_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(override(named("erm-streets"), {"model.options.drop_path": 0.1})))
    assert read(f"--recipe {path} --model.options.drop_path 1").recipe.model.options == {"drop_path": 1}
    with pytest.raises(ValueError, match=r"--model.options.drop_path takes float, as 0.1; not 'much'"):
        read(f"--recipe {path} --model.options.drop_path much")


def test_a_saved_recipe_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(read("erm-streets --optimizer.lr 7e-4 --model.options.drop_path 0.1").recipe))
    for given in (f"--recipe {path}", f"--recipe={path}"):
        command = read(f"{given} --seed 5")
        assert (command.recipe.name, command.recipe.seed) == ("erm-streets", 5)
        assert (command.recipe.optimizer.lr, command.recipe.model.options) == (7e-4, {"drop_path": 0.1})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("erm-street", "no recipe 'erm-street'; did you mean erm-streets"),
        ("xyz", "no recipe 'xyz'. --help lists them"),
        ("--workers 2 erm-streets", "erm-streets stands first"),
        ("erm-streets --recipe a.yaml", "--recipe stands first"),
        ("erm-streets --with flexseg", "erm-streets does not exist with --with flexseg"),
        ("--as published", "flexseg-streets does not exist with --as published"),
        ("--recipe RECIPE --with flexseg", "is a whole recipe: options such as --with go with a recipe's name"),
        ("--recipe", "takes the YAML file"),
        ("--recipe nowhere.yaml", "nowhere.yaml is no file"),
        (
            "erm-streets --objective.gap.weight 1",
            "erm-streets has no objective.gap, so --objective.gap.weight would change nothing; --objective.gap "
            "prototype_contrast adds it. Recipes with it: f",
        ),
        ("erm-streets --objective.ec.weight 1", "--objective.ec KIND adds it. No recipe has it"),
        (
            "erm-streets --objective.gap",
            "--objective.gap takes the kind of an objective: adversarial, ",
        ),
        ("erm-streets --objective.gap prototype_contrst", "did you mean prototype_contrast?"),
        ("erm-streets --objective.ce None --objective.ce.weight 2", "erm-streets has no objective.ce"),
        ("erm-streets --sampler.hardness.window=3", "has no sampler.hardness"),
        ("--model.options.drop_path --seed 3", "given as --model.options.NAME VALUE"),
        ("--workers 0", "workers is 0; it must be at least 1"),
        ("--min-workers 3 --workers 2", "min_workers is 3, above workers, which is 2"),
        ("--failures -1", "failures is -1; it cannot be negative"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read(line)


def test_a_module_of_one_s_own_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "own_test_losses.py").write_text(
        "from dataclasses import dataclass\n"
        "from dgseg.objectives import CrossEntropy, objective\n"
        "@objective('own_test_loss')\n"
        "class Own(CrossEntropy):\n"
        "    @dataclass(frozen=True, kw_only=True)\n"
        "    class Config(CrossEntropy.Config):\n"
        "        gamma: float = 1.0\n"
    )
    line = "erm-streets --objective.ce own_test_loss --objective.ce.gamma 2"
    with pytest.raises(ValueError, match="no objective of kind 'own_test_loss'"):
        read(line)
    recipe = read(f"--import own_test_losses {line}").recipe
    assert recipe.objective["ce"].gamma == 2.0
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert read("--recipe recipe.yaml --import=own_test_losses").recipe == recipe
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe).replace("own_test_loss\n", "gone\n"))
    with pytest.raises(ValueError, match="of the module 'own_test_losses', which is not imported here: --import own"):
        read("--recipe recipe.yaml")
    with pytest.raises(ValueError, match="--import nowhere_to_be: No module named"):
        read("--import nowhere_to_be")
    with pytest.raises(ValueError, match="takes the name of a module"):
        read("--import losses.py:x")


def test_objectives_are_added_and_removed_and_have_flags() -> None:
    recipe = read("daformer --objective.gap prototype_contrast --objective.gap.dim 64 --objective.fd=None").recipe
    assert list(recipe.objective) == ["ce", "gap"]
    assert recipe.objective["gap"] == PrototypeContrast.Config(dim=64)
    other = read("flexseg-streets --objective.ube.kind cross_entropy --objective.ube.weight 2").recipe
    assert other.objective["ube"] == CrossEntropy.Config(weight=2.0)
    assert read("erm-streets --optimizer sgd --optimizer.lr 0.1").recipe.optimizer == SGDConfig(lr=0.1)
    robust = read("study:blindnet-baselines/iw --objective.whitening.kind irw --objective.whitening.margin 0.1").recipe
    assert robust.objective["whitening"] == Whitening.Config(kind="irw", margin=0.1)


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, said in (("name: [x", "this is no YAML"), ("name: x\ndata: 5", "recipe.data is 5")):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"--recipe {path}: {said}"):
            read(f"--recipe {path}")


def test_an_unknown_field_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    said = explained("--objective.ube.alfa 5", capsys)
    assert "--objective.ube.alfa" in said
    assert "Perhaps you meant: --objective.ube.alpha FLOAT" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--objective.ube.alpha much", "Error parsing --objective.ube.alpha"),
        ("--workers two", "--workers INT"),
        ("--data.augment.crop 3", "Missing value for argument '--data.augment.crop'"),
        ("--schedule.kind linear", "invalid choice 'linear' for argument"),
        ("--sampler.hardness.window 0", "window is 0 steps; it must be at least 1"),
    ],
)
def test_a_wrong_value_is_told_its_field_and_what_that_takes(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in explained(line, capsys)


def test_help_shows_every_field_with_its_doc(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    said = explained("daformer --help --with flexseg", capsys)
    assert time.perf_counter() - start < 3
    recipes = [choice.recipe() for entry in RECIPES.values() for choice in entry.choices()]
    parts = {name.rpartition(".")[0] for recipe in recipes for name in flatten(recipe)} | {"data.target"}
    parts |= {"objective.focal_dice", "objective.whitening", "objective.max_entropy"}  # rows of tables alone have them
    for name, value in flatten(named("daformer", methods=["flexseg"])).items():
        absent = value is None and name in parts
        if not absent and name != "name" and not name.startswith("model.options") and not name.endswith(".kind"):
            assert f"--{name.replace('_', '-')}" in said, name
    assert "processes that train together" in said
    assert "images per optimiser step, over all workers" in said
    assert "--objective.gap.nested" in said


def test_help_without_a_recipe_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    said = explained("--help", capsys)
    for name, each in RECIPES.items():
        assert f" {name} {each.summary} {each.usage} ".replace("  ", " ") in said
    assert "--objective.gap.nested" in said, "and the default's fields"


def test_only_numbers_of_workers_that_share_a_batch_evenly_train() -> None:
    assert read("--workers 8 --min-workers 2 --data.batch_size 24 --train.accumulate 2").sizes() == [2, 3, 4, 6]
    assert read("--workers 4 --data.batch_size 8").sizes() == [4]
    checked(read("--workers 4 --min-workers 2 --data.batch_size 8"))
    for line in ("--workers 3", "--workers 4 --min-workers 3"):
        with pytest.raises(ValueError, match=r"workers 3: 8 images a step .* shared evenly by 3 workers"):
            checked(read(f"{line} --data.batch_size 8"))


def test_a_run_is_local_unless_it_is_on_ray() -> None:
    assert read("--workers 2").launch.on == "local"
    assert read("--workers 2 --on ray").launch.on == "ray"


def test_dgseg_train_tells_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="dgseg train: --workers 3: 8 images a step"):
        dgseg(["train", "--workers", "3", "--data.batch_size", "8"])
    with pytest.raises(SystemExit, match="dgseg train: --min-workers and --address are for Ray"):
        dgseg(["train", "--workers", "2", "--min-workers", "1"])
