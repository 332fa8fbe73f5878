"""A keyed permutation of [0, size) that stores nothing: an epoch's order without shuffling a list of millions.

A Feistel network over pairs (position // width, position % width) with addition modulo each side's length, walked
until it lands below `size` (Black and Rogaway 2002); the pairs are at most a row more than `size`.
"""

from math import isqrt

ROUNDS = 8
MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """64 bits, each of which depends on every bit of `value` (the finaliser of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def permuted(position: int, size: int, *key: int) -> int:
    """Where `position` goes in the order that `key` names."""
    assert 0 <= position < size
    hashed = 0
    for part in key:
        hashed = mixed(hashed ^ part)
    width = isqrt(size - 1) + 1
    height = -(-size // width)
    while True:
        row, column = divmod(position, width)
        for turn in range(0, ROUNDS, 2):
            row = (row + mixed(hashed ^ (turn << 56) ^ column)) % height
            column = (column + mixed(hashed ^ ((turn + 1) << 56) ^ row)) % width
        position = row * width + column
        if position < size:
            return position
