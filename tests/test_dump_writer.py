"""The trio writer: the same dump as step by step, whatever the threads do, and an end even where the disk has none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio

from dumpwriter.crash.dump import Progress, bytes_to_write
from dumpwriter.crash.protection import REQUEST_FRAMES
from dumpwriter.crash.writer import COMMIT_SECONDS, STALL_SECONDS, WriterThreads, _Requests, write_dump
from dumpwriter.formats.region import DumpEnding, FrameKind
from dumpwriter.frames import page_count, slot_offset_bytes
from dumpwriter.recovery.scan import recover
from dumpwriter.verdict import Reason, Verdict
from tests.dumping import DumpBench, Pages
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Event, Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio.testing import MockClock
    from typing_extensions import Buffer

BUDGET_SECONDS = 5.0


@pytest.fixture
def threads() -> Iterator[WriterThreads]:
    made = WriterThreads(4)
    yield made
    made.close()


@pytest.mark.parametrize("parity_percent", [0, 12, 50])
async def test_threads_write_the_dump_that_one_thread_writes(threads: WriterThreads, parity_percent: int) -> None:
    by_threads, one_by_one = (DumpBench(3000, pieces=9, parity_percent=parity_percent) for _ in range(2))
    progress, reports = Progress(), []
    await write_dump(by_threads.job(), threads, progress, lambda: reports.append(progress.pages_written), lambda: 9)
    one_by_one.write()
    assert progress.is_committed
    assert by_threads.disk.content == one_by_one.disk.content
    assert reports[-1] == 3000


async def test_threads_can_write_one_dump_after_another(threads: WriterThreads) -> None:
    for pages in (10, 500, 64):
        progress = Progress()
        await write_dump(DumpBench(pages).job(), threads, progress, lambda: None, lambda: 9)
        assert (progress.is_committed, progress.pages_written) == (True, pages)


class Stuck(Layer):
    """From the `writes`-th write on, a request does not come back until it is let go."""

    def __init__(self, lower: BlockDevice, writes: int) -> None:
        super().__init__(lower)
        self.left = writes
        self.let_go = threading.Event()

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        self.left -= 1
        if self.left < 0:
            self.let_go.wait()
            raise DeviceError("let go")
        self.lower.write_from(offset_bytes, buffer)  # type: ignore[arg-type]


@pytest.mark.parametrize("writes", [0, 1, 3])
async def test_a_disk_that_answers_no_more_ends_the_dump(
    threads: WriterThreads, autojump_clock: MockClock, writes: int
) -> None:
    bench = DumpBench(3000, pieces=1)
    stuck = Stuck(bench.disk, writes)
    progress = Progress()
    started = trio.current_time()
    await write_dump(bench.job(lambda _: stuck), threads, progress, lambda: None, lambda: 9)
    assert STALL_SECONDS <= trio.current_time() - started < 10 * STALL_SECONDS
    assert not progress.is_committed
    assert "completed nothing" in progress.failure
    sink = Pages()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert findings.verdict in (Verdict.NONE, Verdict.PARTIAL)
    assert all(content == bench.page(number) for number, content in sink.pages.items())
    stuck.let_go.set()


class Held(Layer):
    """From the third write on, a request waits until it is let go; then it is carried out."""

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self.left = 3
        self.reached, self.let_go = threading.Event(), threading.Event()

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        self.left -= 1
        if self.left < 0:
            self.reached.set()
            self.let_go.wait()
        self.lower.write_from(offset_bytes, buffer)  # type: ignore[arg-type]


async def test_a_time_budget_that_ends_cuts_the_dump_and_closes_it(
    threads: WriterThreads, mock_clock: MockClock
) -> None:
    bench, progress = DumpBench(8000, pieces=1), Progress()
    held = Held(bench.disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            write_dump, bench.job(lambda _: held), threads, progress, lambda: None, lambda: 9, BUDGET_SECONDS
        )
        await trio.to_thread.run_sync(held.reached.wait)
        mock_clock.jump(BUDGET_SECONDS)
        while not progress.is_out_of_time:
            await trio.lowlevel.checkpoint()
        held.let_go.set()
    assert progress.is_committed
    sink = Pages()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    assert (findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.TIME_BUDGET)
    assert 0 < len(sink.pages) == progress.pages_written < 4000
    assert all(content == bench.page(number) for number, content in sink.pages.items())
    last = bench.job().plan.frames[-1]
    (place,) = bench.extents.runs(last.region_offset_bytes, 4096)
    assert bytes(bench.disk.content[place.physical_bytes :][:7]) == b"GHOSTFR"


def without_slots(bench: DumpBench, slots: Iterable[int]) -> Mapped:
    """The region as it is, with these slots blank."""
    content = MemoryDisk(bench.disk.size_bytes, bytes(bench.disk.content))
    region = Mapped(content, bench.extents)
    for slot in slots:
        region.write_from(slot_offset_bytes(slot), bytes(4096))
    return region


async def test_a_set_in_which_the_time_budget_ends_has_parity_of_what_was_written(
    threads: WriterThreads, mock_clock: MockClock
) -> None:
    """Whatever frame is then lost, also the last one of metadata, comes back."""
    bench, progress = DumpBench(8000, pieces=1, parity_percent=6), Progress()
    held = Held(bench.disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            write_dump, bench.job(lambda _: held), threads, progress, lambda: None, lambda: 9, BUDGET_SECONDS
        )
        await trio.to_thread.run_sync(held.reached.wait)
        mock_clock.jump(BUDGET_SECONDS)
        while not progress.is_out_of_time:
            await trio.lowlevel.checkpoint()
        held.let_go.set()
    assert progress.is_committed
    plan = bench.job().plan
    assert progress.frames_written < plan.sets[0].frame_count, "not even the first set was through"
    for slot in (0, 5, 7, plan.frames[-1].sequence):
        sink = Pages()
        findings = recover(without_slots(bench, [slot]), bench.identity, sink)
        assert (findings.frames_rebuilt, len(sink.pages)) == (1, progress.pages_written)
        assert (findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.TIME_BUDGET)
        assert all(content == bench.page(number) for number, content in sink.pages.items())


class StuckAtParity(Layer):
    """A write of parity does not come back until it is let go."""

    def __init__(self, lower: BlockDevice) -> None:
        super().__init__(lower)
        self.reached, self.let_go = threading.Event(), threading.Event()

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        if bytes(memoryview(buffer)[10:12]) == bytes([FrameKind.PARITY, 0]):
            self.reached.set()
            self.let_go.wait()
        self.lower.write_from(offset_bytes, buffer)


async def test_parity_of_what_was_cut_does_not_prolong_the_time_budget(
    threads: WriterThreads, mock_clock: MockClock
) -> None:
    bench, progress = DumpBench(8000, pieces=1, parity_percent=6), Progress()
    stuck = StuckAtParity(bench.disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_dump, bench.job(lambda _: stuck), threads, progress, lambda: None, lambda: 9, 0.0)
        await trio.to_thread.run_sync(stuck.reached.wait)
        mock_clock.jump(COMMIT_SECONDS)
    assert (progress.is_committed, progress.is_out_of_time) == (False, True)
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert findings.pages_present == progress.pages_written > 0
    stuck.let_go.set()


async def test_a_time_budget_that_is_over_at_once_leaves_the_most_valuable_pages(threads: WriterThreads) -> None:
    bench, progress = DumpBench(8000, pieces=1), Progress()
    await write_dump(bench.job(), threads, progress, lambda: None, lambda: 9, 0.0)
    assert progress.is_committed
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert (findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.TIME_BUDGET)
    first, last = bench.job().plan.frames[:REQUEST_FRAMES], bench.job().plan.frames[-1]
    assert findings.pages_present >= sum(page_count(frame.runs) for frame in (*first, last)) > 0


@pytest.mark.parametrize("pages", [1, 5 * 64, 9 * 64, 40 * 64])
@pytest.mark.parametrize("taken_before", [0, 1, 2])
def test_a_plan_that_is_cut_gives_its_first_request_and_its_last_frame(pages: int, taken_before: int) -> None:
    plan = DumpBench(pages).job().plan
    requests = _Requests(plan)
    taken = [requests.take() for _ in range(taken_before)]
    requests.cut()
    while frames := requests.take():
        taken.append(frames)
    sequences = [frame.sequence for frames in taken for frame in frames]
    whole = min(len(plan.frames), REQUEST_FRAMES * max(1, taken_before))
    assert sequences == sorted({*range(whole), len(plan.frames) - 1})


async def test_a_time_budget_that_is_long_enough_changes_nothing(threads: WriterThreads) -> None:
    bench, progress = DumpBench(3000), Progress()
    await write_dump(bench.job(), threads, progress, lambda: None, lambda: 9, 60.0)
    assert (progress.is_committed, progress.is_out_of_time, progress.pages_written) == (True, False, 3000)
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert (findings.verdict, findings.header and findings.header.ending) == (Verdict.COMPLETE, DumpEnding.THROUGH)


async def test_a_disk_that_stalls_does_not_prolong_the_time_budget(
    threads: WriterThreads, autojump_clock: MockClock
) -> None:
    bench, progress = DumpBench(8000, pieces=1), Progress()
    stuck = Stuck(bench.disk, 3)
    started = trio.current_time()
    await write_dump(bench.job(lambda _: stuck), threads, progress, lambda: None, lambda: 9, BUDGET_SECONDS)
    assert trio.current_time() - started <= BUDGET_SECONDS + COMMIT_SECONDS + 1
    assert (progress.is_committed, progress.is_out_of_time) == (False, True)
    stuck.let_go.set()


class NoFlush(Layer):
    """A disk that cannot flush."""

    def flush(self) -> None:
        raise DeviceError("flush failed")

    def write_through(self, offset_bytes: int, buffer: object) -> None:
        raise DeviceError("flush failed")


async def test_what_cannot_be_flushed_is_not_committed(threads: WriterThreads) -> None:
    progress = Progress()
    await write_dump(DumpBench(100).job(NoFlush), threads, progress, lambda: None, lambda: 9)
    assert not progress.is_committed
    assert progress.failure == "flush failed"


@pytest.mark.parametrize("blobs", [{}, {"small": b"x"}, {"big": bytes(range(256)) * 3000, "small": b"x"}])
@pytest.mark.parametrize("pages", [1, 300, 1500])
@pytest.mark.parametrize("parity_percent", [0, 50])
def test_what_a_dump_will_write_is_known_to_the_byte(pages: int, blobs: dict[str, bytes], parity_percent: int) -> None:
    bench = DumpBench(pages, pieces=1, blobs=blobs, parity_percent=parity_percent)
    events: list[Event] = []
    bench.write(lambda disk: Trace(disk, events.append))
    assert bytes_to_write(bench.job()) == sum(event.length_bytes for event in events)
