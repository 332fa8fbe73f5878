"""Every recipe is complete, survives YAML, and takes overrides by dotted name."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.data import from_spec
from dgseg.data.datasets import parse_spec
from dgseg.evaluation.protocols import NAMES
from dgseg.models.build import MODELS
from dgseg.objectives import Objectives, with_median_frequency
from dgseg.recipes import (
    RECIPES,
    TABLES,
    differences,
    flatten,
    from_words,
    from_yaml,
    named,
    override,
    to_yaml,
    words_by_name,
)
from dgseg.training import Recipe, assemble

RECIPE_OF = {name: from_words(words).recipe for name, words in words_by_name().items()}
STREETS = [name for name, recipe in RECIPE_OF.items() if "streets" in str(recipe.data.sources)]


@pytest.mark.parametrize("name", RECIPE_OF)
def test_it_is_whole(name: str) -> None:
    recipe = RECIPE_OF[name]
    assert recipe.name == name
    assert recipe.model.name in MODELS
    assert recipe.data.protocol in NAMES
    for spec in (*recipe.data.sources, *recipe.data.validation, *recipe.data.test):
        parse_spec(spec)
    assert from_yaml(to_yaml(recipe)) == recipe
    assert differences(recipe, from_yaml(to_yaml(recipe))) == {}


def test_names_are_few_and_say_what_they_are() -> None:
    assert len(RECIPES) <= 18
    for known in (RECIPES, TABLES):
        assert all(10 < len(entry.summary) <= 100 for entry in known.values())
    # One way to ask for each, and one name in records.
    words = [" ".join(each) for each in words_by_name().values()]
    choices = sum(len(list(entry.choices())) for entry in RECIPES.values())
    assert len(set(words)) == len(words) == choices + sum(len(table.recipes()) for table in TABLES.values())


@pytest.mark.parametrize("name", STREETS)
def test_what_needs_no_download_can_be_built(name: str) -> None:
    recipe = RECIPE_OF[name]
    later = {"model.weights": "runs/start/weights.safetensors"} if recipe.model.trainable else {}
    assemble.check(override(recipe, later), world_size=2)
    model = assemble.model(recipe.model)
    weights = (1.0,) * 19
    Objectives({key: with_median_frequency(config, weights).build(model) for key, config in recipe.objective.items()})
    for spec in (*recipe.data.sources, *recipe.data.validation, *recipe.data.test):
        assert len(from_spec(spec)) > 0


def test_options_multiply() -> None:
    plain = named("hrda")
    whole = named("hrda", backbone="r101", methods=["flexseg"], published=True)
    assert whole.name == "hrda-r101-flexseg-published"
    assert whole.model == replace(plain.model, name="hrda_r101")
    assert whole.objective["fd"] == plain.objective["fd"]
    assert list(whole.objective) == ["ube", "gap", "fd"]
    assert (whole.objective["ube"].denominator, whole.train.precision) == ("all", "float32")
    words = "hrda --as published --model.batch 3 --with flexseg --model.backbone=r101 tail"
    request = from_words(words.split())
    assert (request.recipe, request.rest) == (whole, ["--model.batch", "3", "tail"])
    assert " ".join(request.words) == "hrda --model.backbone r101 --with flexseg --as published"
    assert named("blindnet", source="cityscapes").data.sources == ("cityscapes=data/cityscapes@train",)
    assert named("detect-stage1", family="mask2former").model.name == "mask2former_r50"
    assert named("detect-stage2", trained="all").model.trainable == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "hrda --model.backbone r50",
            "with --model.backbone r50; its options: --model.backbone mitb5|",
        ),
        ("hrda --with blindnet", "hrda does not exist with --with blindnet; its options: .* --with flexseg"),
        (
            "erm-streets --with flexseg",
            "no options; --with goes with blindnet, blindnet-streets, daformer, hrda",
        ),
        ("realtime --as published", "realtime does not exist with --as published"),
        ("hrda --as printed", "--as: invalid choice: 'printed'"),
        ("hrda --with", "--with: expected at least one argument"),
        ("hrda-r101-flexseg", "is a name in records; here it is hrda --model.backbone r101 --with flexseg"),
        ("ablation-gap-ube", "is a name in records; here it is study:ablation/gap-ube"),
        ("study:ablaton/gap", "no table 'ablaton'; did you mean ablation"),
        ("study:ablation/gap-ubee", "study:ablation has no row 'gap-ubee'; did you mean gap-ube"),
        ("study:ablation", "study:ablation is a table; its rows: baseline, gap, ube"),
        (
            "study:ablation/gap --with flexseg",
            "gap has no options: --with, --as, .* go with a recipe's name",
        ),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_words(words.split())


@pytest.mark.parametrize("table", ["ablation", "ablation-daformer"])
def test_the_ablation_is_table_2(table: str) -> None:
    rows = TABLES[table].recipes()
    assert list(rows) == ["baseline", "gap", "ube", "gap-ube", "gap-ube-has"]
    for row, recipe in rows.items():
        parts = row.split("-")
        objective = recipe.objective
        assert ("gap" in objective, "ube" in objective) == ("gap" in parts, "ube" in parts)
        assert ("ce" not in objective) == ("ube" in parts), "UBE is cross-entropy with other weights"
        assert (recipe.sampler.hardness is not None) == ("has" in parts)


def test_a_table_begins_and_ends_with_recipes_of_their_own() -> None:
    for row, name in (("gap-ube-has", "flexseg-streets"), ("baseline", "erm-streets")):
        assert set(differences(named(name), named(f"study:ablation/{row}"))) == {"name"}
    whole = named("daformer", methods=["flexseg"])
    assert set(differences(whole, named("study:ablation-daformer/gap-ube-has"))) == {"name"}


@pytest.mark.parametrize("table", ["blindnet", "ablation-blindnet"])
def test_each_of_blindnet_s_losses_stands_alone_too(table: str) -> None:
    """With the whole's weights, beside the same cross-entropy."""
    whole = named(f"study:{table}/all")
    ce = {name: whole.objective[name] for name in ("ce", "ce_augmented")}
    covariance, contrast = whole.objective["covariance"], whole.objective["contrast"]
    parts = {
        "cm": {"covariance": replace(covariance, ccl=None)},
        "cc": {"covariance": replace(covariance, cml=None)},
        "cwcl": {"contrast": replace(contrast, sdcl=None)},
        "sdcl": {"contrast": replace(contrast, cwcl=None)},
    }
    for row, wanted in parts.items():
        found = named(f"study:{table}/{row}")
        objective = {**ce, **wanted}
        assert found == replace(whole, name=found.name, objective=objective)


def test_the_paper_s_constants() -> None:
    recipe = named("daformer", methods=["flexseg"], published=True)
    ube, gap, has = recipe.objective["ube"], recipe.objective["gap"], recipe.sampler.hardness
    assert has
    assert (ube.alpha, ube.denominator) == (3.0, "all")
    assert (gap.weight, gap.temperature, gap.momentum, gap.dim, gap.nested, gap.update) == (
        0.5, 0.07, 0.99, 256, True, "pixel",
    )  # fmt: skip
    assert (has.window, has.beta, has.temperature, has.steepness, has.decay) == (50, 0.9, 1.0, 0.05, "sigmoid")
    assert (has.standardise, has.per_draw) == (False, False)
    assert (recipe.sampler.kind, recipe.sampler.temperature) == ("rare_class", 0.01)
    assert (recipe.schedule.steps, recipe.schedule.warmup, recipe.schedule.power) == (40_000, 1500, 1.0)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.optimizer.head_multiple) == (6e-5, 0.01, 10.0)
    assert (recipe.data.batch_size, recipe.data.augment.crop) == (2, (512, 512))
    assert recipe.train.precision == "float32"
    assert recipe.objective["fd"].weight == 0.005
    large = named("hrda", methods=["flexseg"], published=True)
    assert (large.data.augment.crop, large.data.augment.size) == ((1024, 1024), (1440, 2560))
    assert large.objective["fd"].image_scale == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.ub.alpha": 5}, r"no field 'objective.ub.alpha'; did you mean objective.ube.alpha"),
        ({"objective.fd.weight": 5}, r"does without objective.fd"),
        ({"schedule.steps": "many"}, r"schedule.steps is 'many'; it takes int"),
        ({"schedule.steps": 2.5}, r"schedule.steps is 2.5; it takes int"),
        ({"schedule.steps": True}, r"schedule.steps is True; it takes int"),
        ({"train.precision": "fp8"}, r"'float32' or 'bf16' or 'fp16' or 'float64'"),
        ({"optimizer.lr": None}, r"optimizer.lr cannot be None"),
        ({"data.sources": "one"}, r"data.sources is 'one'"),
        ({"name.first": 1}, r"name is a value, and has no field 'first'"),
    ],
)
def test_a_wrong_override_says_what_is_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(named("flexseg-streets"), changes)


def test_text_becomes_what_a_field_takes() -> None:
    recipe = override(
        named("flexseg-streets"),
        {
            "objective.ube.alpha": "5",
            "optimizer.lr": "1e-4",
            "data.shares": "[1, 3]",
            "train.clip": "None",
            "train.compile": "true",
            "model.options.drop_path": "0.2",
            "name": "5",
        },
    )
    assert recipe.objective["ube"].alpha == 5.0
    assert isinstance(recipe.objective["ube"].alpha, float)
    assert (recipe.optimizer.lr, recipe.data.shares, recipe.train.clip) == (1e-4, (1.0, 3.0), None)
    assert (recipe.train.compile, recipe.model.options, recipe.name) == (True, {"drop_path": 0.2}, "5")


LEAVES = {name: value for name, value in flatten(named("flexseg-streets")).items() if type(value) in (int, float)}


@settings(deadline=None)
@given(st.sampled_from(sorted(LEAVES)), st.floats(1e-6, 1e6))
def test_what_is_overridden_is_all_that_differs(name: str, value: float) -> None:
    recipe = named("flexseg-streets")
    kind = type(LEAVES[name])
    wanted = kind(value) + (1 if kind is int else 0)
    try:
        changed = override(recipe, {name: wanted})
    except ValueError:
        return  # the field's own rule: a probability above 1
    expected = {} if wanted == LEAVES[name] else {name: (LEAVES[name], wanted)}
    assert differences(recipe, changed) == expected
    assert from_yaml(to_yaml(changed)) == changed


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no recipe 'flexsg-streets'; did you mean flexseg-streets"):
        named("flexsg_streets")
    assert named("flexseg_streets") == named("flexseg-streets")


def test_yaml_with_a_wrong_field(tmp_path: Any) -> None:
    text = to_yaml(named("erm-streets"))
    with pytest.raises(ValueError, match=r"recipe\.schedule has no field 'step'; did you mean steps"):
        from_yaml(text.replace("  steps:", "  step:"))
    with pytest.raises(
        ValueError, match=r"recipe\.optimizer: there is no optimizer of kind 'adam'; did you mean adamw\?"
    ):
        from_yaml(text.replace("kind: adamw", "kind: adam"))
    with pytest.raises(ValueError, match="mapping of its fields"):
        from_yaml("5")


def test_recipes_are_values() -> None:
    assert all(dataclasses.is_dataclass(recipe) for recipe in RECIPE_OF.values())
    assert isinstance(named("erm-streets"), Recipe)
