"""Any dataset, rewritten once into a form that trains fast: at the training resolution, read at random, decoded by
parts, checked as it is read. README.md has the measurements behind the choices.

layout   what lies where in the folder        shard    one file of records
codec    pixels to bytes and back             writer   pack(): resumable, in several processes
packed   Packed: the dataset that reads it
"""

from dgseg.data.pack.packed import Packed
from dgseg.data.pack.shard import Settings
from dgseg.data.pack.writer import pack

__all__ = ["Packed", "Settings", "pack"]
