"""What is searched fits the recipes, and what may decide is no target."""

import shlex
from pathlib import Path

import optuna
import pytest

from dgseg.data.datasets.acdc import CONDITIONS
from dgseg.recipes import RECIPES, flatten, named, override
from dgseg.runs.launch.command import parse
from dgseg.runs.sweep.main import read
from dgseg.runs.sweep.space import applied, chosen, defaults, outside, spaces
from dgseg.runs.sweep.summary import command
from dgseg.runs.sweep.sweep import objective, of_trials
from dgseg.training.recipe import Recipe
from tests.training.harness import tiny


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_what_its_space_holds(name: str) -> None:
    recipe = named(name)
    found = spaces(recipe)
    assert "optimizer.lr" in [each.name for each in found]
    sampler = optuna.samplers.RandomSampler(seed=0)
    drawn = optuna.create_study(sampler=sampler).ask({each.name: each.distribution for each in found}).params
    changed = flatten(applied(recipe, drawn))
    for each in found:
        own = flatten(recipe)[each.name]
        assert changed[each.name] != own or each.name == "objective.gap.radii"
        assert type(changed[each.name]) is type(own) or own is None
        assert len(each.why) > 30


def test_the_first_trial_has_the_recipes_own_values() -> None:
    recipe = named("flexseg-streets")
    values = defaults(spaces(recipe))
    assert values is not None
    midpoint = values.pop("sampler.hardness.midpoint")
    assert midpoint == 100  # half of 1000 steps / 5, which is what None means
    assert applied(recipe, values) == recipe


@pytest.mark.parametrize("alpha", [50.0, 0.0], ids=["above", "without a logarithm"])
def test_a_recipe_beyond_its_space_has_no_such_trial(alpha: float) -> None:
    found = spaces(recipe_of(alpha))
    assert defaults(found) is None
    assert [each.name for each in outside(found)] == ["objective.ube.alpha"]


def recipe_of(alpha: float) -> Recipe:
    return override(named("flexseg-streets"), {"objective.ube.alpha": alpha})


def test_parameters_are_chosen_by_their_names() -> None:
    found = spaces(named("flexseg-streets"))
    usual = ["ube.alpha", "gap.temperature", "gap.weight", "hardness.steepness"]
    assert [each.short for each in chosen(found, [])] == usual
    assert chosen(found, ["all"]) == found
    assert [each.name for each in chosen(found, ["lr", "objective.ube.alpha"])] == [
        "optimizer.lr",
        "objective.ube.alpha",
    ]
    with pytest.raises(ValueError, match="temperature is no single parameter"):
        chosen(found, ["temperature"])
    with pytest.raises(ValueError, match="alpa is no single parameter"):
        chosen(found, ["alpa"])


@pytest.mark.parametrize("target", ["fog", "city"])
def test_a_target_decides_nothing(target: str) -> None:
    with pytest.raises(ValueError, match=f"{target} is a target"):
        objective(tiny(), target)


def test_what_is_scored_at_the_end_decides_nothing() -> None:
    spec = "streets=dusk@val,size=64x96,length=4"
    with pytest.raises(ValueError, match="dusk is a target"):
        objective(tiny({"data.test": [spec]}), None)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder that ACDC and a folder of one's own can both be read from."""
    places = ["images/a.png", "labels/a.png"]
    for each in CONDITIONS:
        places += [f"rgb_anon/{each}/val/a_rgb_anon.png", f"gt/{each}/val/a_gt_labelTrainIds.png"]
    for place in places:
        (tmp_path / "real" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "real" / place).touch()
    return tmp_path / "real"


@pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")
@pytest.mark.parametrize(
    ("test", "validation"),
    [
        ("acdc={0}@val", "acdc={0}@val,condition=fog"),
        ("acdc={0}@val,condition=fog", "acdc={0}@val"),
        ("folder={0}", "folder={0}/../real,domain=mine"),
    ],
)
def test_a_target_by_another_name_decides_nothing(test: str, validation: str, real: Path) -> None:
    specs = {"data.test": [test.format(real)], "data.validation": [validation.format(real)]}
    with pytest.raises(ValueError, match="is a target"):
        objective(tiny(specs), None)


@pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")
def test_another_condition_may_decide(real: Path) -> None:
    fog, night = (f"acdc={real}@val,condition={each}" for each in ("fog", "night"))
    assert objective(tiny({"data.test": [fog], "data.validation": [night]}), None) == "validation/miou"


def test_the_objective_by_name() -> None:
    two = ["streets=dusk@val,size=64x96,length=4", "streets=game@val,size=64x96,length=4"]
    assert objective(tiny({"data.validation": two}), None) == objective(tiny(), None) == "validation/miou"
    assert objective(tiny({"data.validation": two}), "game") == "validation/game/miou"
    assert objective(tiny(), "dusk") == "validation/dusk/miou"
    with pytest.raises(ValueError, match=r"data\.validation has dusk"):
        objective(tiny(), "game")
    with pytest.raises(ValueError, match=r"has no data\.validation"):
        objective(tiny({"data.validation": []}), None)


def test_trials_are_not_scored_on_targets() -> None:
    found = of_trials(named("flexseg-streets"), 3)
    assert found.data.test == ()
    assert found.train.evaluate_every == 112


def test_the_command_line_reads_both_kinds_of_flags() -> None:
    asked = read(
        [
            "flexseg-streets",
            "--trials",
            "5",
            "--schedule.steps",
            "300",
            "--search",
            "lr",
            "--name",
            "x",
            "--workers",
            "2",
        ]
    )
    assert asked.options.trials == 5
    assert [each.name for each in asked.parameters] == ["optimizer.lr"]
    assert asked.command.recipe.schedule.steps == 300
    assert (asked.command.run.name, asked.command.launch.workers) == ("x", 2)
    with pytest.raises(ValueError, match="stop-after"):
        read(["flexseg-streets", "--stop-after", "3"])
    with pytest.raises(ValueError, match="--jobs is 0"):
        read(["flexseg-streets", "--jobs", "0"])


def test_what_is_searched_may_stand_in_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("""
from optuna.distributions import FloatDistribution
from dgseg.runs.sweep.space import parameter

def spaces(recipe):
    return [parameter(recipe, "optimizer.weight_decay", FloatDistribution(0.0, 0.1), "How much weights are held back.")]
""")
    asked = read(["flexseg-streets", "--space", str(file)])
    assert [(each.name, each.default) for each in asked.parameters] == [("optimizer.weight_decay", 0.01)]
    file.write_text("spaces = 3")
    with pytest.raises(ValueError, match=r"mine.py: it defines no function spaces"):
        read(["flexseg-streets", "--space", str(file)])
    with pytest.raises(ValueError, match="there is no such file"):
        read(["flexseg-streets", "--space", str(tmp_path / "none.py")])


@pytest.mark.parametrize(
    "recipe",
    [named("flexseg-streets"), tiny(), tiny({"train.sync_batch_norm": False, "model.options.norm": "batch"})],
    ids=["plain", "lists", "flags"],
)
def test_the_winners_command_trains_the_winner(recipe: Recipe, tmp_path: Path) -> None:
    values = {"objective.ube.alpha": 0.1 + 0.2, "objective.gap.radii": "[2, 4, 8]", "optimizer.lr": 1.234e-05}
    winner = applied(recipe, values)
    words = shlex.split(command(winner, "w", "w.yaml"))
    assert words[:3] == ["dgseg", "train", "flexseg-streets"]
    read_again = parse(words[2:], prog="dgseg train")
    assert read_again.recipe == winner
    assert read_again.run.name == "w"


def test_a_winner_without_a_name_is_trained_from_its_file() -> None:
    assert command(tiny({"name": "mine"}), "w", "a b/w.yaml") == "dgseg train --recipe 'a b/w.yaml' --name w"
