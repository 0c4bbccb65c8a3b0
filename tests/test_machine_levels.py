"""Levels and time budgets through real mounts: what a dump holds, what it leaves out, and when it ends."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.crash.protection import DEFAULT_PARITY_PERCENT
from dumpwriter.levels import parse_level
from dumpwriter.machine.policy import simulated_estimates
from dumpwriter.memory.kernel import KernelMap
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.region_reader import find_region, read_dump
from tests.vmcores import run_reader
from vdisk.registers import Register, Registers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

MEMORY_BYTES = 64 << 20
HELD = {"small": {1, 2, 3}, "kernel": {1, 2, 3, 4}, "active": {1, 2, 3, 4, 5}, "complete": set(range(1, 8))}
CLASS_NAMES = ["log", "structures", "page_tables", "kernel_data", "user", "cache", "free"]


def pages_of_classes(classes: set[int]) -> set[int]:
    runs = KernelMap(MEMORY_BYTES).class_runs()
    return {page for number, first, count in runs if number in classes for page in range(first, first + count)}


def recovered(machine: Machine, check: int = 0) -> tuple[Any, ElfCoreFile]:
    report = machine.facts("recover", machine.image, "--output", "out", check=check)
    return report, ElfCoreFile((machine.directory / "out" / "1" / "vmcore").read_bytes())


@pytest.mark.parametrize("level", HELD)
def test_a_dump_of_each_level_is_whole_and_its_readers_find_the_log(machine: Machine, level: str) -> None:
    size = {"small": "32MiB", "kernel": "40MiB", "active": "48MiB", "complete": "128MiB"}[level]
    machine.run("create", machine.image, "--size", size, "--memory", "64MiB", "--levels", level)
    machine.mount()
    status = machine.status()
    assert (status["level"], status["warning"]) == (level, None)
    crash = machine.crash("--text", "at each level")
    expected = pages_of_classes(HELD[level])
    assert (crash["verdict"], crash["pages_present"], crash["pages_wanted"]) == (
        "COMPLETE",
        len(expected),
        len(expected),
    )
    image = machine.image.read_bytes()
    region = find_region(image)
    assert region is not None
    dump = read_dump(image, region)
    assert (dump.verdict, set(dump.pages)) == ("COMPLETE", expected)

    report, core = recovered(machine)
    assert (report["verdict"], report["level"], report["level_held"]) == ("COMPLETE", level, level)
    assert (report["pages_total"], report["pages_wanted"], report["missing"]) == (16384, len(expected), [])
    left_out = {
        page for run in report["left_out"] for page in range(run["first_page"], run["first_page"] + run["page_count"])
    }
    assert left_out == set(range(16384)) - expected
    assert {row["name"] for row in report["classes"] if row["pages_present"]} == {
        CLASS_NAMES[number - 1] for number in HELD[level]
    }
    assert core.pages() == expected
    assert not core.flags & 1
    assert {number: core.read(number * 4096, 4096) for number in expected} == dump.pages
    vmcore = str(machine.directory / "out" / "1" / "vmcore")
    run_reader("makedumpfile", "--dump-dmesg", vmcore, "dmesg", cwd=machine.directory)
    assert "at each level" in (machine.directory / "dmesg").read_text()


def test_the_level_of_a_mount_goes_before_that_of_the_disk(machine: Machine) -> None:
    machine.create(size="128MiB", memory="64MiB")
    machine.mount("--levels", "active")
    assert machine.crash()["pages_present"] == len(pages_of_classes(HELD["active"]))
    machine.mount("--level", "kernel")
    assert machine.status()["last_recovery"]["level"] == "active"
    assert machine.crash()["pages_present"] == len(pages_of_classes(HELD["kernel"]))
    assert recovered(machine)[0]["level"] == "kernel"


def test_a_region_made_for_a_small_level_is_made_anew_for_a_large_one(machine: Machine) -> None:
    machine.run("create", machine.image, "--size", "128MiB", "--memory", "64MiB", "--levels", "small")
    machine.mount("--levels", "complete")
    assert machine.crash()["verdict"] == "COMPLETE"
    assert recovered(machine)[0]["pages_present"] == 16384


@pytest.mark.parametrize("level", ["automatic", pytest.param("active", marks=pytest.mark.slow)])
def test_a_region_too_small_for_the_level_warns_and_keeps_the_best(machine: Machine, level: str) -> None:
    """The disk is full but for the region, so that no larger one can be made."""
    recipe = 'size = "64MiB"\nmemory = "64MiB"\nlevel = "kernel"\n[disk]\nfill_percent = 100\n'
    machine.create(recipe=recipe)
    said = machine.mount("--levels", level).stdout
    assert f"warning: the region has 17 MiB, and a dump of level {level} can need" in said
    fill_memory(machine)
    crash = machine.crash(check=1)
    assert (crash["verdict"], crash["reason"]) == (
        "PARTIAL",
        "the region is too small for all that the level asks for",
    )
    report, core = recovered(machine, check=1)
    assert (report["verdict"], report["reason"], report["level"]) == ("PARTIAL", crash["reason"], level)
    assert report["level_held"] == "kernel"
    assert pages_of_classes(HELD["kernel"]) <= core.pages()
    assert core.flags & 1
    missing = sum(run["page_count"] for run in report["missing"])
    assert missing == report["pages_wanted"] - report["pages_present"] > 0
    assert sum(run["page_count"] for run in report["left_out"]) == 16384 - report["pages_wanted"]


def descriptor_of(pid: int, name: str) -> str:
    """A path that opens a memory file that a process holds."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{number}"
        if os.readlink(path).startswith(f"/memfd:{name}"):
            return path
    raise AssertionError(f"process {pid} holds no {name}")


def fill_memory(machine: Machine) -> None:
    """No page of zeros in what the machine has free: then nothing of it comes for nothing."""
    source = random.Random(1)
    with open(descriptor_of(machine.status()["pid"], "ghostdump-memory"), "r+b", buffering=0) as memory:
        for number, first, count in KernelMap(MEMORY_BYTES).class_runs():
            if number >= 5:
                memory.seek(first * 4096)
                memory.write(source.randbytes(count * 4096))


def test_a_level_of_which_memory_has_no_page_does_not_arm(machine: Machine, tmp_path: Path) -> None:
    memory = tmp_path / "memory.raw"
    memory.write_bytes(os.urandom(16 << 20))
    machine.create()
    said = machine.mount("--memory-image", memory, "--levels", "small").stdout
    assert "NOT armed: no page of this memory is known to be of level small" in said
    machine.unmount()
    machine.mount("--memory-image", memory, "--levels", "kernel")
    assert machine.crash()["pages_present"] == 4096


def test_a_time_budget_cuts_the_dump_and_says_so(machine: Machine, tmp_path: Path) -> None:
    content = os.urandom(MEMORY_BYTES)
    memory = tmp_path / "memory.raw"
    memory.write_bytes(content)
    machine.create(size="160MiB", memory="64MiB")
    machine.mount("--memory-image", memory, "--deadline", "1.2")
    assert machine.status()["time_budget_seconds"] == 1.2
    slow_down(machine, 50_000_000)
    crash = machine.crash(check=1)
    assert (crash["verdict"], crash["reason"]) == ("PARTIAL", "the time budget ended before the dump")
    assert 1.2 <= crash["seconds"] < 5
    slow_inspected = machine.facts("inspect", machine.image)["dump"]
    assert (slow_inspected["state"], slow_inspected["ending"]) == ("written", "time budget")
    report, core = recovered(machine, check=1)
    assert (report["verdict"], report["reason"]) == ("PARTIAL", crash["reason"])
    assert 0 < report["pages_present"] == crash["pages_present"] < 16384
    assert all(core.read(page * 4096, 4096) == content[page * 4096 : (page + 1) * 4096] for page in core.pages())
    assert core.flags & 1


def slow_down(machine: Machine, latency_ns: int) -> None:
    """From here on every command to the disk takes so long."""
    descriptor = os.open(descriptor_of(machine.status()["pid"], "ghostdump-controller"), os.O_RDWR)
    Registers(descriptor)[Register.LATENCY_NS] = latency_ns
    os.close(descriptor)


def test_create_estimates_each_level(machine: Machine) -> None:
    made = machine.facts("create", machine.image, "--size", "128MiB", "--memory", "64MiB", "--levels", "kernel")
    assert made["level"] == "kernel"
    expected = simulated_estimates(MEMORY_BYTES, DEFAULT_PARITY_PERCENT)
    assert made["estimates"] == [
        expected[parse_level(level)]._asdict() | {"level": level} for level in ("small", "kernel", "active", "complete")
    ]
    assert made["region"]["size_bytes"] == expected[parse_level("kernel")].region_bytes
    said = machine.run("create", "other.img", "--size", "128MiB", "--memory", "64MiB").stdout
    assert [line.split()[0] for line in said.splitlines()[2:]] == ["small", "kernel", "active", "complete"]


def test_a_disk_too_small_for_the_level_is_told_which_would_fit(machine: Machine) -> None:
    refused = machine.run("create", machine.image, "--size", "44MiB", "--memory", "64MiB", check=2)
    assert refused.stderr.rstrip().endswith("or give --levels active")
    refused = machine.run("create", machine.image, "--size", "40MiB", "--memory", "64MiB", "--levels", "all", check=2)
    assert "'all' is no level: give small, kernel, active, complete or automatic" in refused.stderr
    for nonsense in ("0", "-1", "soon", "1e3", "inf"):
        refused = machine.run("mount", machine.image, machine.mountpoint, f"--deadline={nonsense}", check=2)
        assert "is no time: give seconds" in refused.stderr
