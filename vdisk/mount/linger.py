"""Go from one FUSE request to the next without a turn of trio's loop between them.

A client that has its answer asks again within some ten microseconds, and a turn of the loop costs more than that. So
the serving task lingers in one short select on the descriptor, and sleeps in trio only when no request comes; and it
lets other tasks run every millisecond instead of between any two requests.

pyfuse3 looks trio up through a global of its own, which its support of asyncio replaces in the same way.
"""

from __future__ import annotations

import select
import time
import types

import pyfuse3
import trio

_LINGER_SECONDS = 0.000_2
_TURN_SECONDS = 0.001
_SELECTABLE = 1024  # FD_SETSIZE: a program that has more files open can still mount, and waits a little longer


class _Turns:
    """Stands in for the lock around waiting: one task serves, so all that is left of the lock is its checkpoint."""

    def __init__(self) -> None:
        self._turn_ends = 0.0

    async def __aenter__(self) -> None:
        if time.monotonic() > self._turn_ends:
            await trio.lowlevel.checkpoint()
            self._turn_ends = time.monotonic() + _TURN_SECONDS

    async def __aexit__(self, *_: object) -> None:
        pass


async def _wait_readable(descriptor: int) -> None:
    if descriptor >= _SELECTABLE or not select.select([descriptor], [], [], _LINGER_SECONDS)[0]:
        await trio.lowlevel.wait_readable(descriptor)


def install() -> None:
    """Have pyfuse3 linger. Its main loop must then run with one task."""
    lowlevel = types.SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": _wait_readable})
    pyfuse3.trio = types.SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel, "Lock": _Turns})  # type: ignore[attr-defined]
