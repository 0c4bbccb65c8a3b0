"""Parity end to end: what is damaged on the disk comes back through a real mount and real processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.builders.elf_reader import ElfCoreFile
from tests.builders.region_reader import find_region, read_dump

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

MIB = 1 << 20
MEMORY_MIB = 20
LOST_AT = (1 * MIB, 18 * MIB + 4096)  # of the region, each 1 MiB, in two dumps


def crashed(machine: Machine, memory: bytes, *arguments: str) -> int:
    """A dump of this memory, in one extent; where that begins on the disk."""
    (machine.directory / "memory.raw").write_bytes(memory)
    status = machine.facts(
        "mount", machine.image, machine.mountpoint, "--memory-image", machine.directory / "memory.raw", *arguments
    )
    assert machine.crash()["verdict"] == "COMPLETE"
    (extent,) = status["region"]["extents"]
    return int(extent["physical_bytes"])


def lose(machine: Machine, start: int, length: int = MIB) -> None:
    with machine.image.open("r+b") as image:
        image.seek(start)
        image.write(b"\xdb" * length)


def must_be_memory(core: Path, memory: bytes) -> None:
    found = ElfCoreFile(core.read_bytes())
    assert found.pages() == set(range(len(memory) // 4096))
    assert all(found.read(page * 4096, 4096) == memory[page * 4096 : page * 4096 + 4096] for page in found.pages())


def recovered(machine: Machine, memory: bytes, *arguments: str) -> Any:
    out = machine.directory / "out"
    report = machine.facts("recover", machine.image, "--output", out, *arguments)
    must_be_memory(out / report["path"] / "vmcore", memory)
    return report


def test_a_mebibyte_that_is_lost_on_the_disk_comes_back(machine: Machine) -> None:
    """By the next boot, with five frames rebuilt; an independent reader of the disk finds the same."""
    memory = os.urandom(MEMORY_MIB * MIB)
    machine.create(size="160MiB", memory=f"{MEMORY_MIB}MiB")
    for number, at in enumerate(LOST_AT, start=1):
        region = crashed(machine, memory)
        lose(machine, region + at)
        content = machine.image.read_bytes()
        found = find_region(content)
        assert found is not None
        assert read_dump(content, found).verdict == "COMPLETE"
        said = machine.run("verify", machine.image).stdout
        assert "COMPLETE" in said and "5 frames rebuilt" in said
        status = machine.facts("mount", machine.image, machine.mountpoint)
        report = status["last_recovery"]
        assert (report["verdict"], report["frames_rebuilt"], report["frames_damaged"]) == ("COMPLETE", 5, 0)
        must_be_memory(machine.crash_directory(number) / "vmcore", memory)
        machine.unmount()


def test_parity_is_as_much_as_was_asked_for(machine: Machine) -> None:
    """By the disk, and for a run. The region has room for it, and without it the same damage costs pages."""
    memory = os.urandom(MEMORY_MIB * MIB)
    made = machine.facts("create", machine.image, "--size", "160MiB", "--memory", "20MiB", "--parity", "25%")
    machine.mount()
    status = machine.status()
    assert (made["parity_percent"], status["parity_percent"]) == (25, 25)
    assert "level      automatic, parity 25%" in machine.run("status", machine.mountpoint).stdout
    inspected = machine.facts("inspect", machine.image)
    assert (inspected["level"], inspected["parity_percent"]) == ("automatic", 25)
    assert "level      automatic, parity 25%" in machine.run("inspect", machine.image).stdout
    machine.unmount()
    region = crashed(machine, memory, "--parity", "none")
    assert machine.status()["parity_percent"] == 0
    lose(machine, region + MIB, 4096)
    assert machine.facts("verify", machine.image, check=1)["verdict"] == "PARTIAL"
    for nonsense in ("0", "101%", "-1%", "some"):
        refused = machine.run("mount", machine.image, machine.mountpoint, f"--parity={nonsense}", check=2)
        assert "is no parity: give none, or 1% to 100%" in refused.stderr


def test_a_rebuilt_dump_comes_out_by_levels(machine: Machine) -> None:
    """Its page tables and page descriptors are read one by one for it, from rebuilt frames too."""
    machine.create(size="160MiB", memory="20MiB")
    machine.mount()
    (extent,) = machine.status()["region"]["extents"]
    assert machine.crash()["verdict"] == "COMPLETE"
    lose(machine, extent["physical_bytes"], MIB)  # the header, and the most valuable frames
    out = machine.directory / "out"
    report = machine.facts("recover", machine.image, "--output", out, "--format", "kdump", "-d", "31")
    assert (report["verdict"], report["frames_rebuilt"], report["dump_level"]) == ("COMPLETE", 4, 31)


def test_a_carved_dump_is_rebuilt_too(machine: Machine) -> None:
    memory = os.urandom(MEMORY_MIB * MIB)
    machine.create(size="160MiB", memory="20MiB")
    region = crashed(machine, memory)
    lose(machine, region + 3 * MIB)
    lose(machine, machine.image.stat().st_size - 8 * MIB, 2 * MIB)  # boot records and extent tables
    assert recovered(machine, memory)["frames_rebuilt"] == 5


def test_what_a_time_budget_left_of_a_dump_has_its_parity(machine: Machine) -> None:
    """The budget is over at once: the first eight frames are written, far less than a set, and 1 MiB of them lost."""
    memory = os.urandom(MEMORY_MIB * MIB)
    machine.create(size="160MiB", memory=f"{MEMORY_MIB}MiB")
    (machine.directory / "memory.raw").write_bytes(memory)
    source = ("--memory-image", machine.directory / "memory.raw", "--deadline", "0.001")
    (extent,) = machine.facts("mount", machine.image, machine.mountpoint, *source)["region"]["extents"]
    crash = machine.crash(check=1)
    assert (crash["verdict"], crash["reason"]) == ("PARTIAL", "the time budget ended before the dump")
    lose(machine, extent["physical_bytes"] + LOST_AT[0])
    report = machine.facts("recover", machine.image, "--output", machine.directory / "out", check=1)
    assert (report["verdict"], report["reason"]) == (crash["verdict"], crash["reason"])
    assert report["frames_rebuilt"] == 5
    assert 0 < report["pages_present"] == crash["pages_present"] < len(memory) // 4096
    core = ElfCoreFile((machine.directory / "out" / report["path"] / "vmcore").read_bytes())
    assert all(core.read(page * 4096, 4096) == memory[page * 4096 : page * 4096 + 4096] for page in core.pages())
