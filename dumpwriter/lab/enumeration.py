"""Every state that one power cut can leave, with at most one write torn.

The fault model: what a flush has covered is on the disk. Of the writes since, each is there or is not, whatever became
of the others; and one of those that are there may have come only so many sectors far. A cut earlier between two flushes
leaves nothing that a cut just before the second cannot leave: its writes are among those that are not there. So the
states are counted by epochs, the stretches between flushes:

    an epoch of n writes of s1 … sn sectors has 2^n + (s1 - 1 + … + sn - 1) · 2^(n-1) states

the first term for the subsets, the second for each place where each write can tear, beside every subset of the others.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.diskstate import DiskState, Patch
from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vdisk.layers.trace import Event


class Epoch(NamedTuple):
    """The writes between two flushes, and the disk as the first of these left it."""

    base: bytes
    writes: tuple[Event, ...]


class Cut(NamedTuple):
    """Which of an epoch's writes are on the disk, as bits; the torn one, if any, is so many sectors long."""

    kept: int
    torn: int | None = None
    torn_sectors: int = 0


def epochs(before: bytes, trace: Sequence[Event]) -> Iterator[Epoch]:
    """The last one, behind the last flush, may be empty: its one state is the disk when all went well."""
    content = bytearray(before)
    writes: list[Event] = []
    for event in trace:
        if event.kind == "write":
            writes.append(event)
        elif event.kind == "discard":
            writes.append(_as_write(event))
        else:
            yield Epoch(bytes(content), tuple(writes))
            for write in writes:
                content[write.offset_bytes : write.offset_bytes + write.length_bytes] = write.content
            writes = []
    yield Epoch(bytes(content), tuple(writes))


def _as_write(discard: Event) -> Event:
    """What is discarded reads as zeros in the end; until the flush it may be there still, or in part."""
    return discard._replace(kind="write", content=bytes(discard.length_bytes))


def expected_count(epoch: Epoch) -> int:
    """How many states there are: each cut leaves another one, since no two writes of the epoch overlap."""
    for first, second in itertools.pairwise(sorted(epoch.writes, key=lambda write: write.offset_bytes)):
        assert first.offset_bytes + first.length_bytes <= second.offset_bytes, "two writes in flight overlap"
    return cut_count(epoch)


def cut_count(epoch: Epoch) -> int:
    """The closed form."""
    subsets = 1 << len(epoch.writes)
    tears = sum(sectors(write) - 1 for write in epoch.writes)
    return subsets + tears * subsets // 2


def cuts(epoch: Epoch) -> Iterator[Cut]:
    """All of them, by walking through them: first those without a tear."""
    subsets = range(1 << len(epoch.writes))
    yield from map(Cut, subsets)
    for torn, write in enumerate(epoch.writes):
        for kept in subsets:
            if kept >> torn & 1:
                yield from (Cut(kept, torn, length) for length in range(1, sectors(write)))


def state_after(epoch: Epoch, cut: Cut) -> DiskState:
    patches = []
    for number, write in enumerate(epoch.writes):
        if cut.kept >> number & 1:
            end_bytes = cut.torn_sectors * SECTOR_SIZE_BYTES if number == cut.torn else write.length_bytes
            patches.append(Patch(write.offset_bytes, write.content, 0, end_bytes))
    return DiskState(epoch.base, patches)


def sectors(write: Event) -> int:
    """How many sectors a write has."""
    return write.length_bytes // SECTOR_SIZE_BYTES
