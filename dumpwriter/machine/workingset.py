"""The working set: which pages are in memory, which are in the page file, and who goes next. Pure: it moves nothing.

Who goes is chosen by second chance: pages stand in a ring, and one that was used since the hand last passed it is
passed once more. Slots of the page file are given out in turn, so that each is written as often as any other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Away(NamedTuple):
    """Where a page is that is not in memory, and the BLAKE3 of what it must be when it comes back."""

    slot: int
    digest: bytes


class WorkingSet:
    """Pages, frames and slots by their numbers. `resident` has a frame for each page at first; no two share one."""

    def __init__(self, resident: Mapping[int, int], slots: Iterable[int]) -> None:
        self._frames = dict(resident)
        self._ring = deque(resident)
        self._used: set[int] = set()
        self._away: dict[int, Away] = {}
        self._free_frames: deque[int] = deque()
        self._free_slots = deque(slots)

    @property
    def resident_count(self) -> int:
        return len(self._frames)

    @property
    def away_count(self) -> int:
        return len(self._away)

    def frame(self, page: int) -> int | None:
        """The frame of a page; None where the page is away."""
        return self._frames.get(page)

    def away(self, page: int) -> Away:
        return self._away[page]

    def refer(self, page: int) -> None:
        """Note that a page was used."""
        self._used.add(page)

    def victim(self) -> int | None:
        """Who goes next; None where nobody is in memory."""
        while self._ring and self._ring[0] in self._used:
            self._used.remove(self._ring[0])
            self._ring.rotate(-1)
        return self._ring[0] if self._ring else None

    def take_slot(self) -> int | None:
        """A slot that nobody is in, to be written now; None where the page file is full."""
        return self._free_slots.popleft() if self._free_slots else None

    def give_back(self, slot: int) -> None:
        """A slot that could not be written is tried again, after all others."""
        self._free_slots.append(slot)

    def take_frame(self) -> int:
        """A frame that nobody is in. There is one for every page that is away."""
        return self._free_frames.popleft()

    def went_out(self, page: int, away: Away) -> None:
        """Note that the victim is in the page file."""
        self._ring.remove(page)  # it stands in front
        self._free_frames.append(self._frames.pop(page))
        self._away[page] = away

    def came_in(self, page: int, frame: int) -> None:
        self._free_slots.append(self._away.pop(page).slot)
        self._frames[page] = frame
        self._ring.append(page)
