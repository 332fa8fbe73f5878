"""What a data set was, for the record of a run: enough to notice that it has become another one."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dgseg.data import Dataset, Target
from dgseg.data.dataset import CorruptFile
from dgseg.training.recipe import DataConfig

LOOKED_AT = 16  # samples whose content counts; of the others their ids do


def dataset_identity(spec: str, dataset: Dataset) -> dict[str, Any]:
    """`digest` is over all ids and the content of a few samples spread over the set: images of a million files are not
    read at every start."""
    count = len(dataset)
    digest = hashlib.blake2b(digest_size=16)
    for index in range(count):
        digest.update(dataset.id(index).encode() + b"\n")
    for index in sorted({number * count // LOOKED_AT for number in range(LOOKED_AT)}) if count else []:
        try:
            sample = dataset[index]
        except CorruptFile as error:  # the loader names and replaces it, and says when there are too many
            digest.update(error.message.encode())
            continue
        digest.update(sample.image.numpy().tobytes())
        if sample.label is not None:
            digest.update(sample.label.numpy().tobytes())
    return {
        "spec": spec,
        "name": dataset.name,
        "domain": dataset.domain,
        "samples": count,
        "digest": digest.hexdigest(),
    }


def identities(
    data: DataConfig, sources: Sequence[Dataset], target: Target | None, scored: Mapping[str, Sequence[Dataset]]
) -> dict[str, dict[str, Any]]:
    """Of all data sets of a run, by role and index: source0, test2. scored: those of validation and test."""
    roles = {"source": (data.sources, sources)}
    roles |= {"validation": (data.validation, scored["validation"]), "test": (data.test, scored["test"])}
    named = {
        f"{role}{index}": each
        for role, (specs, datasets) in roles.items()
        for index, each in enumerate(zip(specs, datasets, strict=True))
    }
    if data.target is not None and target is not None:
        named["target"] = data.target.source, target.dataset
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders and renderers let go of the interpreter
        return dict(zip(named, pool.map(lambda each: dataset_identity(*each), named.values()), strict=True))
