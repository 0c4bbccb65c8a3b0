"""Without root everything works but locked memory, and status says so."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machines import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534
AS_STRANGER = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
# The interpreter may stand where only root can go; to read it there is all that this capability is for.
AS_NOBODY = (*AS_STRANGER[:-1], "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--")


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A directory that others can reach: pytest keeps its own closed."""
    if os.geteuid():
        pytest.skip("becoming another user needs root; the other tests ran without it")
    closed = [path for path in tmp_path.parents if not path.stat().st_mode & 0o001]
    for path in (tmp_path, *closed):
        path.chmod(0o711)
    yield tmp_path
    for path in closed:
        path.chmod(0o700)


@pytest.fixture
def users_machine(open_path: Path) -> Iterator[Machine]:
    home = open_path / "user"
    home.mkdir(mode=0o700)
    machine = Machine(home, AS_NOBODY)
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    for path in (home, machine.mountpoint, runtime):
        os.chown(path, NOBODY, NOBODY)
    machine.environment |= {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(home)}
    yield machine
    machine.run("unmount", machine.mountpoint, check=None)


def test_a_user_without_root_has_the_whole_story(users_machine: Machine) -> None:
    machine = users_machine
    machine.create()
    machine.mount()
    status = machine.status()
    assert status["state"] == "armed"
    assert status["standbys"][0]["memory_locked"] is False
    assert "not locked" in machine.run("status", machine.mountpoint).stdout
    with pytest.raises(PermissionError):  # root is another user here, and the mount is private
        os.listdir(machine.mountpoint)
    assert machine.crash("--bugcheck", "0x1E")["verdict"] == "COMPLETE"
    machine.mount()
    machine.unmount()
    opened = machine.mount("--allow-other", check=None)
    if opened.returncode:  # the host's /etc/fuse.conf decides
        assert "user_allow_other" in opened.stderr
        assert machine.facts("inspect", machine.image)["region_state"] == "clean"
        machine.mount()
    machine.unmount()
    kept = machine.facts("inspect", machine.image)
    assert kept["region_state"] == "clean"
    assert kept["boot_stage"] == "off"
    machine.mount()
    machine.crash()
    report = machine.facts("recover", machine.image, "--output", "out")
    assert report["verdict"] == "COMPLETE"
    directory = machine.directory / "out" / "1"
    assert json.loads((directory / "report.json").read_text())["machine"] == "simulated"
    assert {path.stat().st_uid for path in directory.iterdir()} == {NOBODY}


def test_a_user_without_root_has_an_encrypted_disk(users_machine: Machine) -> None:
    machine = users_machine
    key_file = machine.directory / "key"
    key_file.write_bytes(os.urandom(32))
    os.chown(key_file, NOBODY, NOBODY)
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("recover", machine.image, "--output", "out", "--key-file", key_file)["verdict"] == "COMPLETE"
    machine.run("device", machine.image, "--key-file", key_file, "--run", "e2fsck -p")


def test_a_machine_is_found_whatever_environment_it_was_started_in(users_machine: Machine) -> None:
    users_machine.create()
    place = users_machine.environment["XDG_RUNTIME_DIR"]
    users_machine.environment["XDG_RUNTIME_DIR"] = "/proc"
    users_machine.mount()
    users_machine.environment["XDG_RUNTIME_DIR"] = place
    assert users_machine.status()["state"] == "armed"
    users_machine.unmount()


@pytest.mark.usefixtures("open_path")
def test_others_come_in_only_where_they_were_asked(machine: Machine) -> None:
    machine.create()
    for arguments, expected in ((), 1), (("--allow-other",), 0):
        machine.mount(*arguments)
        (machine.mountpoint / "file").write_text("open")
        assert as_stranger("cat", machine.mountpoint / "file") == expected
        assert as_stranger("head", "-c1", machine.mountpoint / "dump.bin") == 1
        machine.unmount()


def as_stranger(*command: object) -> int:
    return subprocess.run([*AS_STRANGER, *map(str, command)], capture_output=True, check=False).returncode


@pytest.mark.parametrize("cause", ["oom-kill", "corrupted-clone", "power-cut --at 50"])
def test_a_user_without_root_may_kill_his_machine(users_machine: Machine, cause: str) -> None:
    """Where no cgroup can be made a limit of address space stands for it; nothing else needs root."""
    users_machine.create()
    users_machine.mount()
    name, *options = cause.split()
    facts = users_machine.crash("--cause", name, *options, check=None)
    assert facts["verdict"] == ("PARTIAL" if options else "COMPLETE")
    assert "SIGKILL was its own" in facts["done"] or name != "oom-kill"
    assert "wrote over" in facts["done"] or name != "corrupted-clone"
