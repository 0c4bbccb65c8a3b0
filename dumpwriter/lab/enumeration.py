"""Every state that one power cut can leave, with at most one write torn.

The fault model: what a flush has covered is on the disk. Of the writes since, each is there or is not, whatever became
of the others; and one of those that are there may have come only so many sectors far. A cut earlier between two flushes
leaves nothing that a cut just before the second cannot leave: its writes are among those that are not there. So the
states are counted by epochs, the stretches between flushes:

    an epoch of n writes of s1 … sn sectors has 2^n + (s1 - 1 + … + sn - 1) · 2^(n-1) states

the first term for the subsets, the second for each place where each write can tear, beside every subset of the others.

Not every state is another disk, for a sector may be written with what it holds. Of the writes that change the disk at
all, let there be m, and let them change c1 … cm of their sectors. A tear shows by how many of these are in front of it:

    the epoch leaves 2^m + (c1 - 1 + … + cm - 1) · 2^(m-1) disks

One of them is the disk that the epoch found, which the epoch before left when all of its writes came. It counts once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.diskstate import DiskState, Patch
from vdisk.blockdevice import SECTOR_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
    """How many states there are: as many as cuts, since no two writes of the epoch overlap."""
    for first, second in itertools.pairwise(sorted(epoch.writes, key=lambda write: write.offset_bytes)):
        assert first.offset_bytes + first.length_bytes <= second.offset_bytes, "two writes in flight overlap"
    return cut_count(epoch)


def cut_count(epoch: Epoch) -> int:
    """The closed form."""
    return _subsets_and_tears([sectors(write) for write in epoch.writes])


def disk_count(epoch: Epoch) -> int:
    """How many disks with different bytes the epoch leaves, that which it found among them."""
    return _subsets_and_tears([changed for write in epoch.writes if (changed := changed_sectors(epoch, write))])


def distinct_count(parts: Iterable[Epoch]) -> int:
    """How many disks with different bytes the epochs of a trace leave.

    Where a sector gets back what it held in an epoch before, a disk may be counted twice. No dump writes like that.
    """
    return 1 + sum(disk_count(epoch) - 1 for epoch in parts)


def changed_sectors(epoch: Epoch, write: Event) -> int:
    """How many sectors of the disk have other bytes behind a write than before its epoch."""
    starts = range(0, write.length_bytes, SECTOR_SIZE_BYTES)
    found = epoch.base[write.offset_bytes : write.offset_bytes + write.length_bytes]
    return sum(
        found[start : start + SECTOR_SIZE_BYTES] != write.content[start : start + SECTOR_SIZE_BYTES] for start in starts
    )


def _subsets_and_tears(sector_counts: Sequence[int]) -> int:
    subsets = 1 << len(sector_counts)
    tears = sum(count - 1 for count in sector_counts)
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
