"""The writer: fixed threads carry requests through, trio stands over them.

The threads live from arming on, each with its buffer; at the crash nothing is allocated for them. They take requests
in the order of value and complete in any order. trio keeps the progress, the time budget and the stall watch: a disk
that answers nothing for `STALL_SECONDS` ends the dump where it is, with what was written. When the time budget is over
no request is taken any more, but for the first one; what is under way, the parity of what was written and the end of
the dump get `COMMIT_SECONDS`, and then it ends as well.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from typing import TYPE_CHECKING

import trio

from dumpwriter.crash import dump
from dumpwriter.crash.protection import REQUEST_FRAMES
from vdisk.imagefile import aligned_buffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.crash.dump import DumpJob, Progress
    from dumpwriter.crash.plan import DumpPlan
    from dumpwriter.frames import FramePlan

STALL_SECONDS = 30.0
COMMIT_SECONDS = 2.0
REPORT_SECONDS = 0.05
THREAD_STACK_SIZE_BYTES = 256 << 10


class WriterThreads:
    """Long-lived threads that each own a request buffer and run what they are given."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._bodies: queue.SimpleQueue[Callable[[memoryview], None] | None] = queue.SimpleQueue()
        previous = threading.stack_size(THREAD_STACK_SIZE_BYTES)
        for _ in range(count):
            threading.Thread(target=self._live, args=(_touched_buffer(),), daemon=True).start()
        threading.stack_size(previous)

    async def run(self, body: Callable[[memoryview], None]) -> None:
        """Run `body` as often as there are threads, on those that are idle, with their buffers; return when it is done.

        The first exception of a body is raised. On cancellation the threads are left to themselves.
        """
        token = trio.lowlevel.current_trio_token()
        finished = trio.Event()
        failures: list[BaseException] = []
        left = [self.count]

        def one_is_through(failure: BaseException | None) -> None:
            if failure is not None:
                failures.append(failure)
            left[0] -= 1
            if not left[0]:
                finished.set()

        def guarded(buffer: memoryview) -> None:
            outcome: BaseException | None = None
            try:
                body(buffer)
            except BaseException as failure:
                outcome = failure
            with contextlib.suppress(trio.RunFinishedError):  # nobody waits any more: the disk stalled for too long
                token.run_sync_soon(one_is_through, outcome)

        for _ in range(self.count):
            self._bodies.put(guarded)
        await finished.wait()
        if failures:
            raise failures[0]

    async def run_on_each(self, body: Callable[[memoryview], None]) -> None:
        """The same for threads that are all idle, and none of them twice: a quick one does not take another's turn."""
        together = threading.Barrier(self.count)

        def once(buffer: memoryview) -> None:
            together.wait()
            body(buffer)

        await self.run(once)

    async def run_one(self, body: Callable[[], None]) -> None:
        """Run one blocking step on one of the threads."""
        turn = threading.Lock()

        def first_only(_: memoryview) -> None:
            if turn.acquire(blocking=False):
                body()

        await self.run(first_only)

    def close(self) -> None:
        """Let threads that are idle end."""
        for _ in range(self.count):
            self._bodies.put(None)

    def _live(self, buffer: memoryview) -> None:
        while (body := self._bodies.get()) is not None:
            body(buffer)


async def write_dump(
    job: DumpJob,
    threads: WriterThreads,
    progress: Progress,
    report: Callable[[], None],
    now_ns: Callable[[], int],
    time_budget_seconds: float = math.inf,
) -> None:
    """Write and commit a dump; `progress.is_committed` tells whether it came to that.

    Where the disk stalls it returns without, and the threads are lost: the caller must end the process.
    """
    requests = _Requests(job.plan)

    def take_requests(buffer: memoryview) -> None:
        while not progress.is_stopped and (frames := requests.take()):
            dump.write_request(job, frames, buffer, progress)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_stalled, nursery.cancel_scope, progress, report)
        nursery.start_soon(_cut_when_over, nursery.cancel_scope, progress, requests, time_budget_seconds)
        await threads.run_one(lambda: dump.begin(job, progress))
        await threads.run(take_requests)
        await threads.run(lambda buffer: dump.finish_sets(job, buffer, progress))
        await threads.run_one(lambda: dump.end(job, progress, now_ns()))
        nursery.cancel_scope.cancel()
    report()


class _Requests:
    """What is left of a plan, for threads to take from."""

    def __init__(self, plan: DumpPlan) -> None:
        self._frames = plan.frames
        self._taken = 0
        self._cut_at: int | None = None
        self._turn = threading.Lock()

    def take(self) -> tuple[FramePlan, ...]:
        """The next request; empty where there is none."""
        with self._turn:
            if self._taken == self._cut_at:
                self._taken = max(self._taken, len(self._frames) - 1)
            frames = self._frames[self._taken : self._taken + REQUEST_FRAMES]
            self._taken += len(frames)
            return frames

    def cut(self) -> bool:
        """Give up what is left, but for the metadata in the last frame; False where nothing else was left.

        The first request is never given up: it holds what is worth the most, and a dump without it is worth nothing.
        """
        with self._turn:
            self._cut_at = max(self._taken, REQUEST_FRAMES)
            return self._cut_at < len(self._frames) - 1


async def _cut_when_over(
    scope: trio.CancelScope, progress: Progress, requests: _Requests, time_budget_seconds: float
) -> None:
    """Give out no more requests when the time is over; end the dump when the disk does not let it end."""
    await trio.sleep(time_budget_seconds)
    progress.is_out_of_time = requests.cut()
    await trio.sleep(COMMIT_SECONDS)
    progress.is_out_of_time = True
    scope.cancel()


async def _cancel_when_stalled(scope: trio.CancelScope, progress: Progress, report: Callable[[], None]) -> None:
    """Report regularly; end the dump when nothing was completed for `STALL_SECONDS`."""
    last, deadline = -1, trio.current_time() + STALL_SECONDS
    while trio.current_time() < deadline:
        report()
        done = progress.frames_written + progress.frames_failed
        if done != last:
            last, deadline = done, trio.current_time() + STALL_SECONDS
        await trio.sleep(REPORT_SECONDS)
    progress.failure = progress.failure or f"the disk completed nothing for {STALL_SECONDS:.0f} s"
    scope.cancel()


def _touched_buffer() -> memoryview:
    """A request buffer whose every page is there already."""
    buffer = memoryview(aligned_buffer(dump.REQUEST_BUFFER_SIZE_BYTES))
    buffer[:] = bytes(buffer.nbytes)
    return buffer
