"""The datasets by name, and the one syntax in which every command names one.

gta5=/data/gta5                         the provider's folder, its default split
cityscapes=/data/cityscapes@val         a split
acdc=/data/acdc@val,condition=fog       options after commas
streets=fog@test,size=256x512           the embedded world: a domain instead of a folder; sizes are height x width
packed=/data/packed/gta5                what dgseg data pack wrote"""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.names import check_local

# name -> module:class, imported when it is asked for.
DATASETS = {
    "gta5": "dgseg.data.datasets.gta5:GTA5",
    "synthia": "dgseg.data.datasets.synthia:Synthia",
    "cityscapes": "dgseg.data.datasets.cityscapes:Cityscapes",
    "bdd100k": "dgseg.data.datasets.bdd100k:BDD100K",
    "mapillary": "dgseg.data.datasets.mapillary:Mapillary",
    "acdc": "dgseg.data.datasets.acdc:ACDC",
    "dark_zurich": "dgseg.data.datasets.dark_zurich:DarkZurich",
    "generated": "dgseg.data.datasets.generated:Generated",
    "road_anomaly": "dgseg.data.datasets.anomaly:RoadAnomaly",
    "smiyc_ra21": "dgseg.data.datasets.anomaly:RoadAnomaly21",
    "smiyc_ro21": "dgseg.data.datasets.anomaly:RoadObstacle21",
    "acdc_poc": "dgseg.data.datasets.acdc_poc:ACDCPOC",
    "muad": "dgseg.data.datasets.muad:MUAD",
    "folder": "dgseg.data.datasets.folder:Folder",
    "streets": "dgseg.data.streets:Streets",
    "streets_pairs": "dgseg.data.streets:StreetsPairs",
    "pairs": "dgseg.data.datasets.pairs:Pairs",
    "packed": "dgseg.data.pack:Packed",
}


def dataset_class(name: str) -> type[Dataset]:
    known = name.lower().replace("-", "_")
    if known not in DATASETS:
        near = get_close_matches(known, DATASETS, 3, 0.4)
        raise DataError(
            f"there is no dataset {name!r}; did you mean {' or '.join(near) if near else ', '.join(DATASETS)}?"
        )
    module, _, attribute = DATASETS[known].partition(":")
    found: type[Dataset] = getattr(import_module(module), attribute)
    return found


def open_dataset(name: str, root: Path | str | None, split: str | None = None, **options: Any) -> Dataset:
    """`root` is None for streets, which takes `domain` instead. Options may be text, as in a specification."""
    kind = dataset_class(name)
    accepted = _options(kind)
    if split is not None:
        options["split"] = split
    for option, value in options.items():
        if option not in accepted:
            near = get_close_matches(option, accepted, 1)
            hint = f"did you mean {near[0]}?" if near else f"its options: {', '.join(sorted(accepted))}"
            raise DataError(f"{name} has no option {option!r}; {hint}")
        if isinstance(value, str):
            options[option] = _value(name, option, value, accepted[option])
    if "root" not in accepted:
        if root is not None:
            raise DataError(f"{name} has no files; leave the folder {root} out")
        return kind(**options)
    if root is None:
        raise DataError(f"{name} needs the folder that its files lie in: {name}=PATH")
    return kind(root, **options)  # type: ignore[call-arg]


def from_spec(text: str, **options: Any) -> Dataset:
    """`name=path[@split][,option=value …]`; `options` are added to those of the specification."""
    spec = parse_spec(text)
    check_local(spec.path, f"{spec.name}=")
    if "root" not in _options(dataset_class(spec.name)):
        if "domain" in spec.options:
            raise DataError(f"{text!r} names two domains; leave domain= out")
        return open_dataset(spec.name, None, spec.split, **{"domain": spec.path, **spec.options, **options})
    return open_dataset(spec.name, spec.path, spec.split, **{**spec.options, **options})


@dataclass(frozen=True)
class Spec:
    name: str
    path: str
    split: str | None
    options: dict[str, str]


def parse_spec(text: str) -> Spec:
    form = (
        "write name=path[@split][,option=value], as in cityscapes=/data/cityscapes@val; a folder with a comma in its "
        "name needs a link without one"
    )
    name, found, rest = text.partition("=")
    if "://" in rest:  # an @ and commas there are no split and no options
        return Spec(name, rest, None, {})
    where, *pairs = rest.split(",")
    if not found or not name or not where:
        hint = f"a folder of your own is folder={text}" if Path(text).is_dir() else form
        raise DataError(f"{text!r} names no dataset; {hint}")
    path, marked, split = where.rpartition("@")
    if not marked or "/" in split:  # an @ in a folder's name
        path, split = where, ""
    elif not path or not split:
        raise DataError(f"{text!r}: on the two sides of @ stand a folder and a split; {form}")
    options: dict[str, str] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals or not option or not value:
            raise DataError(f"{text!r}: {pair!r} is no option=value; {form}")
        if option in options:
            raise DataError(f"{text!r} gives {option} twice; leave one out")
        if option in ("root", "split"):
            raise DataError(f"{text!r}: {option} stands before the options; {form}")
        options[option] = value
    return Spec(name, path, split or None, options)


def _options(kind: type[Dataset]) -> dict[str, set[Any]]:
    """The parameters of its constructor, and of those that its **options go on to, each with the types it takes."""
    types: dict[str, set[Any]] = {}
    for owner in kind.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is None:
            continue
        hints = get_type_hints(constructor)
        parameters = inspect.signature(constructor).parameters.values()
        for parameter in parameters:
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "self":
                hint = hints.get(parameter.name, str)
                types.setdefault(parameter.name, {get_origin(each) or each for each in _alternatives(hint)})
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return types


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """str | None -> str and None; tuple[int, int] -> itself."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _value(name: str, option: str, text: str, types: set[Any]) -> Any:
    try:
        if bool in types:
            wanted = "true or false"
            return {"true": True, "false": False}[text]
        if tuple in types:
            wanted = "HEIGHTxWIDTH, such as 256x512"
            height, width = text.split("x")
            return int(height), int(width)
        if int in types:
            wanted = "a whole number"
            return int(text)
        if float in types:
            wanted = "a number"
            return float(text)
    except (KeyError, ValueError) as error:
        raise DataError(f"{name}: {option}={text} is not {wanted}") from error
    return text
