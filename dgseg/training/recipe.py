"""What a run is, completely: a Recipe says everything that decides the weights it ends with.

Where it runs (workers, devices, folders) is no part of it: see run.py. `dgseg.recipes` holds one function per published
system; the command line, the sweeps and the saved YAML all use the fields' dotted names: `objective.ube.alpha`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dgseg.data.augment.presets import HRDA, BlindNet, DAFormer, RealTime, Streets
from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.objectives import Objective
from dgseg.training.optimizers import AdamWConfig, OptimizerConfig, SGDConfig
from dgseg.training.schedule import ScheduleConfig

__all__ = [
    "AdamWConfig",
    "Augmentation",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "SGDConfig",
    "SamplerConfig",
    "ScheduleConfig",
    "TargetConfig",
    "TrainConfig",
]

Augmentation = Streets | DAFormer | HRDA | BlindNet | RealTime


@dataclass(frozen=True)
class TargetConfig:
    """The domain to adapt to: its images, never its labels."""

    source: str
    """what dgseg data show takes: cityscapes=/data/cityscapes@train, streets=fog@train,use=adaptation"""
    augment: Augmentation
    batch_size: int | None = None
    """images per step, over all workers; None: as many as of the sources"""


@dataclass(frozen=True)
class DataConfig:
    sources: tuple[str, ...]
    """what is trained on: name=path[@split][,option=value] each"""
    augment: Augmentation
    batch_size: int
    """images per optimiser step, over all workers"""
    shares: tuple[float, ...] | None = None
    """of the sources in every batch; None: by their sizes"""
    loaders: int = 2
    """processes per worker that decode and augment; 0: the worker itself, in as many threads as torch has"""
    target: TargetConfig | None = None
    validation: tuple[str, ...] = ()
    """scored during the run: decides which checkpoint is the best. No target may stand here"""
    test: tuple[str, ...] = ()
    """scored once, at the end"""
    protocol: str = "native"
    """how images are shown when they are scored; see dgseg evaluate --help"""
    test_batch: int = 4
    """images at once when scoring"""

    @property
    def target_batch(self) -> int:
        """Images of the target per step, where there is one."""
        given = None if self.target is None else self.target.batch_size
        return self.batch_size if given is None else given


@dataclass(frozen=True)
class SamplerConfig:
    kind: Literal["uniform", "rare_class", "class_uniform"] = "uniform"
    """every image once per epoch; rare classes first (RCS); or half of the draws by class, every class alike"""
    temperature: float = 0.01
    """of rare_class: softmax((1 - frequency) / temperature)"""
    min_pixels: int = 3000
    """of a class that an image must have to count as holding it"""
    share: float = 0.5
    """of class_uniform's draws that begin with a class"""
    hardness: HardnessConfig | None = None
    """draws by loss, more and more of them (HAS)"""


@dataclass(frozen=True)
class ModelConfig:
    name: str
    """as dgseg profile lists them"""
    num_classes: int = 19
    pretrained: bool | str = False
    """the backbone's published weights, or a file with them"""
    weights: str | None = None
    """a file with the whole model's weights to start from: own or published"""
    strict: bool = True
    """every key of `weights` must fit"""
    options: dict[str, Any] = field(default_factory=dict)
    """what the architecture takes: drop_path, align_corners, …"""
    trainable: tuple[str, ...] = ()
    """patterns of parameter names that are trained (backbone.layer4.*); none: all"""


@dataclass(frozen=True)
class TrainConfig:
    precision: Literal["float32", "bf16", "fp16", "float64"] = "float32"
    """bf16 and fp16 are autocast over float32 weights; float64 is for proofs"""
    accumulate: int = 1
    """micro-batches that a step's images are cut into, to save memory"""
    clip: float | None = None
    """largest norm of the gradient of all parameters"""
    ema: float | None = None
    """decay of averaged weights, which are then the ones that are scored and kept"""
    compile: bool = False
    """torch.compile the model"""
    checkpoint_stages: bool = False
    """keep only the activations between stages, and compute the others twice"""
    channels_last: bool = True
    sync_batch_norm: bool = True
    """statistics over the global batch, so that the number of workers changes nothing"""
    deterministic: bool = False
    """torch.use_deterministic_algorithms; costs speed on a GPU"""
    evaluate_every: int | None = None
    """steps between two scorings of data.validation; None: at the end alone"""
    save_every: int = 500
    """steps between two checkpoints"""

    def __post_init__(self) -> None:
        for name in ("accumulate", "save_every", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name} is {value}; it must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"train.clip is {self.clip}, and nothing would be learned; None clips nothing")

    def next_pause(self, step: int) -> int:
        """The first step after this one that is followed by a score or a checkpoint."""
        return min((step // every + 1) * every for every in (self.evaluate_every, self.save_every) if every)


@dataclass(frozen=True)
class Recipe:
    name: str
    data: DataConfig
    model: ModelConfig
    objective: Mapping[str, Objective.Config]
    """the losses by name; a method is the objectives that are there"""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    sampler: SamplerConfig = SamplerConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.objective:
            if not name.isidentifier():
                raise ValueError(f"objective {name!r} has a name that no flag could have: take letters, digits and _")
