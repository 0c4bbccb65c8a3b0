"""How often a process that ends is started anew: at once, but only so many times in a while.

One that ends as soon as it is there would otherwise keep the machine standing still for rehearsals. It is never given
up for good: what was wrong may pass, and a machine may run for months.
"""

from __future__ import annotations

import time
from collections import deque

import trio

STARTS_MAX = 3
WINDOW_SECONDS = 600.0


class Pace:
    """The starts of one process."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=STARTS_MAX)

    def note_start(self) -> None:
        self._starts.append(trio.current_time())

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next start."""
        if len(self._starts) < STARTS_MAX:
            return 0.0
        return max(0.0, self._starts[0] + WINDOW_SECONDS - trio.current_time())

    def explain(self) -> str:
        """What a machine says that waits."""
        at = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + self.pause_seconds))
        return (
            f"{STARTS_MAX} more were started within {WINDOW_SECONDS / 60:.0f} minutes, the next one is at {at}; "
            f"unmount and mount again to have it now"
        )
