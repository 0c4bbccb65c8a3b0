"""What decides the bytes in the pieces of a disk: how the laboratory knows that it has seen them before."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from dumpwriter.lab.diskstate import DiskState, Patch
    from vdisk.extent import Run

PATCHES_MAX = 1 << 11  # of which it is remembered in which pieces they lie


class Pieces:
    """A disk cut into pieces, each some runs of it. What is in none of them is not looked at."""

    def __init__(self, pieces: Sequence[Sequence[Run]]) -> None:
        self._runs = tuple(run for runs in pieces for run in runs)
        ends = (0, *itertools.accumulate(map(len, pieces)))
        self._runs_of = tuple(itertools.starmap(slice, itertools.pairwise(ends)))
        self._parts_of = functools.lru_cache(PATCHES_MAX)(self._find_parts)

    def versions(self, state: DiskState) -> list[Hashable]:
        """One for each piece. States with equal versions have the same bytes there, and refuse the same reads.

        States are made of few patches, so all versions are found in one pass over those. What lies hidden below a
        patch that covers all of a run decides nothing there, nor does it matter what was written first elsewhere.
        """
        seen: list[list[Hashable]] = [[state.base] for _ in self._runs]
        for patch in state.patches:
            for number, part, hides_all in self._parts_of(patch):
                if hides_all:
                    seen[number] = [part]
                else:
                    seen[number].append(part)
        if state.bad_runs:
            for number, run in enumerate(self._runs):
                seen[number] += state.bad_within(run)
        for passing in state.passing_runs:
            for number, run in enumerate(self._runs):
                if passing.meets(run):
                    seen[number].append(("passes", passing))
        versions = [*map(tuple, seen)]
        return [tuple(versions[runs]) for runs in self._runs_of]

    def _find_parts(self, patch: Patch) -> tuple[tuple[int, Patch, bool], ...]:
        """In which runs it lies, with which part, and whether nothing else is seen there."""
        parts = ((number, patch.within(run), run.length_bytes) for number, run in enumerate(self._runs))
        return tuple(
            (number, part, part.end_bytes - part.start_bytes == length_bytes)
            for number, part, length_bytes in parts
            if part is not None
        )
