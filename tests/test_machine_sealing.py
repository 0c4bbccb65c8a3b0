"""Sealed dumps of real machines: the machine cannot read what it wrote, the private key gives every byte."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import Register
from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until
from tests.sealed import write_keys

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_BYTES = 16 << 20
PLANTED = b"a planted secret of this machine"


@pytest.fixture
def memory(machine: Machine) -> Path:
    """16 MiB of noise, zeros and planted words."""
    source, path = random.Random(7), machine.directory / "memory.raw"
    content = bytearray(MEMORY_BYTES)
    for start in range(0, MEMORY_BYTES, 1 << 20):
        content[start : start + (700 << 10)] = source.randbytes(700 << 10)
    for number in range(200):
        start = (number * 83_000) % MEMORY_BYTES
        content[start : start + len(PLANTED)] = PLANTED
    path.write_bytes(content)
    return path


def must_be_the_memory(vmcore: Path, memory: Path) -> None:
    assert ElfCoreFile(vmcore.read_bytes()).read(0, MEMORY_BYTES) == memory.read_bytes()


def must_hold_nothing_of(memory: Path, content: bytes) -> None:
    """No planted word, and no page of memory but those of zeros."""
    held = memory.read_bytes()
    assert held.count(PLANTED) > 100
    assert PLANTED not in content
    pages = {held[start : start + 64] for start in range(0, MEMORY_BYTES, 4096)} - {bytes(64)}
    assert not any(content[start : start + 64] in pages for start in range(0, len(content), 4096))


def report_of(machine: Machine) -> Any:
    return json.loads((machine.crash_directory() / "report.json").read_text())


@pytest.mark.parametrize(
    ("name", "killed"), [("X25519", False), ("RSA", True)], ids=["X25519, bugcheck", "RSA, kill -9"]
)
def test_only_the_private_key_opens_what_the_machine_wrote(
    machine: Machine, memory: Path, name: str, killed: bool
) -> None:
    public, private = write_keys(machine.directory, name)
    machine.create()
    machine.mount("--memory-image", memory, "--dump-key", public)
    sealed_for = machine.status()["sealed_for"]
    printed = subprocess.run(
        f"openssl pkey -pubin -in {public} -outform DER | sha256sum", shell=True, capture_output=True, check=True
    )
    assert printed.stdout.decode().split()[0] == sealed_for
    if killed:
        machine.kill()
    else:
        assert machine.crash()["verdict"] == "COMPLETE"
    must_hold_nothing_of(memory, machine.image.read_bytes())
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"
    assert machine.facts("inspect", machine.image)["dump"]["sealed_for"] == sealed_for
    kept = machine.directory / "kept.img"
    kept.write_bytes(machine.image.read_bytes())

    said = machine.mount("--memory-image", memory, "--dump-key", public).stdout
    assert f"sealed for SHA-256 {sealed_for}" in said
    assert sorted(os.listdir(machine.crash_directory())) == ["dump.sealed", "report.json"]
    report = report_of(machine)
    assert (report["verdict"], report["sealed"], report["sealed_for"]) == ("COMPLETE", True, sealed_for)
    assert report["cause"] == ("machine died" if killed else "bugcheck")
    sealed = machine.directory / "dump.sealed"
    sealed.write_bytes((machine.crash_directory() / "dump.sealed").read_bytes())
    must_hold_nothing_of(memory, sealed.read_bytes())
    machine.unmount()
    must_hold_nothing_of(memory, machine.image.read_bytes())

    for place in (sealed, kept):
        opened = machine.facts("recover", place, "--dump-private-key", private, "--output", place.stem)
        assert (opened["verdict"], opened["sealed"], opened["sealed_for"]) == ("COMPLETE", False, sealed_for)
        must_be_the_memory(machine.directory / place.stem / "1" / "vmcore", memory)
    machine.must_be_clean()


def test_a_plain_dump_would_have_been_found(machine: Machine, memory: Path) -> None:
    """The search above can fail."""
    machine.create()
    machine.mount("--memory-image", memory)
    machine.crash()
    with pytest.raises(AssertionError):
        must_hold_nothing_of(memory, machine.image.read_bytes())


def test_without_the_right_key_it_says_what_is_missing_and_loses_nothing(machine: Machine) -> None:
    public, private = write_keys(machine.directory)
    _, other = write_keys(machine.directory, "RSA")
    machine.create()
    machine.mount("--dump-key", public)
    machine.crash()
    kept = machine.image.read_bytes()
    wrong = machine.run("recover", machine.image, "--dump-private-key", other, "--output", "out", check=1)
    assert "sealed for another key" in wrong.stderr and wrong.stderr.count("\n") == 1
    assert machine.image.read_bytes() == kept
    carried = machine.run("recover", machine.image, "--output", "out", check=1)
    assert "--dump-private-key" in carried.stderr and carried.stderr.count("\n") == 1
    sealed = machine.directory / "out" / "1" / "dump.sealed"
    locked = machine.run("recover", sealed, "--output", "out", check=1)
    assert "--dump-private-key" in locked.stderr and locked.stderr.count("\n") == 1
    machine.run("recover", sealed, "--dump-private-key", private, "--output", "out")
    assert (machine.directory / "out" / "2" / "vmcore").exists()
    machine.mount()
    assert machine.status()["last_recovery"]["reason"] == "the dump was already recovered"
    machine.crash()
    plain = machine.run("recover", machine.image, "--dump-private-key", private, "--output", "out", check=1)
    assert "not sealed" in plain.stderr and plain.stderr.count("\n") == 1


def test_a_passphrase_is_asked_for_and_never_an_argument(machine: Machine) -> None:
    public, private = write_keys(machine.directory, passphrase=b"open sesame")
    machine.create()
    machine.mount("--dump-key", public)
    machine.crash()
    command = ["recover", str(machine.image), "--dump-private-key", str(private), "--output", "out"]
    assert "on a terminal" in machine.run(*command, check=1).stderr
    assert answered(machine, command, b"open says me\n") == 1
    assert not (machine.directory / "out").exists()
    assert answered(machine, command, b"open sesame\n") == 0
    assert (machine.directory / "out" / "1" / "vmcore").exists()


def answered(machine: Machine, command: list[str], answer: bytes) -> int:
    """The exit code of a command that asks one question on its terminal."""
    pid, leader = pty.fork()
    if not pid:
        os.chdir(machine.directory)
        os.execv(COMMAND, [COMMAND, *command])
    said = b""
    while b"passphrase of" not in said:
        said += os.read(leader, 4096)
    os.write(leader, answer)
    try:
        while piece := os.read(leader, 4096):
            said += piece
    except OSError:
        pass  # the terminal is closed: the command has ended
    os.close(leader)
    assert answer.strip() not in said
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_key_that_is_none_is_refused_before_anything_happens(machine: Machine) -> None:
    _, private = write_keys(machine.directory)
    machine.create()
    kept = machine.image.read_bytes()
    refused = machine.mount("--dump-key", private, check=1)
    assert "private key" in refused.stderr and refused.stderr.count("\n") == 1
    assert machine.image.read_bytes() == kept
    assert runtime.find(str(machine.mountpoint)) is None


def test_a_machine_with_a_dump_key_leaves_its_memory_nowhere_else(machine: Machine) -> None:
    """Not in a core file of its processes, and not in a hibernated memory, which it would have to read itself."""
    public, _ = write_keys(machine.directory)
    machine.create()
    machine.mount("--dump-key", public)
    status = machine.status()
    for pid in (status["pid"], *(standby["pid"] for standby in status["standbys"])):
        with open(f"/proc/{pid}/limits") as limits:
            (line,) = [line for line in limits if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]
    refused = machine.run("hibernate", machine.mountpoint, check=1)
    assert "--dump-key" in refused.stderr and refused.stderr.count("\n") == 1
    assert machine.status()["state"] == "armed"


def test_a_region_that_is_too_small_gives_a_partial_sealed_dump(machine: Machine) -> None:
    public, private = write_keys(machine.directory)
    memory = machine.directory / "memory.raw"
    memory.write_bytes(random.Random(1).randbytes(64 << 20))
    machine.create(size="64MiB", memory="16MiB")
    machine.mount("--memory-image", memory, "--dump-key", public)
    crash = machine.crash(check=1)
    report = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (report["verdict"], report["reason"]) == (crash["verdict"], crash["reason"])
    assert report["verdict"] == "PARTIAL"
    assert 0 < report["pages_present"] == crash["pages_present"] < report["pages_total"] == 16384
    assert report["missing"] == []
    sealed = machine.directory / "out" / "1" / "dump.sealed"
    opened = machine.facts("recover", sealed, "--dump-private-key", private, "--output", "out", check=1)
    assert (opened["verdict"], opened["reason"]) == (report["verdict"], report["reason"])
    assert opened["pages_present"] == report["pages_present"]
    assert sum(run["page_count"] for run in opened["missing"]) == 16384 - opened["pages_present"]
    held, content = ElfCoreFile((machine.directory / "out" / "2" / "vmcore").read_bytes()), memory.read_bytes()
    for load in held.loads:
        assert held.read(load.physical, load.in_file) == content[load.physical : load.physical + load.in_file]


def test_a_full_disk_keeps_the_sealed_dump(machine: Machine, memory: Path) -> None:
    public, private = write_keys(machine.directory)
    machine.create(recipe='size = "64MiB"\nmemory = "16MiB"\n[disk]\nfill_percent = 100\n')
    machine.mount("--memory-image", memory, "--dump-key", public)
    assert machine.crash()["verdict"] == "COMPLETE"
    assert "NOT armed" in machine.mount("--memory-image", memory, "--dump-key", public).stdout
    assert "no room" in machine.status()["reason"]
    machine.unmount()
    carried = machine.facts("recover", machine.image, "--output", "out", check=1)
    assert (carried["verdict"], carried["sealed"]) == ("COMPLETE", True)
    sealed = machine.directory / "out" / "1" / "dump.sealed"
    machine.run("recover", sealed, "--dump-private-key", private, "--output", "out")
    must_be_the_memory(machine.directory / "out" / "2" / "vmcore", memory)
    machine.mount("--memory-image", memory, "--dump-key", public)
    assert machine.status()["state"] == "armed"


@pytest.mark.parametrize("moment", [0.5, pytest.param(0.7, marks=pytest.mark.slow)])
def test_a_boot_that_is_killed_while_it_carries_the_dump_out_is_run_again(
    machine: Machine, memory: Path, moment: float
) -> None:
    public, private = write_keys(machine.directory)
    machine.create()
    machine.mount("--memory-image", memory, "--dump-key", public)
    machine.crash()
    boot = subprocess.Popen([COMMAND, "mount", str(machine.image), str(machine.mountpoint)], stderr=subprocess.DEVNULL)
    try:
        boot.wait(moment)
    except subprocess.TimeoutExpired:
        found = runtime.find(str(machine.mountpoint))
        if found is not None:
            os.kill(found[Register.MACHINE_PID], signal.SIGKILL)
            found.close()
        boot.wait()
    machine.end()
    wait_until(lambda: not os.path.ismount(machine.mountpoint), "nothing is mounted")
    machine.mount("--dump-key", public)
    sealed = machine.crash_directory() / "dump.sealed"
    machine.run("recover", sealed, "--dump-private-key", private, "--output", "out")
    must_be_the_memory(machine.directory / "out" / "1" / "vmcore", memory)
