"""One case looked at closely: what was asked, what became of it, what is left, and what each reader makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.fates import Fate, fates_of
from dumpwriter.lab.judging import Expectation, Reader, Reading, is_whole
from dumpwriter.lab.lostframes import is_one_left_out
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.proof import digest_of_trace
from dumpwriter.lab.world import recording_of
from dumpwriter.recovery.pageset import PageSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dumpwriter.lab.faults import Fault
    from dumpwriter.lab.world import PlacedFrame, World
    from dumpwriter.verdict import Verdict


class Difference(NamedTuple):
    """How what a reader found differs from what must come out; its pages by whether any lacks, or is too many."""

    expected: Verdict
    found: Verdict
    has_wrong_bytes: bool
    lacks_pages: bool
    has_pages_too_many: bool


class Failure(NamedTuple):
    """What a case ends in that does not hold: of two that are equal, one is taken for a simpler way to the other.

    `differences` has one for each reader.
    """

    differences: tuple[Difference, ...]
    leaves_region: bool
    leaves_one_out: bool


class Replay(NamedTuple):
    """`frames` are those that must be believed and those that must not; `strays` writes that leave the region.

    `is_one_left_out` says that the writer gave a frame up while there was a slot to spare for it, or did not cover one.
    """

    faults: tuple[Fault, ...]
    fates: tuple[Fate, ...]
    frames: tuple[tuple[PlacedFrame, bool], ...]
    expected: Reading
    found: tuple[tuple[str, Reading], ...]
    strays: tuple[int, ...]
    is_one_left_out: bool
    trace_digest: str

    @property
    def holds(self) -> bool:
        is_written = not self.strays and not self.is_one_left_out
        return is_written and all(reading.is_as(self.expected) for _, reading in self.found)

    @property
    def failure(self) -> Failure | None:
        """None where it holds."""
        if self.holds:
            return None
        differences = tuple(_difference(self.expected, reading) for _, reading in self.found)
        return Failure(differences, bool(self.strays), self.is_one_left_out)


def _difference(expected: Reading, found: Reading) -> Difference:
    wanted, given = (PageSet.of(reading.present) for reading in (expected, found))
    return Difference(
        expected.verdict,
        found.verdict,
        has_wrong_bytes=found.wrong_bytes > 0,
        lacks_pages=any(given.missing_from(expected.present)),
        has_pages_too_many=any(wanted.missing_from(found.present)),
    )


class Laboratory:
    """A world and those who read it, for one case after the other."""

    def __init__(self, world: World, readers: Sequence[Reader]) -> None:
        self.world = world
        self._readers = readers
        self._passages = Passages(recording_of(world))
        self._expectation = Expectation(world)

    def replay(self, faults: Sequence[Fault]) -> Replay:
        trace, state = self._passages.trace_under(faults), self._passages.state_after(faults)
        return Replay(
            faults=tuple(faults),
            fates=tuple(fates_of(trace, faults)),
            frames=tuple((frame, is_whole(state, frame)) for frame in self.world.frames),
            expected=self._expectation.of(state),
            found=tuple((reader.name, reader.read(state)) for reader in self._readers),
            strays=self._passages.strays_under(faults),
            is_one_left_out=bool(self.world.spares) and is_one_left_out(self.world, faults, trace),
            trace_digest=digest_of_trace(trace),
        )
