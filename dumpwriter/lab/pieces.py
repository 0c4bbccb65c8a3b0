"""What decides the bytes in the pieces of a disk: how the laboratory knows that it has seen them before."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from dumpwriter.lab.diskstate import DiskState, Patch
    from vdisk.extent import Run

PATCHES_MAX = 1 << 11  # of which it is remembered in which pieces they lie


class Pieces:
    """A disk cut into pieces, each some runs of it. What is in none of them is not looked at."""

    def __init__(self, pieces: Sequence[Sequence[Run]]) -> None:
        self._count = len(pieces)
        self._runs = tuple((number, run) for number, runs in enumerate(pieces) for run in runs)
        self._parts_of = functools.lru_cache(PATCHES_MAX)(self._find_parts)

    def versions(self, state: DiskState) -> list[Hashable]:
        """One for each piece. States with equal versions have the same bytes there, and refuse the same reads.

        States are made of few patches, so all versions are found in one pass over those.
        """
        versions: list[list[Hashable]] = [[state.base] for _ in range(self._count)]
        for patch in state.patches:
            for number, part in self._parts_of(patch):
                versions[number].append(part)
        if state.bad_runs:
            for number, run in self._runs:
                versions[number] += state.bad_within(run)
        for passing in state.passing_runs:
            for number, run in self._runs:
                if passing.meets(run):
                    versions[number].append(("passes", passing))
        return [tuple(version) for version in versions]

    def _find_parts(self, patch: Patch) -> tuple[tuple[int, Patch], ...]:
        parts = ((number, patch.within(run)) for number, run in self._runs)
        return tuple((number, part) for number, part in parts if part is not None)
