"""What an attacker broke, each kept as a test: dumps given up, disks that no longer mounted, machines that hung."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import MachineState, Register
from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND
from tests.mounting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine


def memory_that_tells(path: Path, pages: int) -> Path:
    """Each page begins with its own number, so a page in the wrong place shows."""
    path.write_bytes(b"".join(page.to_bytes(8, "little") + os.urandom(4088) for page in range(pages)))
    return path


def must_be_exact(vmcore: Path, memory: Path) -> int:
    content, found = memory.read_bytes(), ElfCoreFile(vmcore.read_bytes())
    for load in found.loads:
        piece = found.content[load.offset : load.offset + load.in_file]
        assert piece == content[load.physical : load.physical + load.in_file]
    return sum(load.in_file for load in found.loads) // 4096


def remove_the_region(machine: Machine) -> None:
    """As somebody who mounts the disk elsewhere may do."""
    subprocess.run(["e2fsck", "-p", machine.image], check=False, capture_output=True)
    done = subprocess.run(
        ["debugfs", "-w", "-R", "rm /dump.bin", machine.image], check=True, capture_output=True, text=True
    )
    assert "not found" not in done.stderr


def test_the_copy_of_a_dump_never_overwrites_the_dump(machine: Machine) -> None:
    memory = memory_that_tells(machine.directory / "memory.raw", 4096)
    machine.create(size="64MiB", memory="16MiB")
    machine.mount("--memory-image", memory)
    machine.crash()
    remove_the_region(machine)
    process = subprocess.Popen(
        [COMMAND, "mount", machine.image, machine.mountpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: steps_done(machine) > 0 or process.poll() is not None, "the recovery is on its way")
        found = runtime.find(str(machine.mountpoint))
        if found is not None:
            if process.poll() is None:
                os.kill(found[Register.MACHINE_PID], signal.SIGKILL)
            found.close()
    finally:
        process.communicate(timeout=60)
    if machine.facts("inspect", machine.image)["region_state"] == "armed":
        assert of_the_region(machine.facts("verify", machine.image, check=None))["verdict"] == "COMPLETE"
    machine.end()
    machine.mount()
    reports = (machine.mountpoint / "var" / "crash").glob("*/report.json")
    (copy,) = [report.parent for report in reports if json.loads(report.read_bytes())["kind"] == "region"]
    assert must_be_exact(copy / "vmcore", memory) == 4096
    assert machine.status()["state"] == "armed"


def of_the_region(report: dict[str, Any]) -> dict[str, Any]:
    """What a report says of the dump in the region: a machine that is killed as it boots leaves a small one as well."""
    return next(each for each in (report, *report.get("earlier", ())) if each["kind"] == "region")


def steps_done(machine: Machine) -> int:
    found = runtime.find(str(machine.mountpoint))
    if found is None:
        return 0
    done = found[Register.STEP_DONE] if found.state == MachineState.BOOTING else 0
    found.close()
    return done


def test_a_kept_dump_cannot_be_removed_or_written(machine: Machine) -> None:
    machine.create(recipe='size = "48MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount()
    machine.crash()
    machine.mount()
    assert machine.status()["state"] == "disarmed"
    region = machine.mountpoint / "dump.bin"
    for attempt in (lambda: os.unlink(region), lambda: region.open("r+b", buffering=0).write(b"x")):
        with pytest.raises(PermissionError):
            attempt()
    machine.unmount()
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


@pytest.mark.parametrize("kind", ["directory", "new directory", "immutable"])
def test_what_stands_in_the_way_of_the_region_disarms_and_says_so(machine: Machine, kind: str) -> None:
    machine.create(size="64MiB", memory="16MiB")
    command = {
        "directory": ["rm /dump.bin", "mkdir /dump.bin"],
        "new directory": ["mkdir /dump.bin.new", "rm /dump.bin"],
        "immutable": ["set_inode_field /dump.bin flags 0x80010"],
    }[kind]
    for request in command:
        subprocess.run(["debugfs", "-w", "-R", request, machine.image], check=True, capture_output=True)
    said = machine.mount()
    status = machine.status()
    assert status["state"] == "armed" or ("dump.bin" in status["reason"] and "NOT armed" in said.stdout)
    machine.unmount()
    machine.must_be_clean()


def test_a_bugcheck_in_the_middle_of_a_shutdown_does_not_hang(machine: Machine) -> None:
    machine.create()
    for attempt in range(6):
        machine.mount()
        found = runtime.find(str(machine.mountpoint))
        assert found is not None
        pid = found[Register.MACHINE_PID]
        unmounting = subprocess.Popen(["fusermount3", "-u", machine.mountpoint])
        deadline = time.monotonic() + 5
        while found.state != MachineState.STOPPING and time.monotonic() < deadline:
            pass
        for _ in range(20 * attempt):
            try:
                os.kill(pid, signal.SIGUSR2)
            except ProcessLookupError:
                break
        unmounting.wait()
        found.close()
        wait_until(lambda pid=pid: not runtime.is_alive(pid, runtime.process_start(pid)), "the machine ends")  # type: ignore[misc]
        machine.end()


def test_a_stopped_standby_does_not_hold_the_machine(machine: Machine) -> None:
    machine.create()
    machine.mount()
    status = machine.status()
    machine.signal_standbys(signal.SIGSTOP)
    crash = subprocess.Popen([COMMAND, "crash", machine.mountpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: machine.status()["state"] == "crashed", "the bugcheck ran")
    wait_until(lambda: not os.path.exists(f"/proc/{status['pid']}/exe"), "the machine ends without its standby")
    machine.signal_standbys(signal.SIGCONT)
    output, complaint = crash.communicate(timeout=60)
    assert crash.returncode == 0, complaint
    assert b"COMPLETE" in output


def test_directories_on_the_way_to_a_recovery_are_made_durable(crashed: Machine) -> None:
    report = crashed.facts("recover", crashed.image, "--output", "new/sub/deep")
    assert report["path"] == str(crashed.directory / "new" / "sub" / "deep" / "1")
    assert (crashed.directory / "new").stat().st_mode & 0o777 == 0o700


def test_a_name_of_many_digits_is_not_counted_from(crashed: Machine) -> None:
    (crashed.directory / "out" / ("9" * 255)).mkdir(parents=True)
    assert crashed.facts("recover", crashed.image, "--output", "out")["path"].endswith("/out/1")


def write_until_it_fails(machine: Machine) -> None:
    """Into the mount by a descriptor: by its name, what comes after its end would go into the directory beneath it."""
    root = os.open(machine.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in range(2000):
            if machine.status()["state"] != "armed":
                return
            with contextlib.suppress(OSError):  # the disk fails: that is what it is for
                descriptor = os.open(f"file{number}", os.O_CREAT | os.O_WRONLY, dir_fd=root)
                try:
                    os.write(descriptor, b"x" * 50_000)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
    finally:
        os.close(root)


def test_a_filesystem_that_failed_ends_in_a_bugcheck_and_a_dump(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("a small host disk (tmpfs) needs root")
    host = machine.directory / "host"
    host.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", host], check=True)
    try:
        machine.image = host / "disk.img"
        machine.create(size="200MiB", memory="16MiB")
        machine.mount()
        assert machine.status()["state"] == "armed"
        (machine.mountpoint / "kept").write_bytes(b"kept" * 1000)
        subprocess.run(["sync", machine.mountpoint / "kept"], check=True)
        subprocess.run(["dd", "if=/dev/zero", f"of={host}/ballast", "bs=64k"], check=False, capture_output=True)
        write_until_it_fails(machine)
        machine.wait_until_dumped()
        assert machine.status()["crash"]["code"] == 0x24
        (host / "ballast").unlink()
        report = machine.facts("recover", machine.image, "--output", "out")
        assert (report["verdict"], report["bugcheck"]["code"]) == ("COMPLETE", 0x24)
        machine.check_filesystem()
        machine.mount()
        assert (machine.mountpoint / "kept").read_bytes() == b"kept" * 1000
        machine.unmount()
    finally:
        machine.end()
        subprocess.run(["umount", "-l", host], check=True)
