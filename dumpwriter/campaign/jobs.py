"""Shards, judged one after the other in this process or side by side in several. They find the same."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from dumpwriter.lab.campaign import Bench
from dumpwriter.lab.remembering import RememberingRecovery
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.shard import judge
from dumpwriter.lab.world import build_world
from vdisk.errors import CampaignError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ctypes import c_byte
    from multiprocessing.context import SpawnContext

    from dumpwriter.lab.shard import Judged, Shard

LOOK_SECONDS = 0.2  # how soon an interrupt is seen
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def judge_all(shards: Iterable[Shard], jobs: int, is_interrupted: Callable[[], bool]) -> Iterator[Judged]:
    """As each is done. After an interrupt, what was judged of those under way.

    Raises `CampaignError` where a process came to a sudden end.
    """
    if jobs == 1:
        yield from _judge_here(shards, is_interrupted)
    else:
        yield from _judge_side_by_side(iter(shards), jobs, is_interrupted)


def bench_of(scenario: str) -> Bench:
    world = build_world(SCENARIOS[scenario])
    return Bench(world, [RememberingRecovery(world)])


def _judge_here(shards: Iterable[Shard], is_interrupted: Callable[[], bool]) -> Iterator[Judged]:
    bench: Bench | None = None
    for shard in shards:
        bench = bench or bench_of(shard.campaign.scenario)
        judged = judge(bench, shard, is_interrupted)
        if judged is not None:
            yield judged
        if is_interrupted():
            return


def _judge_side_by_side(shards: Iterator[Shard], jobs: int, is_interrupted: Callable[[], bool]) -> Iterator[Judged]:
    context = multiprocessing.get_context("spawn")  # processes that share nothing with this one, threads least of all
    stop = context.RawValue("b", 0)
    with contextlib.ExitStack() as workers:
        busy: list[Connection] = []
        for _, shard in zip(range(jobs), shards, strict=False):
            busy.append(workers.enter_context(_worker(context, stop)))
            _ask(busy[-1], shard)
        while busy:
            stop.value = is_interrupted()
            for connection in [one for one in wait(busy, LOOK_SECONDS) if isinstance(one, Connection)]:
                judged = _answer(connection)
                if judged is not None:
                    yield judged
                following = None if is_interrupted() else next(shards, None)
                if following is None:
                    busy.remove(connection)
                else:
                    _ask(connection, following)


@contextlib.contextmanager
def _worker(context: SpawnContext, stop: c_byte) -> Iterator[Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, stop), daemon=True)
    with _deaf_from_birth():
        process.start()
    theirs.close()  # there it is the only one, so that here its end is seen
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.join()


@contextlib.contextmanager
def _deaf_from_birth() -> Iterator[None]:
    """Ctrl-C reaches every process; who asks decides what it means. A process that is started here inherits the mask.

    To ignore the signals there would come too late: it takes half a second to load what it runs.
    """
    resource_tracker.ensure_running()  # when it starts it opens the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, stop: c_byte) -> None:
    """Until nobody asks any more."""
    bench: Bench | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            shard = connection.recv()
            bench = bench or bench_of(shard.campaign.scenario)
            connection.send(judge(bench, shard, lambda: bool(stop.value)))


def _ask(connection: Connection, shard: Shard) -> None:
    with contextlib.suppress(BrokenPipeError):  # its end is seen where an answer is due
        connection.send(shard)


def _answer(connection: Connection) -> Judged | None:
    try:
        judged: Judged | None = connection.recv()
    except (EOFError, ConnectionResetError):
        raise CampaignError("a job came to a sudden end: judge what is left once more, perhaps with fewer") from None
    return judged
