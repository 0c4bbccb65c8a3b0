"""Progress on a terminal: a bar on standard error, only where somebody looks, gone when the work is done."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Protocol

from dumpwriter.formats.runtime import Register
from dumpwriter.machine.status import living_standby, standby_is_alive
from vdisk.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.runtime import RuntimeFile

PATIENCE_SECONDS = 1.0
POLL_SECONDS = 0.02
STALL_SECONDS = 45.0  # longer than the standby itself waits for its disk


class Show(Protocol):
    """Takes what is done of a total, and what is to be said beside the bar."""

    def __call__(self, done: int, total: int, said: str = "") -> None: ...


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Show]:
    """Yield a function that shows progress. Silent at first, and where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, said="": None  # noqa: ARG005 - nobody looks
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, began = bar.add_task(title, total=None), time.monotonic()

    def show(done: int, total: int, said: str = "") -> None:
        if not bar.live.is_started and time.monotonic() - began > PATIENCE_SECONDS:
            bar.start()
        bar.update(task, completed=done, total=total or None, description=f"{title} {said}".rstrip())

    try:
        yield show
    finally:
        bar.stop()


def watch_standby(machine: RuntimeFile, title: str) -> None:
    """Wait for the end of both standbys, with progress. Raises `MountError` where the one that writes stands still."""
    last, deadline = -1, time.monotonic() + STALL_SECONDS
    with progress_bar(title) as show:
        while standby_is_alive(machine):
            written = machine[Register.PAGES_WRITTEN]
            if written != last:
                last, deadline = written, time.monotonic() + STALL_SECONDS
            if time.monotonic() > deadline:
                pid = living_standby(machine)
                raise MountError(
                    f"the standby (process {pid}) has written nothing for {STALL_SECONDS:.0f} s and still holds the "
                    f"image: let it go on (kill -CONT {pid}), or give its dump up (kill -9 {pid})"
                )
            show(written, machine[Register.PAGES_PLANNED])
            time.sleep(POLL_SECONDS)
