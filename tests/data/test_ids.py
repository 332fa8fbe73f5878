"""Raw ids become what their table says, and an id that it does not name is an error wherever it hides."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dgseg.data.ids import CITYSCAPES_LABEL_IDS, TRAIN_IDS, Ids
from dgseg.data.labels import CITYSCAPES_TO_TRAIN

tables = st.dictionaries(st.integers(0, 255), st.sampled_from([*range(19), 254, 255]), min_size=1)
maps = arrays.arrays(np.uint8, st.tuples(st.integers(0, 6), st.integers(0, 6)))


@given(table=tables, raw=maps, wide=st.booleans(), colours=st.booleans())
def test_convert_is_the_table_or_an_error(
    table: dict[int, int], raw: npt.NDArray[np.uint8], wide: bool, colours: bool
) -> None:
    ids = Ids.of(table, colours=colours)
    held = raw.astype(np.uint32 if colours else np.uint16) if wide or colours else raw
    strangers = sorted(set(raw.flatten().tolist()) - set(table))
    if strangers:
        name = f"#{strangers[0]:06x}" if colours else str(strangers[0])
        with pytest.raises(ValueError, match=rf"labels hold {name}\b"):
            ids.convert(held)
    else:
        assert ids.convert(held).tolist() == [[table[value] for value in row] for row in raw.tolist()]


@given(table=tables, raw=maps, rest=st.sampled_from([0, 255]))
def test_the_rest_becomes_what_was_asked(table: dict[int, int], raw: npt.NDArray[np.uint8], rest: int) -> None:
    expected = [[table.get(value, rest) for value in row] for row in raw.tolist()]
    assert Ids.of(table, rest=rest).convert(raw).tolist() == expected
    assert Ids.of(table, rest=rest, colours=True).convert(raw.astype(np.uint32)).tolist() == expected


def test_ids_beyond_8_bits_are_strangers() -> None:
    with pytest.raises(ValueError, match="labels hold 263, 65535; valid: 0–18, 254–255"):
        TRAIN_IDS.convert(np.array([[263, 0xFFFF, 0]], np.uint16))


def test_cityscapes_ids_are_the_shared_table() -> None:
    raw = np.arange(34, dtype=np.uint8)[None]
    assert CITYSCAPES_LABEL_IDS.convert(raw).tolist() == CITYSCAPES_TO_TRAIN[raw].tolist()
