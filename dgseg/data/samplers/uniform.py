"""Every sample once per epoch, in an order of its own for every epoch."""

from dgseg.data.sample import Draw
from dgseg.data.samplers.base import SourceSampler
from dgseg.data.samplers.permutation import permuted


class Uniform(SourceSampler):
    def __init__(self, size: int, *, batch_size: int, seed: int, source: int = 0) -> None:
        super().__init__(size, batch_size, seed, source)

    def draw(self, number: int) -> Draw:
        epoch, position = divmod(number, self.size)
        return Draw(number, self.source, permuted(position, self.size, self.seed, self.source, epoch))
