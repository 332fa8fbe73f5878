"""A recipe's parts, made: data sets, sampler, loader, learner."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from dgseg.data import Dataset, Loader, Target, from_spec
from dgseg.data.samplers import (
    ClassUniform,
    Hardness,
    Mixture,
    RareClass,
    Sampler,
    SourceSampler,
    StatelessSampler,
    Uniform,
)
from dgseg.models import build, load_weights
from dgseg.models.base import SegmentationModel
from dgseg.objectives import (
    Objectives,
    median_frequency_weights,
    wants_median_frequency,
    with_median_frequency,
)
from dgseg.training.batch_norm import share_batch_norms
from dgseg.training.learner import Learner
from dgseg.training.recipe import ModelConfig, Recipe, SamplerConfig
from dgseg.training.world import World

FROZEN_NORMS = (nn.modules.batchnorm._BatchNorm,)


def check(recipe: Recipe, world_size: int) -> None:
    """What no field can know alone."""
    data, train = recipe.data, recipe.train
    if recipe.schedule.steps < 1:
        raise ValueError(f"schedule.steps is {recipe.schedule.steps}; a run has at least 1")
    for what, size in (("data.batch_size", data.batch_size), *_target_size(recipe)):
        if size % (world_size * train.accumulate):
            raise ValueError(
                f"{what} is {size}: it must be a multiple of {world_size} workers × {train.accumulate} micro-batches, "
                f"or the number of workers would change what is trained. Nearest: "
                f"{max(1, round(size / (world_size * train.accumulate))) * world_size * train.accumulate}"
            )
    if not data.sources:
        raise ValueError("data.sources is empty: name what to train on, as in gta5=/data/gta5@train")
    if not recipe.objective:
        raise ValueError("objective is empty, and there is nothing to learn: add one, as --objective.ce cross_entropy")
    if recipe.sampler.hardness is not None and not any(each.part().scores_images for each in recipe.objective.values()):
        raise ValueError(
            "sampler.hardness draws by the images' cross-entropy, and no objective of this recipe tells it: add "
            "objective.ce or objective.ube, or do without sampler.hardness"
        )
    if recipe.model.trainable and recipe.model.weights is None and not recipe.model.pretrained:
        raise ValueError(
            f"model.trainable trains {', '.join(recipe.model.trainable)} alone, in a model whose other weights are "
            "random: say with model.weights what it begins with, as runs/NAME/weights.safetensors of the run before"
        )
    selected = {from_spec(spec).domain for spec in data.validation}
    tested = {from_spec(spec).domain for spec in data.test}
    if selected & tested:
        raise ValueError(
            f"{', '.join(sorted(selected & tested))}: scored at the end and used for selection. What a checkpoint is "
            "selected on is no test any more: take another domain for data.validation"
        )
    if data.target is not None:
        adapted = _ids(data.target.source)
        for spec in (*data.validation, *data.test):
            if shared := sorted(adapted & _ids(spec)):
                raise ValueError(
                    f"{spec}: {shared[0]} and {len(shared) - 1} more are images of data.target.source too. What is "
                    "adapted to is not scored: take another split"
                )


def _ids(spec: str) -> set[str]:
    dataset = from_spec(spec)
    return {dataset.id(index) for index in range(len(dataset))}


def datasets(recipe: Recipe) -> list[Dataset]:
    return [from_spec(spec) for spec in recipe.data.sources]


def sampler(recipe: Recipe, sources: Sequence[Dataset]) -> Sampler:
    config, data = recipe.sampler, recipe.data
    each = [
        _source_sampler(config, source, place, data.batch_size, recipe.seed) for place, source in enumerate(sources)
    ]
    base: StatelessSampler = each[0]
    if len(each) > 1:
        shares = data.shares or tuple(float(len(source)) for source in sources)
        base = Mixture(each, shares, batch_size=data.batch_size, seed=recipe.seed)
    if config.hardness is None:
        return base
    return Hardness(base, max_steps=recipe.schedule.steps, seed=recipe.seed, config=config.hardness)


def loader(recipe: Recipe, sources: Sequence[Dataset], drawn_by: Sampler, world: World) -> Loader:
    data = recipe.data
    target = None
    if data.target is not None:
        dataset = from_spec(data.target.source)
        own = Uniform(len(dataset), batch_size=data.target_batch, seed=recipe.seed)
        target = Target(dataset, own, data.target.augment.build())
    return Loader(
        sources,
        drawn_by,
        data.augment.build(),
        batch_size=data.batch_size,
        rank=world.rank,
        world_size=world.size,
        parts=recipe.train.accumulate,
        workers=data.loaders,
        seed=recipe.seed,
        stop_step=recipe.schedule.steps,
        target=target,
        pin_memory=world.device.type == "cuda",
    )


def model(config: ModelConfig) -> SegmentationModel:
    """The same on every rank: its random weights come from torch's generator, which the caller seeds."""
    found = build(config.name, config.num_classes, config.pretrained, **config.options)
    if config.weights is not None:
        load_weights(found, config.weights, strict=config.strict)
    return found


def learner(recipe: Recipe, sources: Sequence[Dataset], world: World) -> Learner:
    configs = recipe.objective
    if any(wants_median_frequency(config) for config in configs.values()):
        weights = class_weights(sources)
        configs = {name: with_median_frequency(config, weights) for name, config in configs.items()}
    torch.manual_seed(recipe.seed)
    trained = model(recipe.model)
    _freeze(trained, recipe.model.trainable)
    objectives = Objectives({name: config.build(trained) for name, config in configs.items()})
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    found = Learner(trained, objectives, layout)
    if recipe.train.precision == "float64":
        found.double()
    found.to(world.device)
    if recipe.train.sync_batch_norm and world.group is not None:
        share_batch_norms(trained, world.group)
    if recipe.train.checkpoint_stages:
        trained.checkpoint_stages()
    return found


def class_weights(sources: Sequence[Dataset]) -> tuple[float, ...]:
    """By median frequency over everything that is trained on."""
    return median_frequency_weights(np.concatenate([source.class_pixels() for source in sources]))


class FrozenNorms:
    """Batch norms whose parameters are not trained keep their statistics, too, whatever mode the model is in."""

    def __init__(self, model: nn.Module) -> None:
        self.norms = [
            module
            for module in model.modules()
            if isinstance(module, FROZEN_NORMS)
            and (own := list(module.parameters(recurse=False)))
            and not any(p.requires_grad for p in own)
        ]

    def eval(self) -> None:
        for norm in self.norms:
            norm.eval()


def _freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"model.trainable: {pattern!r} is the name of no parameter; they are like {names[0]} and {names[-1]}"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and any(fnmatchcase(name, p) for p in patterns))


def _source_sampler(config: SamplerConfig, source: Dataset, place: int, batch_size: int, seed: int) -> SourceSampler:
    if config.kind == "uniform":
        return Uniform(len(source), batch_size=batch_size, seed=seed, source=place)
    pixels: np.ndarray = source.class_pixels()
    if config.kind == "rare_class":
        return RareClass(
            pixels,
            batch_size=batch_size,
            seed=seed,
            source=place,
            temperature=config.temperature,
            min_pixels=config.min_pixels,
        )
    return ClassUniform(
        pixels, batch_size=batch_size, seed=seed, source=place, share=config.share, min_pixels=config.min_pixels
    )


def _target_size(recipe: Recipe) -> list[tuple[str, int]]:
    target = recipe.data.target
    own = None if target is None else target.batch_size
    return [] if own is None else [("data.target.batch_size", own)]
