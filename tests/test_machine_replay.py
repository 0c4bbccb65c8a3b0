"""A machine that is killed while it boots after a crash boots the next time, and has what was synced before."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

REPLAY_WRITES = range(4, 18)  # before them the boot record is written, behind them again
CONTENT = b"synced" * 2000


def crash_with_a_synced_file(machine: Machine) -> Path:
    """The image as the crash left it: its journal has to be replayed."""
    machine.create(size="64MiB")
    machine.mount()
    with (machine.mountpoint / "file").open("wb") as file:
        file.write(CONTENT)
        file.flush()
        os.fsync(file.fileno())
    machine.crash()
    kept = machine.directory / "crashed"
    shutil.copyfile(machine.image, kept)
    return kept


def mount_killed_at(machine: Machine, write: int) -> None:
    """`kill -9` of the machine's process as it is about to make its n-th write to the image."""
    inject = f"inject=pwrite64:signal=SIGKILL:when={write}"
    machine.prefix = ("strace", "-f", "-qq", "-o", os.devnull, "-P", str(machine.image), "-e", inject)
    done = machine.mount(check=None)
    machine.prefix = ()
    assert done.returncode != 0, f"the boot had ended before write {write}"
    machine.end()


def killed_and_made_good(machine: Machine, writes: range) -> None:
    crashed = crash_with_a_synced_file(machine)
    for write in writes:
        shutil.copyfile(crashed, machine.image)
        mount_killed_at(machine, write)
        machine.mount()
        assert (machine.mountpoint / "file").read_bytes() == CONTENT
        machine.unmount()
        machine.must_be_clean()


def test_a_boot_that_is_killed_in_the_replay_is_made_good_by_the_next(machine: Machine) -> None:
    killed_and_made_good(machine, REPLAY_WRITES[::5])


@pytest.mark.slow
def test_so_at_every_write_of_the_replay(machine: Machine) -> None:
    killed_and_made_good(machine, REPLAY_WRITES)
