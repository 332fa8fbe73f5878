"""What a data set was, for the record of a run: enough to notice that it has become another one."""

import hashlib
from typing import Any

from dgseg.data import Dataset
from dgseg.data.dataset import CorruptFile

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
