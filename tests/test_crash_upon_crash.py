"""Crash upon crash: during the dump, during recovery, before the last dump was recovered. What was safe stays safe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import Register, StandbyRegister
from dumpwriter.machine.status import standby_is_alive
from tests.builders.elf_reader import ElfCoreFile
from tests.mounting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.machines import Machine

PAGES = 4096
RECOVERY_WRITES = (22, 30, 45, 80)  # of the boot, counted from the first; the replay is over before


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Each page begins with its own number, so a page in the wrong place shows."""
    path = tmp_path / "memory.raw"
    path.write_bytes(b"".join(page.to_bytes(8, "little") + os.urandom(4088) for page in range(PAGES)))
    return path


def must_be_exact(vmcore: Path, memory: Path) -> int:
    """Every byte that is there is that of the memory; how many there are."""
    content, found = memory.read_bytes(), vmcore.read_bytes()
    loads = ElfCoreFile(found).loads
    for load in loads:
        assert found[load.offset : load.offset + load.in_file] == content[load.physical : load.physical + load.in_file]
    return sum(load.in_file for load in loads)


def reports(machine: Machine) -> list[dict[str, Any]]:
    directory = machine.mountpoint / "var" / "crash"
    numbers = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    return [json.loads((directory / str(number) / "report.json").read_text()) for number in numbers]


def test_a_dump_whose_standbys_are_killed_half_way_is_partial(machine: Machine, tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    big.write_bytes(os.urandom(256 << 20))
    machine.create(size="700MiB", memory="256MiB")
    machine.mount("--memory-image", big)
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    os.kill(machine.status()["pid"], signal.SIGKILL)
    while not found[Register.PAGES_WRITTEN]:
        assert standby_is_alive(found)
    for standby in found.standbys:
        if standby.is_alive:
            os.kill(standby[StandbyRegister.PID], signal.SIGKILL)
    wait_until(lambda: not standby_is_alive(found), "the standbys are gone")
    found.close()
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["verdict"], report["kind"]) == ("PARTIAL", "region")
    assert must_be_exact(tmp_path / "out" / "1" / "vmcore", big) == report["pages_present"] * 4096 > 0
    assert report["pages_present"] + sum(run["page_count"] for run in report["missing"]) == report["pages_total"]


def test_a_recovery_that_crashes_loses_nothing_and_is_run_again(machine: Machine, memory: Path) -> None:
    machine.create(size="96MiB")
    machine.mount("--memory-image", memory)
    machine.crash()
    crashed = machine.directory / "crashed"
    shutil.copyfile(machine.image, crashed)
    stages = []
    for write in RECOVERY_WRITES:
        shutil.copyfile(crashed, machine.image)
        inject = f"inject=pwrite64:signal=SIGKILL:when={write}"
        machine.prefix = ("strace", "-f", "-qq", "-o", os.devnull, "-P", str(machine.image), "-e", inject)
        machine.mount("--memory-image", memory, check=1)
        machine.prefix = ()
        machine.end()
        stages.append(machine.facts("inspect", machine.image)["boot_stage"])
        machine.mount("--memory-image", memory)
        (whole,) = [report for report in reports(machine) if report["kind"] == "region"]
        assert whole["verdict"] == "COMPLETE"
        path = machine.mountpoint / whole["path"].lstrip("/") / "vmcore"
        assert must_be_exact(path, memory) == PAGES * 4096
        machine.unmount()
        machine.must_be_clean()
    assert stages.count("recovery") >= 2, stages


def test_crashes_before_the_last_dump_was_recovered_all_come_out_in_order(machine: Machine, memory: Path) -> None:
    machine.create(size="128MiB")
    machine.mount("--memory-image", memory)
    machine.crash("--text", "the first crash")
    for stage in ("drivers", "recovery"):
        machine.mount("--memory-image", memory, "--crash-at", stage, check=1)
    said = machine.mount("--memory-image", memory).stdout
    assert said.count("last crash: ") == 3
    found = reports(machine)
    assert [(report["kind"], report["verdict"], report["stage"]) for report in found] == [
        ("region", "COMPLETE", "running"),
        ("small", "PARTIAL", "drivers"),
        ("small", "PARTIAL", "recovery"),
    ]
    assert found[0]["bugcheck"]["text"] == "the first crash"
    assert [report["generation"] for report in found] == sorted(report["generation"] for report in found)
    for number in (1, 2, 3):
        must_be_exact(machine.crash_directory(number) / "vmcore", memory)
    recovery = machine.status()["last_recovery"]
    assert (recovery["stage"], [report["stage"] for report in recovery["earlier"]]) == (
        "recovery",
        ["running", "drivers"],
    )


def test_without_room_all_dumps_stay_where_they_are(machine: Machine, memory: Path) -> None:
    machine.create(recipe='size = "64MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount("--memory-image", memory)
    machine.crash()
    machine.mount("--memory-image", memory, "--crash-at", "recovery", check=1)
    for _ in range(2):
        machine.mount("--memory-image", memory)
        assert "no room" in machine.status()["reason"]
        machine.unmount()
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["kind"], report["stage"]) == ("small", "recovery")
    assert [(dump["kind"], dump["verdict"]) for dump in report["earlier"]] == [("region", "COMPLETE")]
    must_be_exact(machine.directory / "out" / "2" / "vmcore", memory)
    assert must_be_exact(machine.directory / "out" / "1" / "vmcore", memory) == PAGES * 4096


def test_a_boot_loop_keeps_its_first_crash_and_its_latest(machine: Machine) -> None:
    machine.create(size="64MiB")
    for _ in range(5):
        machine.mount("--crash-at", "drivers", check=1)
    machine.mount()
    assert [report["generation"] for report in reports(machine)] == [1, 5]


def test_a_power_cut_costs_no_small_dump_its_place(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount("--crash-at", "filesystem", check=1)
    for _ in range(4):
        inject = "inject=pwrite64:signal=SIGKILL:when=6"
        machine.prefix = ("strace", "-f", "-qq", "-o", os.devnull, "-P", str(machine.image), "-e", inject)
        machine.mount(check=1)
        machine.prefix = ()
        machine.end()
    machine.mount()
    assert reports(machine)[0]["generation"] == 1


def test_a_small_dump_is_carved_where_the_boot_record_is_lost(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount("--crash-at", "drivers", check=1)
    whole = machine.facts("verify", machine.image, check=1)
    with machine.image.open("r+b") as file:
        file.seek(machine.image.stat().st_size - (8 << 20))
        file.write(bytes(8192))
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["verdict"], report["pages_present"]) == ("PARTIAL", whole["pages_present"])


def test_other_hands_on_the_disk_between_two_crashes_cost_no_dump(machine: Machine, memory: Path) -> None:
    machine.create(size="96MiB")
    machine.mount("--memory-image", memory)
    machine.crash()
    subprocess.run(["e2fsck", "-p", machine.image], check=False, capture_output=True)
    machine.mount("--memory-image", memory, "--crash-at", "recovery", check=1)
    subprocess.run(["debugfs", "-w", "-R", "rm /dump.bin", machine.image], check=True, capture_output=True)
    machine.mount("--memory-image", memory)
    wait_until(lambda: machine.status()["state"] == "armed", "it is armed")
    assert [report["kind"] for report in reports(machine)] == ["region", "small"]
    assert must_be_exact(machine.crash_directory(1) / "vmcore", memory) == PAGES * 4096
