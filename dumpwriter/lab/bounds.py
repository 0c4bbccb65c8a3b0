"""A bound on the states of an epoch, where they are too many to walk through them all.

An epoch of up to `exhaustive` states has all of them. Of a larger one, with n writes of s1 … sn sectors in flight:

    n + 1                   the first so many writes are there, and no other: the disk keeps their order
    n - 1                   one is lost, and it is not the last: that would be the first n - 1
    n - 1                   one alone is there, and it is not the first
    min(s1 - 1, tears) + …  all are there, one of them only so many sectors far, from one to all but one, evenly apart
    random                  any are there, every second time one of them only a part

For n up to 3 the first three rows are all 2^n subsets; one that is in two rows counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.enumeration import Cut, Epoch, cut_count, cuts, sectors

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bounds(NamedTuple):
    """`tears` is of each write, `random` of each epoch."""

    exhaustive: int
    tears: int
    random: int


def bounded_count(epoch: Epoch, bounds: Bounds) -> int:
    """The closed form."""
    if cut_count(epoch) <= bounds.exhaustive:
        return cut_count(epoch)
    writes = len(epoch.writes)
    subsets = min(1 << writes, max(1, 3 * writes - 1))
    return subsets + sum(min(sectors(write) - 1, bounds.tears) for write in epoch.writes) + bounds.random


def bounded_cuts(epoch: Epoch, bounds: Bounds, key: CaseKey) -> Iterator[Cut]:
    """What is drawn at random follows from the key. Only that may come twice."""
    if cut_count(epoch) <= bounds.exhaustive:
        yield from cuts(epoch)
        return
    yield from map(Cut, dict.fromkeys(_subsets(len(epoch.writes))))
    yield from _tears(epoch, bounds.tears)
    chance = Chance(key)
    for _ in range(bounds.random):
        yield _draw(chance, epoch)


def _subsets(writes: int) -> Iterator[int]:
    everything = (1 << writes) - 1
    yield from ((1 << count) - 1 for count in range(writes + 1))
    yield from (everything & ~(1 << lost) for lost in range(writes))
    yield from (1 << alone for alone in range(writes))


def _tears(epoch: Epoch, tears: int) -> Iterator[Cut]:
    everything = (1 << len(epoch.writes)) - 1
    for torn, write in enumerate(epoch.writes):
        for length in _evenly(sectors(write) - 1, tears):
            yield Cut(everything, torn, length)


def _evenly(last: int, count: int) -> Iterator[int]:
    """`count` of 1 to `last`, both of them included where there is room for two."""
    if last <= count:
        yield from range(1, last + 1)
    elif count == 1:
        yield last
    else:
        yield from (1 + (last - 1) * number // (count - 1) for number in range(count))


def _draw(chance: Chance, epoch: Epoch) -> Cut:
    kept = chance.below(1 << len(epoch.writes))
    large = [n for n, write in enumerate(epoch.writes) if kept >> n & 1 and sectors(write) > 1]
    if not large or chance.below(2):
        return Cut(kept)
    torn = large[chance.below(len(large))]
    return Cut(kept, torn, 1 + chance.below(sectors(epoch.writes[torn]) - 1))
