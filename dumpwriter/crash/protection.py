"""Which slots the frames of a dump take, and which frames a parity frame covers. Pure.

    set      frames of so many requests, then its parity frames, one for each of its groups
    group    of a slot in a set, of data and of parity alike: its position in the set, modulo the number of groups

So slots that follow each other are of different groups, within a set, from its frames to its parity, and from one set
to the next. A run of 1 MiB touches five slots at the most, and so no group twice. A dump that is too small for eight
groups has fewer: what it needs for parity stays in proportion. Memory of 16 MiB is often a dump of less, for pages of
zeros take no room; so all that write 6 MiB and more have groups enough for such a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST_FRAMES = 8  # one request to the disk: 2 MiB is where a large aligned write reaches full speed
GROUPS_MAX = 8
GROUP_FRAMES_MIN = 8  # in a dump that has fewer groups than that
MEBIBYTE_GROUPS = 5  # which a run of 1 MiB needs
MEBIBYTE_FRAMES_MIN = 24  # 6 MiB: from here on parity that takes a fifth more is worth it
NO_PARITY = 0  # percent
PARITY_PERCENT_MAX = 100
DEFAULT_PARITY_PERCENT = 6  # a frame for each sixteen or so: docs/DESIGN.md has what it costs


class ParitySet(NamedTuple):
    """Frames in slots that follow each other, and behind them a parity frame for each group."""

    number: int
    first_slot: int
    frame_count: int
    groups: int

    @property
    def frame_slots(self) -> range:
        return range(self.first_slot, self.first_slot + self.frame_count)

    @property
    def parity_slots(self) -> range:
        return range(self.frame_slots.stop, self.frame_slots.stop + self.groups)

    @property
    def request_count(self) -> int:
        return -(-self.frame_count // REQUEST_FRAMES)

    def group_of(self, slot: int) -> int:
        return (slot - self.first_slot) % self.groups


def parity_sets(frame_count: int, slot_count: int, parity_percent: int) -> tuple[ParitySet, ...]:
    """Of so many frames, as many sets as there are slots for, from the first on: those frames are worth the most.

    Every set begins with a request. A rest too small to fill each group goes to the set before it.
    """
    groups = _group_count(frame_count)
    room = max(0, slot_count - frame_count) // groups
    sets: list[ParitySet] = []
    for count in _frame_counts(frame_count, groups, parity_percent):
        if len(sets) < room:
            first_slot = sets[-1].parity_slots.stop if sets else 0
            sets.append(ParitySet(len(sets), first_slot, count, groups))
    return tuple(sets)


def _group_count(frame_count: int) -> int:
    groups_min = MEBIBYTE_GROUPS if frame_count >= MEBIBYTE_FRAMES_MIN else 1
    return min(GROUPS_MAX, max(groups_min, frame_count // GROUP_FRAMES_MIN))


def parity_slot_count(frame_count: int, parity_percent: int) -> int:
    """How many slots the parity of so many frames takes."""
    return sum(one.groups for one in parity_sets(frame_count, 2 * frame_count + GROUPS_MAX, parity_percent))


def slots_of(frame_count: int, sets: tuple[ParitySet, ...]) -> Iterator[int]:
    """The slot of each frame in turn: those of the sets, and behind them the rest."""
    for one in sets:
        yield from one.frame_slots
    behind = sets[-1].parity_slots.stop if sets else 0
    covered = sum(one.frame_count for one in sets)
    yield from range(behind, behind + frame_count - covered)


def _frame_counts(frame_count: int, groups: int, parity_percent: int) -> Iterator[int]:
    if parity_percent == NO_PARITY:
        return
    full = REQUEST_FRAMES * -(-100 // parity_percent)
    while frame_count >= full + groups:
        yield full
        frame_count -= full
    yield frame_count
