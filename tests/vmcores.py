"""Makes vmcores for tests, by the product's own layout, as recovery does but without a disk."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter.export.elf import ElfLayout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dumpwriter.export.about import VirtualRange
    from dumpwriter.memory.physical import PhysicalMemory

CHUNK_BYTES = 1 << 20


def write_vmcore(
    path: Path,
    memory: PhysicalMemory,
    runs: Sequence[tuple[int, int]] | None = None,
    *,
    partial: bool = False,
    virtual_ranges: Sequence[VirtualRange] = (),
) -> ElfLayout:
    """Write the pages of the runs, or all of them, to a file; holes of the memory stay holes."""
    present = [(part.physical_bytes, part.length_bytes) for part in memory.ranges] if runs is None else runs
    layout = ElfLayout(present, memory.read_notes(), partial=partial, virtual_ranges=virtual_ranges)
    with path.open("wb") as file:
        file.write(layout.header())
        for start, length in present:
            for physical in range(start, start + length, CHUNK_BYTES):
                content = memory.read(physical, min(CHUNK_BYTES, start + length - physical))
                file.seek(layout.file_offset_bytes(physical))
                file.write(content)
        file.truncate(layout.size_bytes)
    return layout


def run_reader(*command: str, cwd: Path) -> str:
    """What an independent reader says of a dump; the test is skipped where the reader is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
