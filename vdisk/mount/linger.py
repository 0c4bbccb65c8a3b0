"""Wait for the next FUSE request with one system call instead of a turn of trio's loop.

A client that has its answer asks again within some ten microseconds. Going to sleep in trio's loop costs more than
that: two changes of the epoll set, a poll, a reschedule. So we linger in one short select on the descriptor, and only
a client that takes longer sends us to trio. The lock that pyfuse3 takes before each request is a checkpoint, so
other tasks have their turn between any two requests.

pyfuse3 looks up trio through its own module global, which its asyncio support replaces in the same way.
"""

from __future__ import annotations

import select
import types

import pyfuse3
import trio

LINGER_SECONDS = 0.000_2


async def wait_readable(descriptor: int) -> None:
    """`trio.lowlevel.wait_readable`, but quick where the descriptor is readable now or very soon."""
    if not select.select([descriptor], [], [], LINGER_SECONDS)[0]:
        await trio.lowlevel.wait_readable(descriptor)


def install() -> None:
    """Make pyfuse3 wait by lingering."""
    lowlevel = types.SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": wait_readable})
    pyfuse3.trio = types.SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel})  # type: ignore[attr-defined]
