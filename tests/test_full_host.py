"""The host's filesystem is full, and the image in it is sparse: no dump is lost, and it is said what is full."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machines import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small host disk (tmpfs) needs root")


@pytest.fixture
def host(machine: Machine) -> Iterator[Path]:
    """A small filesystem; its name has what a shell would take for something else."""
    path = machine.directory / "the host's"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", path], check=True)
    machine.image = path / "disk.img"
    yield path
    machine.end()
    subprocess.run(["umount", "-l", path], check=True)


def fill(host: Path) -> Path:
    ballast = host / "ballast"
    with ballast.open("wb") as file:
        while True:
            try:
                os.write(file.fileno(), bytes(4096))
            except OSError:
                return ballast


def test_a_dump_stays_where_the_host_is_full_and_the_shutdown_is_clean(machine: Machine, host: Path) -> None:
    machine.create()
    machine.mount()
    machine.crash()
    ballast = fill(host)
    said = machine.mount().stdout
    recover = f"ghostdump recover {shlex.quote(str(machine.image))} --output DIR"
    assert "no room for the dump on the host" in said and recover in said
    status = machine.status()
    assert status["state"] == "disarmed" and status["untaken"].startswith("no room for the dump on the host")
    assert os.listdir(machine.mountpoint)
    assert machine.run("unmount", machine.mountpoint).stdout == f"unmounted; a dump stays in the region: {recover}\n"
    machine.must_be_clean()
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"
    ballast.unlink()
    machine.mount()
    assert machine.status()["untaken"] is None
    assert machine.crash_directory().exists()


def test_a_shutdown_that_the_host_has_no_room_for_says_why(machine: Machine, host: Path) -> None:
    machine.create()
    machine.mount()
    fill(host)
    (machine.mountpoint / "directory").mkdir()
    said = machine.run("unmount", machine.mountpoint, check=1).stderr
    assert "the host's filesystem is full" in said and said.count("\n") == 1
