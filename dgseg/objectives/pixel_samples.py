"""Which pixels the contrastive losses compare: a few of every class, a few that the model gets wrong.

The choice is a function of the keys, hence of (seed, step, draw, pixel) alone: never of the rank, nor of the rest of
the batch. Its sizes are fixed beforehand, with places that stay empty, so that nothing waits for the device.

N images, P pixels, C classes, K chosen classes, S samples of each, A anchors, J negatives of each class.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LAST = torch.iinfo(torch.int64).max


class ClassSamples(NamedTuple):
    pixels: Tensor  # int64 [N, K·S]
    classes: Tensor  # int64 [N, K·S]
    valid: Tensor  # bool [N, K·S]: False for an empty place


class Confusions(NamedTuple):
    anchors: Tensor  # int64 [N, A], pixels
    mistaken_for: Tensor  # int64 [N, A], classes
    valid: Tensor  # bool [N, A]
    negatives: Tensor  # int64 [N, C·J], pixels: J of every class
    negative_classes: Tensor  # int64 [C·J]
    negatives_valid: Tensor  # bool [N, C·J]


class Grouped(NamedTuple):
    order: Tensor  # int64 [N, P]: pixels, those of a group side by side in the order of their keys
    starts: Tensor  # int64 [N, groups]: where in `order` a group begins
    counts: Tensor  # int64 [N, groups]


def grouped(keys_NP: Tensor, groups_NP: Tensor, groups: int) -> Grouped:
    """A pixel of group `groups` is in none. One sort by (group, key): the group takes the key's highest bits."""
    shift = 63 - groups.bit_length()
    merged, order = ((groups_NP << shift) | (keys_NP >> (63 - shift))).sort(dim=1, stable=True)
    firsts = torch.arange(groups + 1, device=keys_NP.device) << shift
    edges = torch.searchsorted(merged, firsts.repeat(len(merged), 1))
    return Grouped(order, edges[:, :-1], edges.diff(dim=1))


def class_samples(
    keys_NP: Tensor, class_keys_NC: Tensor, labels_NP: Tensor, wrong_NP: Tensor, most: int, samples: int
) -> ClassSamples:
    """`samples` pixels of each of at most `most` classes that have more: half of them wrongly predicted ones, or as
    near to that as the class allows. Labels outside 0 to C - 1 are void."""
    (N, P), C = keys_NP.shape, class_keys_NC.shape[1]
    K = min(most, C, P // (samples + 1))  # more classes cannot have that many pixels
    labels_NP = labels_NP.long()
    groups = torch.where((labels_NP >= 0) & (labels_NP < C), labels_NP * 2 + wrong_NP, 2 * C)
    order, starts, counts = grouped(keys_NP, groups, 2 * C)
    enough = counts.view(N, C, 2).sum(2) > samples
    chosen = torch.where(enough, class_keys_NC, LAST).argsort(dim=1, stable=True)[:, :K]
    easy, hard = 2 * chosen, 2 * chosen + 1
    hard_kept = torch.minimum(counts.gather(1, hard), (samples - counts.gather(1, easy)).clamp(min=samples // 2))
    place = torch.arange(samples, device=keys_NP.device)
    position = torch.where(
        place < hard_kept[..., None],
        starts.gather(1, hard)[..., None] + place,
        starts.gather(1, easy)[..., None] + place - hard_kept[..., None],
    )
    pixels = order.gather(1, position.flatten(1).clamp(0, P - 1))  # outside only where the class is not enough
    return ClassSamples(
        pixels, chosen.repeat_interleave(samples, 1), enough.gather(1, chosen).repeat_interleave(samples, 1)
    )


def confusions(
    keys_NP: Tensor,
    labels_NP: Tensor,
    predicted_NP: Tensor,
    allowed_NP: Tensor,
    classes: int,
    most: int,
    negatives: int,
) -> Confusions:
    """At most `most` allowed pixels that are predicted as another class which the image holds, too, and at most
    `negatives` pixels of every class."""
    P = keys_NP.shape[1]
    A, J = min(most, P), min(negatives, P)
    labels_NP = labels_NP.long()
    valid = (labels_NP >= 0) & (labels_NP < classes)
    order, starts, counts = grouped(keys_NP, torch.where(valid, labels_NP, classes), classes)
    mistaken = valid & allowed_NP & (predicted_NP != labels_NP) & (counts.gather(1, predicted_NP) > 0)
    anchors = torch.where(mistaken, keys_NP, LAST).topk(A, 1, largest=False).indices
    place = torch.arange(J, device=keys_NP.device)
    position = (starts[..., None] + place).flatten(1).clamp(max=P - 1)
    return Confusions(
        anchors,
        predicted_NP.gather(1, anchors),
        mistaken.gather(1, anchors),
        order.gather(1, position),
        torch.arange(classes, device=keys_NP.device).repeat_interleave(J),
        (place < counts[..., None]).flatten(1),
    )
