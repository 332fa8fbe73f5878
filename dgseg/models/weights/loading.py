"""Finding out what a checkpoint is, and putting it into a model."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
from dgseg.models.weights.format import Format, State
from dgseg.models.weights.reading import WeightsError, bare, read

# Modules of this package; each has a list FORMATS.
FORMAT_MODULES = ("torchvision", "adaptsegnet", "robustnet", "mit", "resnet_v1c")
OWN = "own keys"
log = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """Keys by what became of them: the model's own names where it has one, the file's names otherwise."""

    format: str
    loaded: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)  # "key from key": the file lacks the first, a copy of the second
    reshaped: list[str] = field(default_factory=list)  # loaded too: a 1x1 convolution for a linear layer, or back
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "key: file's shape -> model's shape"
    ignored: list[str] = field(default_factory=list)  # of no use to this model, by the format's definition

    def __str__(self) -> str:
        parts = [f"{len(keys)} {name}" for name, keys in vars(self).items() if name != "format"]
        return f"{self.format}: {', '.join(parts)}"


class _Reading(NamedTuple):
    """One way to understand a file."""

    format: str
    state: State
    ignored: list[str]


def formats() -> list[Format]:
    modules = [import_module(f"dgseg.models.weights.{name}") for name in FORMAT_MODULES]
    return [each for module in modules for each in module.FORMATS]


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = True) -> LoadReport:
    """Put a file's weights into a model, which may still be on the meta device.

    strict: every key of the model must be found, every key of the file used, every shape fit. Without it what does not
    fit is left as it is and listed in the report. Parameters that begin as copies of others (an uncertainty head, of
    the classifier) and are not in the file begin so here too, and the report says it: `derived`.
    """
    path = Path(path)
    state, metadata = read(path)
    own = model.state_dict()
    # The reading that fits best; among equals the one that leaves least over.
    best = max(_readings(state, model), key=lambda r: (len(own.keys() & r.state.keys()), -len(r.state)))
    if 2 * len(own.keys() & best.state.keys()) < len(best.state):
        raise WeightsError(_stranger(model, path, state, metadata))

    report = LoadReport(best.format, ignored=best.ignored)
    fitting = dict(_fit(best.state, own, report))
    copies = {key: of for key, of in _copies(model).items() if key not in best.state and of in fitting}
    fitting |= {key: fitting[of].clone() for key, of in copies.items()}
    report.derived = [f"{key} from {of}" for key, of in copies.items()]
    if copies:
        log.info("%s does not hold, and begins as a copy: %s", path, ", ".join(report.derived))
    # Files older than the counter lack it; batch norms with a momentum never read it.
    report.missing = [
        key for key in own if key not in best.state and key not in copies and not key.endswith("num_batches_tracked")
    ]
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise WeightsError(_complaint(model, path, best, report, metadata))
    on_meta = any(tensor.is_meta for tensor in own.values())
    model.load_state_dict(fitting, strict=False, assign=on_meta)
    return report


def _copies(model: nn.Module) -> dict[str, str]:
    return model.derived() if isinstance(model, SegmentationModel) else {}


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """The weights as safetensors, with the name and options that `build` makes the model from; written aside and
    renamed into place."""
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors; {path.name} is another kind of file")
    # Tied weights are written twice: safetensors takes no shared memory.
    seen: set[int] = set()
    state = {}
    for key, tensor in model.state_dict().items():
        cpu = tensor.detach().cpu().contiguous()
        state[key] = cpu.clone() if cpu.data_ptr() in seen else cpu
        seen.add(cpu.data_ptr())
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    metadata = {
        "format": "pt",
        "architecture": getattr(model, "architecture", ""),
        "options": json.dumps(_writable(getattr(model, "options", {}))),
    }
    save_file(state, aside, metadata=metadata)
    os.chmod(aside, 0o644)  # safetensors' files are their owner's alone
    aside.replace(path)


def _writable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only code can say, such as a trunk of one's own sizes: who loads them must say it."""

    def is_plain(value: Any) -> bool:
        try:
            json.dumps(value)
        except TypeError:
            return False
        return True

    return {name: value for name, value in options.items() if is_plain(value)}


def _readings(state: State, model: nn.Module) -> Iterator[_Reading]:
    yield _Reading(OWN, state, [])
    stripped, copies = bare(state)
    yield _Reading(OWN, stripped, copies)
    for each in formats():
        if each.recognises(set(stripped)):
            kept = {key: tensor for key, tensor in stripped.items() if not key.startswith(each.ignores or "\0")}
            dropped = [key for key in stripped if key not in kept]
            yield _Reading(each.name, each.translate(kept, model), copies + dropped)


def _fit(state: State, own: State, report: LoadReport) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in state.items():
        if key not in own:
            report.unexpected.append(key)
            continue
        mine = own[key]
        if tensor.shape != mine.shape:
            if not _same_but_for_ones(tensor, mine):
                report.mismatched.append(f"{key}: {list(tensor.shape)} -> {list(mine.shape)}")
                continue
            tensor = tensor.reshape(mine.shape)
            report.reshaped.append(key)
        report.loaded.append(key)
        yield key, tensor.to(mine.dtype)


def _same_but_for_ones(a: Tensor, b: Tensor) -> bool:
    """[O, I] beside [O, I, 1, 1]."""
    shorter, longer = sorted((list(a.shape), list(b.shape)), key=len)
    return longer[: len(shorter)] == shorter and all(size == 1 for size in longer[len(shorter) :])


def _complaint(model: nn.Module, path: Path, reading: _Reading, report: LoadReport, metadata: dict[str, str]) -> str:
    lines = [f"{path} ({report.format}) does not fit the model: {report}"]
    kinds = {"missing": report.missing, "unexpected": report.unexpected, "mismatched": report.mismatched}
    lines += [f"  {name}: {_some(keys)}" for name, keys in kinds.items() if keys]
    if any(key.startswith("uncertainty.") for key in report.unexpected):
        lines.append("  it holds a learned uncertainty head: build the model with uncertainty=True")
    if not (report.missing or report.unexpected) and len(report.mismatched) < len(report.loaded):
        lines.append("  another number of classes? build the model with the checkpoint's num_classes")
    else:
        own = getattr(model, "architecture", "")
        # A published format is named in the first line already.
        looks = metadata.get("architecture") or (_nearest_model(reading.state) if reading.format == OWN else None)
        if looks and own and looks != own:
            lines.append(f"  it looks like {looks}, and the model is {own}")
    return "\n".join([*lines, "  strict=False loads what fits and leaves the rest as it is"])


def _some(keys: Iterable[str], most: int = 8) -> str:
    keys = list(keys)
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _stranger(model: nn.Module, path: Path, state: State, metadata: dict[str, str]) -> str:
    wanted = getattr(model, "architecture", "") or type(model).__name__
    looks = looks_like(bare(state)[0], metadata) or f"none that is known; it holds {_some(state)}"
    return f"{path} is no checkpoint of {wanted}: it looks like {looks}"


def looks_like(state: State, metadata: dict[str, str]) -> str | None:
    """The architecture or the format that bare keys are of, for error messages."""
    if architecture := metadata.get("architecture"):
        return architecture
    return next((f.name for f in formats() if f.recognises(set(state))), None) or _nearest_model(state)


def _nearest_model(state: State) -> str | None:
    """By names and shapes. Only for an error message, so it may build every model, without memory, to compare."""
    from dgseg.models.build import MODELS, build

    entries = {(key, tensor.shape) for key, tensor in state.items()}
    shares: dict[str, float] = {}
    for name in MODELS:
        try:
            with torch.device("meta"):
                own = {(key, tensor.shape) for key, tensor in build(name).state_dict().items()}
        except ImportError:  # of a library that this machine lacks
            continue
        shares[name] = len(own & entries) / len(own | entries)
    best = max(shares, key=shares.__getitem__, default=None)
    return best if best and shares[best] > 0.5 else None
