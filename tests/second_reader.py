"""The independent reader of regions as a second judge of what the laboratory makes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from dumpwriter.formats.region import PAGE_SIZE_BYTES, PageRun
from dumpwriter.lab.diskstate import DiskState
from dumpwriter.lab.judging import VERSIONS_MAX, Reading
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.pieces import Pieces
from dumpwriter.verdict import Verdict
from tests.builders import region_reader

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dumpwriter.lab.world import World
    from vdisk.extent import Run

UNREADABLE = b"\xdb"  # no sector of a frame is full of it


class SecondReader:
    """Reads a slot once for each of its versions: the bytes are then the same, and the reader keeps nothing in mind."""

    name = "second reader"

    def __init__(self, world: World) -> None:
        self._memory = world.memory
        extents = tuple(region_reader.Extent(*extent) for extent in world.extents.extents)
        self._region = region_reader.Region(world.identity.dump_id, world.identity.generation, extents)
        ranges = map(region_reader.slot_range, range(region_reader.slot_count(self._region)))
        self._slots = [tuple(world.extents.runs(*place)) for place in ranges]
        self._pieces = Pieces(self._slots)
        self._believed: Memo[bytes | None] = Memo(VERSIONS_MAX)
        self._one_of_equal: dict[bytes, bytes] = {}
        self._frames: dict[bytes, region_reader.Frame | None] = {}  # by the slot; a true one has few contents

    def read(self, state: DiskState) -> Reading:
        versions = self._pieces.versions(state)
        slots = [self._slot(state, sequence, version) for sequence, version in enumerate(versions)]
        believed = {sequence: slot for sequence, slot in enumerate(slots) if slot is not None}
        frames = [self._frames[slot] for slot in believed.values()]
        frames += map(region_reader.frame_of, region_reader.rebuilt(believed, self._region))
        found = region_reader.assemble([frame for frame in frames if frame is not None], ())
        wrong_bytes = sum(self._wrong_bytes(page, content) for page, content in found.pages.items())
        return Reading(Verdict(found.verdict), runs_of(found.pages), None, wrong_bytes)

    def _slot(self, state: DiskState, sequence: int, version: Hashable) -> bytes | None:
        return self._believed.get((sequence, version), lambda: self._read_slot(state, sequence))

    def _read_slot(self, state: DiskState, sequence: int) -> bytes | None:
        """None where nothing in it is believed. Equal ones are one, so that they compare fast.

        What lies behind the frame is left away: it may be anything, and would make another slot of it for ever.
        """
        slot = b"".join(readable(state, run) for run in self._slots[sequence])
        if not region_reader.is_frame(slot, self._region, sequence):
            return None
        slot = region_reader.frame_bytes(slot)
        if slot not in self._frames:
            self._frames[slot] = region_reader.frame_of(slot)
        return self._one_of_equal.setdefault(slot, slot)

    def _wrong_bytes(self, page: int, content: bytes) -> int:
        expected = self._memory[page * PAGE_SIZE_BYTES : (page + 1) * PAGE_SIZE_BYTES]
        return 0 if content == expected else sum(map(int.__ne__, content, expected))


def readable(state: DiskState, run: Run) -> bytes:
    """What the disk gives; where it gives nothing, what no frame holds."""
    content = bytearray(DiskState(state.base, state.patches).read(*run))
    for bad in state.bad_within(run):
        start_bytes = max(0, bad.physical_bytes - run.physical_bytes)
        end_bytes = min(run.length_bytes, bad.physical_bytes + bad.length_bytes - run.physical_bytes)
        content[start_bytes:end_bytes] = UNREADABLE * (end_bytes - start_bytes)
    return bytes(content)


def runs_of(pages: dict[int, bytes]) -> tuple[PageRun, ...]:
    """Ascending numbers that follow each other lie at one distance from their rank."""
    groups = itertools.groupby(enumerate(sorted(pages)), key=lambda ranked: ranked[1] - ranked[0])
    runs = [[page for _, page in group] for _, group in groups]
    return tuple(PageRun(run[0], len(run)) for run in runs)
