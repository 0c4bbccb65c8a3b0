"""What a new user ran into, each kept as a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import Register
from dumpwriter.recovery.crashstore import UNFINISHED, HostStore
from tests.machines import COMMAND
from tests.mounting import wait_until
from vdisk.errors import MountError, RecoveryError
from vdisk.mount.mountinfo import parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine


@pytest.mark.parametrize("damage", ["removed", "cut", "flipped"])
def test_a_copy_that_is_not_what_it_was_is_made_again(crashed: Machine, damage: str) -> None:
    kept = crashed.image.read_bytes()
    crashed.run("recover", crashed.image, "--output", "out")
    crashed.image.write_bytes(kept)
    vmcore = crashed.directory / "out" / "1" / "vmcore"
    whole = vmcore.read_bytes()
    if damage == "removed":
        vmcore.unlink()
    else:
        vmcore.write_bytes(whole[:-4096] if damage == "cut" else whole[:5000] + b"?" + whole[5001:])
    report = crashed.facts("recover", crashed.image, "--output", "out")
    assert report["path"].endswith("/out/2")
    assert (crashed.directory / "out" / "2" / "vmcore").read_bytes() == whole


def test_a_damaged_image_is_not_reported_as_the_whole_one(crashed: Machine) -> None:
    damaged = crashed.directory / "damaged.img"
    damaged.write_bytes(crashed.image.read_bytes())
    crashed.run("recover", crashed.image, "--output", "out")
    (extent, *_) = crashed.facts("extents", damaged)
    with damaged.open("r+b") as file:
        for slot in range(2, 12):  # more than parity gives back, from the first frame of pages on
            file.seek(extent["physical_bytes"] + 4096 + slot * 65 * 4096)
            file.write(os.urandom(8192))
    report = crashed.facts("recover", damaged, "--output", "out", check=1)
    assert report["verdict"] == "PARTIAL"
    assert report["path"].endswith("/out/2")


def test_one_place_takes_one_recovery_at_a_time(tmp_path: Path) -> None:
    first = HostStore(str(tmp_path))
    with pytest.raises(RecoveryError, match="another recovery"):
        HostStore(str(tmp_path))
    first.close()
    HostStore(str(tmp_path)).close()


def test_what_is_not_ours_is_not_removed(crashed: Machine) -> None:
    for name in ("unfinished", UNFINISHED):
        (crashed.directory / "out" / name).mkdir(parents=True)
        (crashed.directory / "out" / name / "mine").write_text("mine")
    crashed.run("recover", crashed.image, "--output", "out", check=1)
    for name in ("unfinished", UNFINISHED):
        assert (crashed.directory / "out" / name / "mine").read_text() == "mine"


def test_a_machine_without_a_standby_never_says_armed(machine: Machine) -> None:
    machine.create()
    machine.mount()
    for kills in range(1, 5):  # each standby is replaced three times
        wait_until(lambda: machine.status()["state"] == "armed", "both standbys are ready")
        machine.signal_standbys(signal.SIGKILL)
        wait_until(lambda: len(machine.status()["rearmings"]) == 2 * kills, "the machine has noticed")  # noqa: B023
    wait_until(lambda: "unmount and mount again" in (machine.status()["reason"] or ""), "no more are made")
    status = machine.status()
    assert (status["state"], len(status["rearmings"])) == ("disarmed", 8)


@pytest.mark.slow
def test_a_rehearsal_is_waited_for_as_long_as_it_may_take(machine: Machine) -> None:
    """Each standby has ten seconds, one after the other."""
    machine.create(size="64MiB")
    machine.mount()
    machine.signal_standbys(signal.SIGSTOP)
    said = machine.run("rehearse", machine.mountpoint, check=1)
    assert said.stdout.startswith("rehearsal failed") and said.stdout.count("did not answer within 10 s") == 2


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param((0,), marks=pytest.mark.slow),
        (1,),
        pytest.param((2,), marks=pytest.mark.slow),
        (0, 1, 2),
    ],
)
def test_closed_standard_streams_harm_nothing(machine: Machine, closed: tuple[int, ...]) -> None:
    machine.create()
    redirections = " ".join(f"{number}>&-" for number in closed)
    command = f'"{COMMAND}" mount "{machine.image}" "{machine.mountpoint}" {redirections}'
    assert subprocess.run(["sh", "-c", command], check=False, capture_output=True).returncode == 0
    (machine.mountpoint / "file").write_bytes(b"x" * 100_000)
    assert machine.status()["state"] == "armed"
    machine.unmount()
    machine.must_be_clean()


@pytest.mark.parametrize(
    "asking", ["mount {image} {mountpoint}", "create another.img --size 64MiB --memory 16MiB --encrypt"]
)
def test_a_passphrase_is_asked_of_nobody_where_standard_input_is_closed(machine: Machine, asking: str) -> None:
    (machine.directory / "key").write_bytes(b"key")
    machine.create("--encrypt", "--key-file", "key")
    words = asking.format(image=machine.image, mountpoint=machine.mountpoint)
    done = subprocess.run(
        ["sh", "-c", f'exec "{COMMAND}" {words} <&-'],
        cwd=machine.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "give --key-file FILE" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_machines_never_share_a_mount_point(machine: Machine) -> None:
    machine.create(size="64MiB")
    other = machine.directory / "other.img"
    machine.run("create", other, "--size", "64MiB", "--memory", "16MiB")
    mounts = [subprocess.Popen([COMMAND, "mount", image, machine.mountpoint]) for image in (machine.image, other)]
    assert sorted(mount.wait(60) for mount in mounts) == [0, 1]
    assert machine.status()["state"] == "armed"  # whichever it is, its name was not taken from it
    machine.unmount()


def test_a_mount_point_is_given_to_one_living_machine(tmp_path: Path) -> None:
    first = runtime.create(str(tmp_path))
    with pytest.raises(MountError, match="another machine"):
        runtime.create(str(tmp_path))
    first[Register.MACHINE_PID] = 0  # it has ended
    second = runtime.create(str(tmp_path))
    first.remove()
    found = runtime.find(str(tmp_path))
    assert found is not None
    second.remove()
    assert runtime.find(str(tmp_path)) is None
    for file in (first, second, found):
        file.close()


def test_json_of_a_mount_in_the_foreground_is_one_document(machine: Machine) -> None:
    machine.create()
    command = [COMMAND, "mount", str(machine.image), str(machine.mountpoint), "--foreground", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "until Ctrl-C" in process.stderr.readline()
        machine.unmount()
        assert json.loads(process.stdout.read())["state"] == "armed"


@pytest.mark.parametrize("command", ["", " ", '"e2fsck'])
def test_a_command_that_is_none_is_refused(machine: Machine, command: str) -> None:
    done = machine.run("device", machine.image, "--run", command, check=2)
    assert "is not a command" in done.stderr


def test_output_that_nobody_takes_is_one_line(machine: Machine) -> None:
    machine.create()
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "inspect", machine.image], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"No space left" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("records zeroed", marks=pytest.mark.slow),
        "area zeroed",
        "cut",
        pytest.param("grown", marks=pytest.mark.slow),
    ],
)
def test_a_dump_is_carved_where_nothing_tells_of_it(crashed: Machine, lost: str) -> None:
    size = crashed.image.stat().st_size
    with crashed.image.open("r+b") as file:
        if lost == "grown":
            file.truncate(size + (1 << 20))
        elif lost == "cut":
            file.truncate(size - 4096)
        else:
            file.seek(size - (8 << 20))
            file.write(bytes(8192 if lost == "records zeroed" else 8 << 20))
    for command in ("verify", "inspect"):
        assert "ghostdump recover searches it" in crashed.run(command, crashed.image, check=1).stderr
    report = crashed.facts("recover", crashed.image, "--output", "out")
    assert report["verdict"] == "COMPLETE"
    assert report["carved"]


def test_any_file_name_can_be_logged_and_a_text_that_is_no_text(machine: Machine) -> None:
    machine.create()
    machine.mount()
    for name in (b"bad\xff", b"line\nBUG: forged", b"\x1b[31m"):
        with open(os.path.join(os.fsencode(machine.mountpoint), name), "wb"):
            pass
    log = (machine.mountpoint / ".ghostdump" / "log").read_text()
    assert "\nBUG: forged" not in log and "\x1b" not in log
    assert "line\\nBUG: forged" in log
    done = subprocess.run([COMMAND, "crash", machine.mountpoint, "--text", b"\x80"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_failure_with_json_is_a_document_too(machine: Machine) -> None:
    done = machine.run("status", machine.mountpoint, "--json", check=1)
    assert json.loads(done.stdout) == {"error": done.stderr.strip().removeprefix("ghostdump: "), "exit_code": 1}


def test_a_crash_from_inside_the_mount(machine: Machine) -> None:
    machine.create()
    machine.mount()
    done = subprocess.run([COMMAND, "crash", "."], cwd=machine.mountpoint, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "COMPLETE" in done.stdout
    wait_until(lambda: not os.path.ismount(machine.mountpoint), "the mount is gone")


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    command = f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && "{COMMAND}" status x'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_mount_point_of_somebody_else_with_a_carriage_return() -> None:
    line = b"36 35 98:0 / /mnt/a\rb rw,noatime master:1 - tmpfs none rw\n"
    assert [mount.mountpoint for mount in parse(line * 2)] == ["/mnt/a\rb"] * 2


def test_an_image_whose_name_begins_with_a_dash(machine: Machine) -> None:
    machine.run("create", "--size", "64MiB", "--memory", "16MiB", "--", "-disk.img")
    assert (machine.directory / "-disk.img").exists()


def test_who_holds_the_image_is_named(machine: Machine) -> None:
    machine.create()
    machine.mount()
    said = machine.run("recover", machine.image, "--output", "out", check=1).stderr
    assert f"ghostdump unmount {machine.mountpoint}" in said
    status = machine.status()
    machine.signal_standbys(signal.SIGSTOP)
    os.kill(status["pid"], signal.SIGKILL)
    wait_until(lambda: machine.status()["state"] == "crashed", "the machine is dead")
    said = machine.run("recover", machine.image, "--output", "out", check=1).stderr
    assert f"process {status['standbys'][0]['pid']}" in said
    machine.signal_standbys(signal.SIGCONT)
    machine.wait_until_dumped()


def test_what_a_disk_says_does_not_steer_the_terminal(machine: Machine) -> None:
    machine.create("--encrypt", "--key-file", __file__)
    before = machine.run("inspect", machine.image, "--key-file", __file__).stdout
    assert "--key-file" not in before  # it was given
    machine.mount("--key-file", __file__)
    said = machine.run("crash", machine.mountpoint, "--text", "two\nlines, \x1b[31mred").stdout
    said += machine.run("status", machine.mountpoint).stdout
    said += machine.run("inspect", machine.image, "--key-file", __file__).stdout
    assert "\x1b" not in said
    assert r"two\nlines, \x1b[31mred" in said
    machine.unmount()
    unknown = machine.run("status", f"{machine.directory}/two\nlines", check=1)
    assert unknown.stderr.count("\n") == 1


def test_a_dump_is_not_shown_as_a_disk(crashed: Machine) -> None:
    crashed.run("recover", crashed.image, "--output", "out")
    vmcore = crashed.directory / "out" / "1" / "vmcore"
    with vmcore.open("r+b") as file:
        file.truncate(vmcore.stat().st_size + 511 & ~511)  # a size that a disk may have
    content = vmcore.read_bytes()
    refused = crashed.run("device", vmcore, "--run", "dd if=/dev/zero count=1 conv=notrunc", check=1)
    assert "is a dump already, and no image" in refused.stderr
    assert vmcore.read_bytes() == content
