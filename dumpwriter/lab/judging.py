"""The judgement on recovery: what it makes of a disk, against what the disk holds.

What must come out is decided without any check sum: a frame is to be believed where every byte of it is on the disk as
the dump wrote it, to its own slot or to a spare one, and can be read, or where such a parity frame gives it back, and
nowhere else. From the frames that
are whole follow the pages, and from these the verdict. A reader is anything that makes pages of a disk: the product's
recovery is one, and whoever has another one, sharing no code with it, lets it judge the same states.

Only what was compared is remembered here, by what decides the bytes; recovery runs whole in every state. `remembering`
is the same recovery for millions of states, and argues why it finds the same.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dumpwriter.formats.region import PAGE_SIZE_BYTES, FrameKind, PageRun
from dumpwriter.lab.lostframes import Holding, LaterSlots, rebuilt
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.pieces import Pieces
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.recovery.scan import recover
from dumpwriter.verdict import Verdict
from vdisk.errors import DeviceError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dumpwriter.lab.diskstate import DiskState
    from dumpwriter.lab.lostframes import Found
    from dumpwriter.lab.world import PlacedFrame, World
    from dumpwriter.recovery.scan import Findings

VERSIONS_MAX = 1 << 11  # that are remembered: many have bytes that no other has


class Reading(NamedTuple):
    """What a reader found. Runs are ascending, disjoint and joined; `missing` is None where it does not name pages."""

    verdict: Verdict
    present: tuple[PageRun, ...]
    missing: tuple[PageRun, ...] | None
    wrong_bytes: int

    def is_as(self, expected: Reading) -> bool:
        missing = expected.missing if self.missing is None else self.missing
        return self._replace(missing=missing) == expected


class Reader(Protocol):
    """Reads disks of one world."""

    name: str

    def read(self, state: DiskState) -> Reading: ...


class Expectation:
    """What must come out of a state of a world's disk."""

    def __init__(self, world: World) -> None:
        self._frames = world.frames
        self._later = LaterSlots(world, VERSIONS_MAX)
        self._pieces = Pieces(world.places)
        self._memory = PageRun(0, world.scenario.pages)
        self._is_whole: Memo[bool] = Memo(VERSIONS_MAX)
        self._readings: Memo[Reading] = Memo(VERSIONS_MAX)

    def of(self, state: DiskState) -> Reading:
        """A state is compared only where it differs from those before it; equal versions are equal bytes."""
        versions = self._pieces.versions(state)
        whole = tuple(map(functools.partial(self._holds, state), self._frames, versions))
        behind = enumerate(versions[len(self._frames) :])
        later = tuple(self._later.found(state, number, version) for number, version in behind)
        return self._readings.get((whole, later), lambda: self._reading(whole, later))

    def _holds(self, state: DiskState, frame: PlacedFrame, version: Hashable) -> bool:
        return self._is_whole.get((frame.plan.sequence, version), lambda: is_whole(state, frame))

    def _reading(self, whole: tuple[bool, ...], later: tuple[Found, ...]) -> Reading:
        own = [frame.plan.sequence for frame, holds in zip(self._frames, whole, strict=True) if holds]
        holdings = frozenset(Holding(slot, slot) for slot in own).union(*(found.holdings for found in later))
        holdings |= rebuilt([found.covers for found in later], holdings)
        planned = {holding.planned for holding in holdings}
        plans = [frame.plan for frame in self._frames if frame.plan.sequence in planned]
        pages = PageSet.of(run for plan in plans for run in plan.runs)
        missing = tuple(pages.missing_from([self._memory])) if plans else ()  # without a frame, no size of memory
        present = pages.runs()
        if not present:
            return Reading(Verdict.NONE, present, missing, 0)
        is_complete = not missing and any(plan.kind == FrameKind.META for plan in plans)
        return Reading(Verdict.COMPLETE if is_complete else Verdict.PARTIAL, present, missing, 0)


def is_whole(state: DiskState, frame: PlacedFrame) -> bool:
    """Whether the disk holds every byte of a frame, and gives it."""
    start_bytes = 0
    for run in frame.runs:
        end_bytes = start_bytes + run.length_bytes
        try:
            if state.read(*run) != frame.content[start_bytes:end_bytes]:
                return False
        except DeviceError:
            return False
        start_bytes = end_bytes
    return start_bytes == len(frame.content)


class Recovery:
    """The product's recovery, as it reads any region; every page that it gives is compared with memory."""

    name = "recovery"

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self, state: DiskState) -> Reading:
        comparison = Comparison(self._world.memory)
        region = Mapped(state.to_one_reader(), self._world.extents)
        return found(recover(region, self._world.identity, comparison), comparison)


def found(findings: Findings, comparison: Comparison) -> Reading:
    return Reading(findings.verdict, findings.present, findings.judgement.missing, comparison.wrong_bytes)


class Comparison:
    """A sink that counts the bytes in which pages differ from the memory that went in."""

    def __init__(self, memory: bytes) -> None:
        self._memory = memory
        self.wrong_bytes = 0

    def data(self, first_page: int, content: memoryview) -> None:
        start_bytes = first_page * PAGE_SIZE_BYTES
        given, expected = (
            bytes(content),
            self._memory[start_bytes : start_bytes + content.nbytes],
        )  # views compare slowly
        if given != expected:
            self.wrong_bytes += len(given) - sum(map(operator.eq, given, expected))

    def zeros(self, run: PageRun) -> None:
        for page in range(run.first_page, run.first_page + run.page_count):
            self.data(page, memoryview(bytes(PAGE_SIZE_BYTES)))
