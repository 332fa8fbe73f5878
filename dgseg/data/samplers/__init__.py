"""Which samples the next global batch holds.

base         what a sampler is, and how its batches are cut for ranks
uniform      every sample once per epoch
rare_class   rare classes first (DAFormer's RCS)
class_uniform  every class alike (BlindNet)
mixture      several sources with fixed shares
hardness     by loss (HAS), over any of the others
"""

from dgseg.data.samplers.base import Sampler, SourceSampler, StatelessSampler, rank_slice
from dgseg.data.samplers.class_uniform import ClassUniform
from dgseg.data.samplers.hardness import Hardness, HardnessConfig
from dgseg.data.samplers.mixture import Mixture
from dgseg.data.samplers.rare_class import RareClass
from dgseg.data.samplers.uniform import Uniform

__all__ = [
    "ClassUniform",
    "Hardness",
    "HardnessConfig",
    "Mixture",
    "RareClass",
    "Sampler",
    "SourceSampler",
    "StatelessSampler",
    "Uniform",
    "rank_slice",
]
