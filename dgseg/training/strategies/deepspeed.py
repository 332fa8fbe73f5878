"""DeepSpeed's engine around the learner: ZeRO stages 0 to 3, and whatever else its configuration file asks for.

DeepSpeed keeps its own files in a checkpoint, one set per worker: they are read by as many workers as wrote them. The
model's whole weights lie beside them. Its files are pickles. DeepSpeed would execute what they hold; here they are read
as tensors and the few classes of its own that they need, and anything else is refused.
"""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.models.base import SegmentationModel
from dgseg.models.build import build
from dgseg.training import optimizers
from dgseg.training.learner import Learner
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.strategies.base import Strategy
from dgseg.training.world import World

FOLDER = "deepspeed"
TAG = "state"


class DeepSpeed(Strategy):
    own_files = True

    def __init__(self, learner: Learner, recipe: Recipe, run: RunConfig, world: World) -> None:
        try:
            import deepspeed
        except ImportError as error:
            raise ValueError("the strategy deepspeed needs DeepSpeed: pip install 'dgseg[train]'") from error
        train = recipe.train
        if any(group.own is not None for group in learner.objectives.parameter_groups()):
            raise ValueError(
                "DeepSpeed steps one optimiser, and this recipe has an opponent with an optimiser of its own: use the "
                "strategy ddp or fsdp"
            )
        if train.precision == "float64":
            raise ValueError("DeepSpeed keeps its master weights in float32: float64 needs the strategy ddp or fsdp")
        if train.ema is not None:
            raise ValueError("train.ema is not kept under DeepSpeed, which owns the weights: use ddp or fsdp")
        # DeepSpeed views parameters as bytes, which channels last does not allow; inputs are in it all the same.
        self.learner, self.recipe, self.world = learner.to(memory_format=torch.contiguous_format), recipe, world
        self.averaged = None
        self.config = configuration(recipe, run.deepspeed, world)
        if world.group is None:
            _join_alone(world)
        self.own_schedule = "scheduler" in self.config
        self._scored: SegmentationModel | None = None
        groups = optimizers.parameter_groups(learner, recipe.optimizer)
        if "optimizer" in self.config:
            engine, optimizer, _, _ = deepspeed.initialize(model=learner, model_parameters=groups, config=self.config)
        else:
            own = recipe.optimizer.build(groups)
            engine, optimizer, _, _ = deepspeed.initialize(model=learner, optimizer=own, config=self.config)
        self.engine = engine
        self.wrapped = engine
        self.optimizers = optimizers.Optimizers(optimizer)

    @property
    def stage(self) -> int:
        return int(self.engine.zero_optimization_stage())

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()  # the engine has its own

    def backward(self, loss: Tensor, last: bool) -> None:
        # The engine divides by its number of micro-batches itself; the loop has done it already.
        self.engine.backward(loss * self.recipe.train.accumulate if self.recipe.train.accumulate > 1 else loss)
        if not last:
            self.engine.step()  # counts micro-batches; moves nothing

    def step(self, rate_step: int, measure: bool) -> tuple[float, Tensor | None]:
        groups = self.optimizers.main.param_groups
        if not self.own_schedule:
            self.optimizers.set_rates(self.recipe.schedule, rate_step)
        rate = float(groups[0]["lr"])
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if measure else None
        return rate, None if norm is None else torch.as_tensor(float(norm))

    def state(self) -> dict[str, Any]:
        with self._gathered():
            return {
                "model": {name: value.detach().clone() for name, value in self.learner.model.state_dict().items()},
                "objectives": {
                    name: value.detach().clone() for name, value in self.learner.objectives.state_dict().items()
                },
            }

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing: the engine's own files hold the weights, too."""
        return

    def save_files(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder / FOLDER), tag=TAG, save_latest=False)

    def load_files(self, folder: Path, world_size: int) -> None:
        files = folder / FOLDER
        if not files.is_dir():
            raise ValueError(
                f"{folder} was saved under another strategy than deepspeed; resume with that one, or start a new "
                f"run from its weights: --model.weights {folder}/model.safetensors"
            )
        if world_size != self.world.size:
            raise ValueError(
                f"{folder} holds DeepSpeed's state of {world_size} workers, and here are {self.world.size}: take "
                f"{world_size}, or ddp or fsdp from the start, whose checkpoints fit any number"
            )
        self.engine.checkpoint_engine.load = _load_tensors
        path, _ = self.engine.load_checkpoint(str(files), tag=TAG)
        if path is None:
            raise ValueError(f"DeepSpeed finds no state of its own in {files}")

    @contextmanager
    def scored_model(self) -> Iterator[SegmentationModel]:
        """A whole copy in float32: the engine's own may be cut or narrowed."""
        config = self.recipe.model
        if self._scored is None:
            with torch.device("meta"):
                copy = build(config.name, config.num_classes, **config.options)
            self._scored = copy.to_empty(device=self.world.device).float()
        with self._gathered():
            self._scored.load_state_dict(self.learner.model.state_dict())
        yield self._scored

    def _gathered(self) -> AbstractContextManager[None]:
        if self.stage < 3:
            return nullcontext()
        from deepspeed import zero

        context: AbstractContextManager[None] = zero.GatheredParameters(list(self.learner.parameters()))
        return context


def _join_alone(world: World) -> None:
    """A group of one, which DeepSpeed needs; left to itself it looks for MPI."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _load_tensors(path: str, map_location: Any = None) -> Any:
    """In the place of DeepSpeed's own torch.load, which executes what a file says."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            foreign = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or "no tensors"
            raise ValueError(
                f"{path} is refused: it holds {foreign}, which DeepSpeed's state has no use for"
            ) from error


def configuration(recipe: Recipe, file: str | None, world: World) -> dict[str, Any]:
    """The file's, as it is, with the batch's cut filled in; or ZeRO 2 in the recipe's precision."""
    train, batch = recipe.train, recipe.data.batch_size
    own: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // (world.size * train.accumulate),
        "gradient_accumulation_steps": train.accumulate,
        "gradient_clipping": train.clip or 0.0,  # DeepSpeed clips to 1 where nothing is said
    }
    if file is None:
        return own | {
            "zero_optimization": {"stage": 2},
            "bf16": {"enabled": train.precision == "bf16"},
            "fp16": {"enabled": train.precision == "fp16"},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 1_000_000_000,
        }
    try:
        given = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"the DeepSpeed configuration {file} cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"the DeepSpeed configuration {file} is no JSON object")
    for key, value in own.items():
        if given.get(key, "auto") not in ("auto", value):
            raise ValueError(
                f"{file} says {key} = {given[key]}, the recipe with {world.size} workers {value}: the recipe decides "
                f'what a step trains on; set data.batch_size, train.accumulate and train.clip, or {key} to "auto"'
            )
    return {**given, **own}
