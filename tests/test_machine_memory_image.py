"""A machine whose memory is a dump that others made: mounted, crashed, and recovered page for page."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.hostfile import HostFile
from dumpwriter.memory.simulated import SimulatedMemory
from tests.dumpreading import all_pages
from tests.vmcores import run_reader, write_vmcore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

MAKEDUMPFILE = {"elf": ("-E", "-d", "0"), "kdump": ("-c", "-d", "1"), "kdump-filtered": ("-l", "-d", "31")}


def pages_of(path: Path) -> dict[int, bytes]:
    with HostFile(str(path)) as file:
        return all_pages(open_dump(file))


@pytest.mark.parametrize("made", MAKEDUMPFILE)
def test_a_dump_by_makedumpfile_is_a_machine_whose_dump_has_its_pages(
    machine: Machine, tmp_path: Path, made: str
) -> None:
    vmcore = tmp_path / "vmcore"
    with closing(SimulatedMemory(16 << 20)) as memory:
        write_vmcore(vmcore, memory.memory)
    run_reader("makedumpfile", *MAKEDUMPFILE[made], str(vmcore), "made", cwd=tmp_path)
    expected = pages_of(tmp_path / "made")
    assert (len(expected) == 4096) == (made != "kdump-filtered")
    assert expected.items() <= pages_of(vmcore).items()
    machine.create()
    machine.mount("--memory-image", tmp_path / "made")
    assert machine.crash()["pages_present"] == len(expected)
    machine.facts("recover", machine.image, "--output", "out")
    assert pages_of(machine.directory / "out" / "1" / "vmcore") == expected
