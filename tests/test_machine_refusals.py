"""Bad input gets one clear line and exit code 1 or 2, and loses nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from dumpwriter import runtime
from tests.machines import COMMAND, Machine
from tests.mounting import wait_until


def refused(machine: Machine, *arguments: object, code: int = 1) -> str:
    """One line on standard error and nothing on standard output."""
    done = machine.run(*arguments, check=code)
    assert done.stdout == ""
    if code == 1:
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("ghostdump: ")
    return done.stderr


def test_images_that_are_none(machine: Machine) -> None:
    directory = machine.directory
    (directory / "empty").touch()
    (directory / "noise").write_bytes(os.urandom(20 << 20))
    os.mkfifo(directory / "fifo")
    for command in (("mount", machine.mountpoint), ("recover", "--output", "out"), ("inspect",), ("verify",)):
        name, *rest = command
        assert "No such file" in refused(machine, name, "missing", *rest)
        assert "not a ghostdump image" in refused(machine, name, "empty", *rest)
        assert "not a ghostdump image" in (said := refused(machine, name, "noise", *rest))
        assert ("ghostdump recover searches it" in said) == (name != "recover"), "it is no advice to do what was done"
        assert "not a regular file" in refused(machine, name, "fifo", *rest)
        assert "not a regular file" in refused(machine, name, directory, *rest)
    assert (directory / "empty").stat().st_size == 0


def test_an_image_that_was_cut_or_grown(machine: Machine) -> None:
    machine.create()
    whole = machine.image.stat().st_size
    os.truncate(machine.image, whole - 4096)
    assert "cut short or grown" in refused(machine, "mount", machine.image, machine.mountpoint)
    os.truncate(machine.image, whole + (1 << 20))
    assert "cut short" in refused(machine, "mount", machine.image, machine.mountpoint)


def test_a_damaged_boot_record(machine: Machine) -> None:
    machine.create()
    area = machine.image.stat().st_size - (8 << 20)
    with machine.image.open("r+b") as file:
        for offset in (0, 4096):
            file.seek(area + offset + 100)
            file.write(b"damage")
    assert "both copies of the boot record are damaged" in refused(machine, "mount", machine.image, machine.mountpoint)


def test_an_image_or_a_mount_point_that_is_in_use(machine: Machine, tmp_path: Path) -> None:
    machine.create()
    machine.mount()
    second = tmp_path / "second.img"
    machine.run("create", second, "--size", "64MiB", "--memory", "16MiB")
    assert "already a mount point" in refused(machine, "mount", second, machine.mountpoint)
    other = tmp_path / "other"
    other.mkdir()
    assert "in use" in refused(machine, "mount", machine.image, other)
    assert "in use" in refused(machine, "recover", machine.image, "--output", "out")
    assert "in use" in refused(machine, "verify", machine.image)
    assert machine.status()["state"] == "armed"
    assert machine.facts("inspect", machine.image)["region_state"] == "armed"


def test_what_a_mount_needs_and_has_not_is_told(machine: Machine, tmp_path: Path) -> None:
    machine.create()
    (machine.directory / "broken.elf").write_bytes(b"\x7fELF" + bytes(100))
    assert "memory image" in refused(
        machine, "mount", machine.image, machine.mountpoint, "--memory-image", "broken.elf"
    )
    machine.environment["PATH"] = str(machine.directory)
    assert "fusermount3 is not installed" in refused(machine, "mount", machine.image, machine.mountpoint)
    machine.environment["PATH"] = os.environ["PATH"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "no such directory" in refused(machine, "mount", machine.image, tmp_path / "missing")
    assert "not a directory" in refused(machine, "mount", machine.image, machine.image)
    assert "not empty" in refused(machine, "mount", machine.image, tmp_path / "full")
    machine.mount()
    assert machine.status()["state"] == "armed"


@pytest.mark.parametrize(
    ("size", "memory"),
    [("0", "16MiB"), ("-5", "16MiB"), ("many", "16MiB"), ("1GiB", "0"), ("1GiB", "4KiB"), ("20MiB", "16MiB")],
)
def test_sizes_that_make_no_sense(machine: Machine, size: str, memory: str) -> None:
    refused(machine, "create", machine.image, f"--size={size}", f"--memory={memory}", code=2)
    assert not machine.image.exists()


def test_create_never_takes_a_file_over(machine: Machine) -> None:
    machine.image.write_bytes(b"mine")
    assert "exists already" in refused(machine, "create", machine.image, "--size", "64MiB", "--memory", "16MiB")
    assert machine.image.read_bytes() == b"mine"


def test_machines_that_are_not_there(machine: Machine) -> None:
    for command in ("status", "drivers", "extents", "crash"):
        assert "no machine at" in refused(machine, command, machine.mountpoint)
        assert "mistyped.img: no such file or directory" in refused(machine, command, "mistyped.img")
    assert "nothing of ours is mounted" in refused(machine, "unmount", machine.mountpoint)
    machine.create()
    machine.mount()
    machine.crash()
    assert "does not run" in refused(machine, "crash", machine.mountpoint)


def test_arguments_that_make_no_sense(machine: Machine) -> None:
    for arguments in (
        (),
        ("explode",),
        ("create",),
        ("create", "x.img"),
        ("crash", machine.mountpoint, "--bugcheck", "red"),
        ("crash", machine.mountpoint, "--bugcheck", "0x1ffffffffffffffff"),
        ("recover", "x.img"),
        ("create", "x.img", "--recipe", "missing.toml"),
    ):
        refused(machine, *arguments, code=2)


def test_a_host_that_is_full_disarms_and_says_so(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("a small host disk (tmpfs) needs root")
    host = machine.directory / "host"
    host.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", host], check=True)
    try:
        machine.create(size="64MiB", memory="16MiB")
        moved = host / "disk.img"
        subprocess.run(["cp", "--sparse=always", machine.image, moved], check=True)
        machine.image = moved
        subprocess.run(["dd", "if=/dev/zero", f"of={host}/ballast", "bs=64k"], check=False, capture_output=True)
        said = machine.mount(check=None)
        assert said.returncode == 0, said.stderr
        assert "NOT armed" in said.stdout
        assert "host" in machine.status()["reason"]
        (host / "ballast").unlink()
        machine.unmount()
        machine.mount()
        assert machine.status()["state"] == "armed"
        machine.unmount()
    finally:
        machine.end()
        subprocess.run(["umount", "-l", host], check=True)


def test_an_image_that_is_read_only_still_gives_its_dump(crashed: Machine) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", crashed.image], check=True)
    else:
        crashed.image.chmod(0o400)
    try:
        assert "cannot open" in refused(crashed, "mount", crashed.image, crashed.mountpoint)
        said = crashed.run("recover", crashed.image, "--output", "out").stdout
        assert "read-only" in said and "COMPLETE" in said
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", crashed.image], check=True)
    assert crashed.facts("recover", crashed.image, "--output", "out")["verdict"] == "COMPLETE"


def test_an_output_without_room_or_rights_leaves_the_dump(crashed: Machine) -> None:
    (crashed.directory / "file").touch()
    assert "is there, and is no directory" in refused(crashed, "recover", crashed.image, "--output", "file")
    assert "cannot make" in refused(crashed, "recover", crashed.image, "--output", "file/below")
    if os.geteuid() == 0:
        small = crashed.directory / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
        try:
            assert "no room" in refused(crashed, "recover", crashed.image, "--output", small)
            assert os.listdir(small) == []
        finally:
            subprocess.run(["umount", small], check=True)
    assert crashed.facts("recover", crashed.image, "--output", "out")["verdict"] == "COMPLETE"


@pytest.mark.parametrize(
    "moment",
    [
        0.15,
        pytest.param(0.3, marks=pytest.mark.slow),
        0.45,
        pytest.param(0.6, marks=pytest.mark.slow),
        0.75,
        pytest.param(0.9, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_mount_leaves_nothing_and_loses_nothing(machine: Machine, moment: float) -> None:
    machine.create()
    machine.mount()
    machine.crash()
    process = subprocess.Popen(
        [COMMAND, "mount", str(machine.image), str(machine.mountpoint)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert b"Traceback" not in complaint
    if process.returncode and not os.path.ismount(machine.mountpoint):
        assert process.returncode in (1, 130, -signal.SIGINT), complaint
        wait_until(lambda: not os.path.ismount(machine.mountpoint), "nothing is mounted")
        machine.mount()
    assert (machine.crash_directory() / "vmcore").exists()
    assert machine.status()["state"] == "armed"


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_the_foreground_process_alone_ends_the_machine(machine: Machine, order: signal.Signals) -> None:
    machine.create(size="64MiB")
    command = [COMMAND, "mount", str(machine.image), str(machine.mountpoint), "--foreground"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "mounted until Ctrl-C\n"
            process.send_signal(order)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert runtime.find(str(machine.mountpoint)) is None
    machine.must_be_clean()
    assert machine.facts("inspect", machine.image)["boot_stage"] == "off"


def test_ctrl_c_in_the_foreground_is_a_clean_shutdown(machine: Machine) -> None:
    machine.create()
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "mount", str(machine.image), str(machine.mountpoint), "--foreground"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    said = b""
    while b"until Ctrl-C" not in said:
        said += os.read(leader, 4096)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    os.close(leader)
    machine.must_be_clean()
    assert runtime.find(str(machine.mountpoint)) is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_create_leaves_no_file(machine: Machine, how: signal.Signals) -> None:
    recipe = machine.directory / "recipe.toml"
    recipe.write_text('size = "400MiB"\nmemory = "128MiB"\n[region]\nextents = 2000\n')
    process = subprocess.Popen([COMMAND, "create", str(machine.image), "--recipe", str(recipe)], stderr=subprocess.PIPE)
    wait_until(lambda: machine.image.exists() or process.poll() is not None, "the file is there")
    process.send_signal(how)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode in (0, 130), complaint
    assert b"Traceback" not in complaint
    assert machine.image.exists() == (process.returncode == 0)


def ignores(pid: int, how: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(mask >> (how - 1) & 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_create_that_is_done_is_not_interrupted_any_more(machine: Machine, how: signal.Signals) -> None:
    """While it tells of the disk that it has made, into a pipe that nobody reads yet."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    words = [COMMAND, "create", str(machine.image), "--size", "128MiB", "--memory", "16MiB"]
    process = subprocess.Popen(words, stdout=writer)
    os.close(writer)
    wait_until(lambda: ignores(process.pid, how), "the disk is made")
    process.send_signal(how)
    with os.fdopen(reader, "rb") as told:
        assert b"dump region" in told.read()
    assert process.wait(30) == 0
    assert machine.image.exists()
