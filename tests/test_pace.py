"""How often a process is started anew: at once, and then at a rate, and never for the last time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dumpwriter.machine.pace import STARTS_MAX, WINDOW_SECONDS, Pace

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_no_window_has_more_starts_than_it_may(autojump_clock: MockClock) -> None:
    pace, starts = Pace(), []
    for _ in range(5 * STARTS_MAX):
        await trio.sleep(pace.pause_seconds)
        pace.note_start()
        starts.append(trio.current_time())
        await trio.sleep(1)
    assert starts[STARTS_MAX - 1] - starts[0] < STARTS_MAX, "the first ones are not held up"
    for first, beyond in zip(starts, starts[STARTS_MAX:], strict=False):
        assert beyond - first >= WINDOW_SECONDS


async def test_who_dies_seldom_never_waits(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(100):
        assert pace.pause_seconds == 0
        pace.note_start()
        await trio.sleep(WINDOW_SECONDS / STARTS_MAX)


async def test_the_pause_is_told(autojump_clock: MockClock) -> None:
    pace = Pace()
    for _ in range(STARTS_MAX):
        pace.note_start()
    assert "3 more were started within 10 minutes" in pace.explain()
    assert "UTC" in pace.explain() and "unmount and mount again" in pace.explain()
