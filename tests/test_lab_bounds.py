"""The bound on an epoch's states: counted by its closed form, each of the stated kind, and all where it can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.lab.bounds import Bounds, bounded_count, bounded_cuts
from dumpwriter.lab.chance import CaseKey
from dumpwriter.lab.enumeration import Cut, Epoch, cut_count, cuts
from vdisk.layers.trace import Event

SECTOR = 512
KEY = CaseKey("bounds", 0, 0)

epochs = st.lists(st.integers(1, 9), max_size=6).map(
    lambda lengths: Epoch(b"", tuple(Event("write", 0, length * SECTOR, b"") for length in lengths))
)
numbers = st.integers(0, 5)


@given(epochs, numbers, numbers)
def test_the_count_is_that_of_the_closed_form(epoch: Epoch, tears: int, random: int) -> None:
    bounds = Bounds(0, tears, random)
    found = list(bounded_cuts(epoch, bounds, KEY))
    assert len(found) == bounded_count(epoch, bounds)
    chosen = found[: len(found) - random]
    assert len(set(chosen)) == len(chosen), "only what is drawn may come twice"
    assert set(found) <= set(cuts(epoch))


@given(epochs)
def test_a_small_epoch_has_all_of_them(epoch: Epoch) -> None:
    bounds = Bounds(cut_count(epoch), 0, 0)
    assert list(bounded_cuts(epoch, bounds, KEY)) == list(cuts(epoch))


def test_a_large_one_has_each_kind() -> None:
    epoch = Epoch(b"", tuple(Event("write", 0, 8 * SECTOR, b"") for _ in range(4)))
    found = list(bounded_cuts(epoch, Bounds(0, 3, 0), KEY))
    prefixes, lost, alone = [0, 1, 3, 7, 15], [0b1110, 0b1101, 0b1011], [2, 4, 8]
    assert found[:11] == [Cut(kept) for kept in (*prefixes, *lost, *alone)]
    assert found[11:14] == [Cut(15, 0, length) for length in (1, 4, 7)]
    assert len(found) == 11 + 4 * 3
