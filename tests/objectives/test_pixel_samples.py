"""What is compared, against lists and sorting."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.objectives.pixel_samples import class_samples, confusions
from dgseg.ops.prototype_ema.order import pixel_keys


def chosen_by_hand(keys, class_keys, labels, wrong, most, samples):
    """{class: pixels} of one image, in lists."""
    holders = {c: [p for p, label in enumerate(labels) if label == c] for c in range(len(class_keys))}
    enough = sorted((c for c, pixels in holders.items() if len(pixels) > samples), key=lambda c: class_keys[c])
    found = {}
    for c in enough[:most]:
        by_key = sorted(holders[c], key=lambda p: keys[p])
        hard, easy = [p for p in by_key if wrong[p]], [p for p in by_key if not wrong[p]]
        wanted_hard = samples // 2
        if len(hard) < wanted_hard:
            wanted_hard = len(hard)
        elif len(easy) < samples - wanted_hard:
            wanted_hard = samples - len(easy)
        found[c] = hard[:wanted_hard] + easy[: samples - wanted_hard]
    return found


def confused_by_hand(keys, labels, predicted, allowed, classes, most, negatives):
    """Anchors, {anchor: pixels} of one image."""
    by_key = sorted(range(len(labels)), key=lambda p: keys[p])
    of_class = {c: [p for p in by_key if labels[p] == c] for c in range(classes)}
    anchors = [
        p for p in by_key if labels[p] < classes and allowed[p] and predicted[p] != labels[p] and of_class[predicted[p]]
    ]
    return {p: of_class[predicted[p]][:negatives] for p in anchors[:most]}


@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_choices_are_those_of_the_definition(seed, h, w, classes, few, samples):
    g = torch.Generator().manual_seed(seed)
    N, P = 2, h * w
    labels = torch.randint(0, classes + 1, (N, P), generator=g)
    labels[labels == classes] = 255
    predicted = torch.randint(0, classes, (N, P), generator=g)
    wrong, allowed = (torch.rand(2, N, P, generator=g) < 0.6).unbind()
    draws = torch.tensor([seed % 1000, 5])
    keys, class_keys = pixel_keys(draws, 3, 4, h, w), pixel_keys(draws, 3, 4, 1, classes)
    picked = class_samples(keys, class_keys, labels, wrong, few, samples)
    confused = confusions(keys, labels, predicted, allowed, classes, few, samples)
    for n in range(N):
        expected = chosen_by_hand(
            keys[n].tolist(), class_keys[n].tolist(), labels[n].tolist(), wrong[n].tolist(), few, samples
        )
        at = picked.valid[n]
        pairs = zip(picked.classes[n][at].tolist(), picked.pixels[n][at].tolist(), strict=True)
        assert list(pairs) == [(c, p) for c, pixels in expected.items() for p in pixels]

        wanted = confused_by_hand(
            keys[n].tolist(), labels[n].tolist(), predicted[n].tolist(), allowed[n].tolist(), classes, few, samples
        )
        at = confused.valid[n]
        assert confused.anchors[n][at].tolist() == list(wanted)
        for anchor, mistaken in zip(
            confused.anchors[n][at].tolist(), confused.mistaken_for[n][at].tolist(), strict=True
        ):
            own = (confused.negative_classes == mistaken) & confused.negatives_valid[n]
            assert confused.negatives[n][own].tolist() == wanted[anchor]


def test_each_image_chooses_for_itself_and_every_step_anew():
    labels = torch.randint(0, 3, (3, 400), generator=torch.Generator().manual_seed(0))

    def pixels(draws, step):
        keys, class_keys = pixel_keys(draws, 1, step, 20, 20), pixel_keys(draws, 1, step, 1, 3)
        chosen = labels[: len(draws)] if len(draws) == 3 else labels[1:2]
        return class_samples(keys, class_keys, chosen, chosen > 5, 15, 50).pixels

    whole, alone = pixels(torch.tensor([7, 8, 9]), 0), pixels(torch.tensor([8]), 0)
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(pixels(torch.tensor([8]), 1), alone)
    assert not torch.equal(pixels(torch.tensor([6]), 0), alone)
