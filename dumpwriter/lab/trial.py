"""A writer of your own, tried with the faults of the laboratory. docs/own-writer.md shows how.

    write(disk, promise)    writes to the disk, and calls promise(something) as soon as that is safe
    check(disk, promised)   reads the disk, and raises an exception where it is not what it must be, or returns False

`write` runs over a disk in memory. It must ask for the same whenever it is told the same: no clock, no chance, no
threads. `check` gets a disk of its own, on which it may write, for every state that a fault can leave.

`promised` is what must be there, in order. A disk that does not keep its word can lose anything, so where a fault is
none that the writer must survive, nothing is promised: whatever `check` still finds must be right all the same, and
where sectors cannot be read it may end in their `DeviceError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState
from dumpwriter.lab.enumeration import cut_count, cuts, epochs, state_after
from dumpwriter.lab.fates import fates_of, in_flight_at_the_cut
from dumpwriter.lab.faults import Fault, FaultKind, draw_faults
from dumpwriter.lab.faulttext import describe_faults, parse_faults
from dumpwriter.lab.memo import Memo
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.recording import Recording
from dumpwriter.lab.shrinking import shrink
from dumpwriter.lab.telling import TOLD, Hung, telling
from vdisk.blockdevice import SECTOR_SIZE_BYTES, BlockDevice, Layer
from vdisk.errors import DeviceError, UsageError
from vdisk.layers.media_faults import MediaFaults
from vdisk.layers.passing_errors import PassingErrors
from vdisk.layers.trace import Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from typing_extensions import Buffer

    from dumpwriter.lab.enumeration import Cut
    from dumpwriter.lab.recording import Around
    from vdisk.layers.trace import Event

    Write = Callable[[BlockDevice, Callable[[object], None]], None]
    Check = Callable[[BlockDevice, tuple[object, ...]], object]

STATES_MAX = 1 << 20
RUNS_MAX = 1 << 8  # that are remembered, each with what it wrote
REQUESTS_MAX = 1 << 20  # of a run in which nothing fails
RETRIES_MAX = 64  # where something does, for each operation of that run
# What a disk may do that keeps its word. A write that is torn because it is in flight at a cut is always among it.
KEEPS_ITS_WORD = frozenset(
    {
        FaultKind.POWER_CUT,
        FaultKind.FAILED,
        FaultKind.SHORT_WRITE,
        FaultKind.FAILED_FLUSHES,
        FaultKind.GONE,
        FaultKind.HANGING,
    }
)


class Trial:
    """A writer and its reader over a disk of `size_bytes`, which holds `before` and zeros behind it.

    `budget` has the faults in spite of which promises are kept. Raises `UsageError` where there is nothing to try.
    """

    def __init__(
        self,
        write: Write,
        check: Check,
        size_bytes: int,
        before: bytes = b"",
        budget: Collection[FaultKind] = KEEPS_ITS_WORD,
    ) -> None:
        if size_bytes < 1 or size_bytes % SECTOR_SIZE_BYTES or len(before) > size_bytes:
            raise UsageError(
                f"size_bytes is {size_bytes}: give whole sectors of {SECTOR_SIZE_BYTES}, with room for before"
            )
        self._write = write
        self._check = check
        self._budget = budget
        self._before = before.ljust(size_bytes, b"\0")
        self._runs: Memo[_Run] = Memo(RUNS_MAX)
        self._requests_max = REQUESTS_MAX
        run = self._run_under(())
        if run.failure is not None:
            raise run.failure
        if not run.trace:
            raise UsageError("write() wrote nothing: let it write to the disk that it is given")
        if run != self._run(lambda disk: disk):
            raise UsageError("write() does something else when it runs again: take clock, chance and threads out of it")
        self._requests_max = RETRIES_MAX * (len(run.trace) + 1)
        self._recording = Recording(self._before, run.trace, lambda around: self._run(around).trace)
        self._passages = Passages(self._recording)

    def prove(self, states_max: int = STATES_MAX) -> int:
        """Check every state that a power cut can leave, with any of the writes in flight lost and one of them torn.

        Returns how many there are. Raises `AssertionError` for the first that is wrong, `UsageError` where there are
        too many.
        """
        parts = list(epochs(self._before, self._recording.trace))
        states = sum(map(cut_count, parts))
        if states > states_max:
            most = max(len(part.writes) for part in parts)
            raise UsageError(f"{most} writes in flight leave {states} states: flush more often, or run cases at random")
        ends = (*self._recording.flushes, len(self._recording.trace))
        for end, part in zip(ends, parts, strict=True):
            promised = self._promised([Fault(FaultKind.POWER_CUT, end)])
            for cut in cuts(part):
                if self._failure(state_after(part, cut), promised) is not None:
                    self._blame(tuple(_as_faults(end - len(part.writes), end, cut)))
        return states

    def run(self, seed: int, cases: int) -> None:
        """Check `cases` cases of one to three faults. Raises `AssertionError` for the first that is wrong.

        Raises `UsageError` where there is none.
        """
        if cases < 1:
            raise UsageError(f"run() with {cases} cases tries nothing: give it one at least")
        for number in range(cases):
            faults = draw_faults(Chance(CaseKey("trial", seed, number)), self._recording)
            if self._failure_under(faults) is not None:
                self._blame(faults)

    def replay(self, faults: str) -> None:
        """Check the case that an `AssertionError` named. Raises it again, or `UsageError` where it is no case."""
        try:
            parsed = parse_faults(faults, self._recording) if faults else ()
        except UsageError as reason:
            raise UsageError(f"{faults!r} is no case of this writer: {reason}") from None
        failure = self._failure_under(parsed)
        if failure is not None:
            raise AssertionError(self._story(parsed, failure)) from failure

    def _blame(self, faults: Sequence[Fault]) -> None:
        assert self._failure_under(faults) is not None, "a state and its faults are judged alike"
        self.replay(describe_faults(shrink(faults, lambda some: self._failure_under(some) is not None)))

    def _failure_under(self, faults: Sequence[Fault]) -> Exception | None:
        failure = self._run_under(faults).failure
        return failure or self._failure(self._passages.state_after(faults), self._promised(faults))

    def _failure(self, state: DiskState, promised: tuple[object, ...]) -> Exception | None:
        disk = MemoryDisk(state.size_bytes, DiskState(state.base, state.patches).read(0, state.size_bytes))
        try:
            answer = self._check(PassingErrors(MediaFaults(disk, lambda: state.bad_runs), state.passing_runs), promised)
        except DeviceError as failure:
            return failure if promised or not (state.bad_runs or state.passing_runs) else None
        except Exception as failure:
            return failure
        return _as_failure(answer)

    def _promised(self, faults: Sequence[Fault]) -> tuple[object, ...]:
        run = self._run_under(faults)
        in_flight = in_flight_at_the_cut(run.trace, faults)
        if not all(fault.kind in self._budget or _is_torn_by_the_cut(fault, in_flight) for fault in faults):
            return ()
        cut = [fault.operation for fault in faults if fault.kind == FaultKind.POWER_CUT]
        return run.promised_before(min(cut, default=len(run.trace)))

    def _run_under(self, faults: Sequence[Fault]) -> _Run:
        told = tuple(fault for fault in faults if fault.kind in TOLD)
        return self._runs.get(told, lambda: self._run(lambda disk: telling(disk, told)))

    def _run(self, around: Around) -> _Run:
        trace: list[Event] = []
        promises: list[tuple[int, object]] = []
        recorded = Trace(MemoryDisk(len(self._before), self._before), trace.append)
        disk = _ByWrites(around(recorded), self._requests_max)
        try:
            self._write(disk, lambda promised: promises.append((len(trace), promised)))
        except Exception as failure:
            is_told = isinstance(failure, DeviceError)  # and passed on: the writer has ended there
            return _Run(tuple(trace), tuple(promises), None if is_told else failure)
        except Hung:
            pass
        except _Endless as failure:
            return _Run(tuple(trace), tuple(promises), AssertionError(str(failure)))
        return _Run(tuple(trace), tuple(promises), None)

    def _story(self, faults: Sequence[Fault], failure: Exception) -> str:
        told = str(failure) if isinstance(failure, AssertionError) else f"{type(failure).__name__}: {failure}"
        fates = fates_of(self._run_under(faults).trace, faults)
        return "\n".join(
            [
                told or "check() failed",
                *(f"  {fault}" for fault in faults),
                *(f"  {fate}" for fate in fates),
                f"  promised: {', '.join(map(repr, self._promised(faults))) or 'nothing'}",
                f"again: .replay({describe_faults(faults)!r})",
            ]
        )


class _Run(NamedTuple):
    """What came to the disk, what was promised when so many operations had, and how the writer broke if it did."""

    trace: tuple[Event, ...]
    promises: tuple[tuple[int, object], ...]
    failure: Exception | None

    def promised_before(self, operation: int) -> tuple[object, ...]:
        return tuple(promised for done, promised in self.promises if done <= operation)


class _ByWrites(Layer):
    """A discard is as a write of zeros: it comes, is lost or is torn like one. A write of nothing is none."""

    def __init__(self, lower: BlockDevice, requests_max: int) -> None:
        super().__init__(lower)
        self._requests_left = requests_max

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        if memoryview(buffer).nbytes:
            self._count()
            self.lower.write_from(offset_bytes, buffer)

    write_through = BlockDevice.write_through

    def flush(self) -> None:
        self._count()
        self.lower.flush()

    def discard(self, offset_bytes: int, length_bytes: int) -> None:
        self.write_from(offset_bytes, bytes(length_bytes))

    def _count(self) -> None:
        if not self._requests_left:
            raise _Endless("write() tries again for ever: let it give up a disk that is gone")
        self._requests_left -= 1


class _Endless(BaseException):
    """Nothing may handle it and go on, least of all a writer that handles whatever its disk says."""


def _as_failure(answer: object) -> Exception | None:
    """What a check returns is easily taken for what it finds, so nothing that could be meant so is passed over."""
    if answer is False:
        return AssertionError("check() returned False")
    if answer is None or answer is True:
        return None
    raise UsageError(f"check() returned {answer!r}: let it raise an exception where the disk is wrong, or return False")


def _as_faults(first_write: int, end: int, cut: Cut) -> Iterator[Fault]:
    """A state of an epoch as what a replay takes: its writes stand one behind the other, and the cut behind them."""
    yield Fault(FaultKind.POWER_CUT, end, bits=cut.kept)
    if cut.torn is not None:
        torn_bytes = cut.torn_sectors * SECTOR_SIZE_BYTES
        yield Fault(FaultKind.TORN_WRITE, first_write + cut.torn, length_bytes=torn_bytes)


def _is_torn_by_the_cut(fault: Fault, in_flight: Collection[int]) -> bool:
    """Sectors themselves come whole or not at all."""
    return (
        fault.kind == FaultKind.TORN_WRITE
        and fault.operation in in_flight
        and fault.length_bytes % SECTOR_SIZE_BYTES == 0
    )
