"""The main job, end to end: create, mount, crash, mount again, and a vmcore that others' tools open."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND
from tests.vmcores import run_reader

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def test_the_whole_story(machine: Machine) -> None:
    machine.create(memory="32MiB")
    machine.mount()
    content = os.urandom(100_000)
    (machine.mountpoint / "docs").mkdir()
    write_durably(machine.mountpoint / "docs" / "kept", content)
    crash = machine.crash("--bugcheck", "0xD1", "--parameter", "7", "--text", "looked where nothing was")
    assert (crash["verdict"], crash["reason"]) == ("COMPLETE", "")
    assert crash["pages_total"] == crash["pages_present"] == 8192
    assert crash["bytes_written"] > 0
    assert machine.status()["state"] == "dumped"

    machine.mount()
    assert (machine.mountpoint / "docs" / "kept").read_bytes() == content
    vmcore = machine.crash_directory() / "vmcore"
    report = json.loads((machine.crash_directory() / "report.json").read_text())
    assert report["verdict"] == "COMPLETE"
    assert report["bugcheck"] == {"code": 0xD1, "parameters": [7, 0, 0, 0], "text": "looked where nothing was"}
    assert report["digests"]["vmcore"]["sha256"] == hashlib.sha256(vmcore.read_bytes()).hexdigest()
    assert (vmcore.stat().st_mode & 0o777, machine.crash_directory().stat().st_mode & 0o777) == (0o600, 0o700)
    assert machine.status()["last_recovery"]["path"] == "/var/crash/1"

    assert "ELF 64-bit LSB core file" in run_reader("file", str(vmcore), cwd=machine.directory)
    run_reader("makedumpfile", "--dump-dmesg", str(vmcore), "dmesg", cwd=machine.directory)
    log = (machine.directory / "dmesg").read_text()
    assert "BUG: bugcheck 0x000000d1 (0x0000000000000007" in log
    assert "looked where nothing was" in log
    assert "open /docs/kept" in log

    machine.unmount()
    machine.must_be_clean()
    assert not os.path.ismount(machine.mountpoint)


def test_gdb_and_drgn_read_the_recovered_memory(crashed: Machine) -> None:
    crashed.run("recover", crashed.image, "--output", "out")
    vmcore = crashed.directory / "out" / "1" / "vmcore"
    load = ElfCoreFile(vmcore.read_bytes()).loads[0]
    address = load.physical + 0x3000
    expected = vmcore.read_bytes()[load.offset + 0x3000 : load.offset + 0x3008]
    seen = f"x/8xb {load.virtual + 0x3000:#x}"
    said = run_reader("gdb", "-batch", "-c", str(vmcore), "-ex", seen, cwd=crashed.directory)
    assert bytes(int(word, 16) for word in said.splitlines()[-1].split(":")[1].split()) == expected
    drgn = pytest.importorskip("drgn", reason="drgn is not installed")
    program = drgn.Program()
    program.set_core_dump(str(vmcore))
    assert program.read(address, 8, physical=True) == expected


def test_a_dump_is_recovered_once(crashed: Machine) -> None:
    first = crashed.facts("recover", crashed.image, "--output", "out")
    assert first["verdict"] == "COMPLETE"
    again = crashed.facts("recover", crashed.image, "--output", "out", check=1)
    assert (again["verdict"], again["reason"]) == ("NONE", "the dump was already recovered")
    assert sorted(os.listdir(crashed.directory / "out")) == ["1", "bounds"]
    crashed.mount()
    assert not crashed.crash_directory().parent.exists()


def test_a_recovery_that_was_cut_before_the_mark_finds_its_own_copy(crashed: Machine) -> None:
    kept = crashed.image.read_bytes()
    crashed.run("recover", crashed.image, "--output", "out")
    crashed.image.write_bytes(kept)
    report = crashed.facts("recover", crashed.image, "--output", "out")
    assert report["verdict"] == "COMPLETE"
    assert sorted(os.listdir(crashed.directory / "out")) == ["1", "bounds"]
    assert crashed.facts("recover", crashed.image, "--output", "out", check=1)["verdict"] == "NONE"


def test_crash_after_crash_is_numbered(machine: Machine) -> None:
    machine.create(size="160MiB")
    for number in (1, 2, 3):
        machine.mount()
        machine.crash("--bugcheck", str(number))
    machine.mount()
    codes = [
        json.loads((machine.crash_directory(number) / "report.json").read_text())["bugcheck"]["code"]
        for number in (1, 2, 3)
    ]
    assert codes == [1, 2, 3]


def must_end_cleanly(machine: Machine, *command: str | os.PathLike[str]) -> None:
    """A command ends a running machine; another one runs afterwards, with what was written."""
    content = os.urandom(10_000)
    (machine.mountpoint / "file").write_bytes(content)
    subprocess.run(command, check=True, capture_output=True)
    machine.wait_until_off()
    machine.must_be_clean()
    assert machine.facts("inspect", machine.image)["boot_stage"] == "off"
    machine.mount()
    assert (machine.mountpoint / "file").read_bytes() == content
    assert machine.status()["last_recovery"]["reason"] == "the machine was shut down cleanly"
    assert not machine.crash_directory().exists()


def test_every_unmount_is_a_clean_shutdown(machine: Machine) -> None:
    machine.create()
    machine.mount()
    must_end_cleanly(machine, COMMAND, "unmount", machine.mountpoint)
    must_end_cleanly(machine, "fusermount3", "-u", machine.mountpoint)
    must_end_cleanly(machine, "kill", str(machine.status()["pid"]))


def test_the_trigger_in_the_control_directory_crashes_the_machine(machine: Machine) -> None:
    machine.create()
    machine.mount()
    assert set(os.listdir(machine.mountpoint / ".ghostdump")) == {"status", "drivers", "extents", "log", "trigger"}
    with pytest.raises(OSError), (machine.mountpoint / ".ghostdump" / "trigger").open("w") as trigger:
        trigger.write("nonsense")
    assert machine.status()["state"] == "armed"
    with pytest.raises(OSError), (machine.mountpoint / ".ghostdump" / "trigger").open("w") as trigger:
        trigger.write("0xC0FFEE 1 2 from the trigger")
    machine.wait_until_dumped()
    report = machine.facts("recover", machine.image, "--output", "out")
    assert report["bugcheck"] == {"code": 0xC0FFEE, "parameters": [1, 2, 0, 0], "text": "from the trigger"}
