"""How the last run ended is told apart, at the next boot and offline: four ends, and whose words they are."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from dumpwriter import runtime
from dumpwriter.formats.runtime import StandbyRegister
from dumpwriter.machine.status import machine_is_alive, standby_is_alive
from tests.mounting import wait_until
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    from typing import Any

    from tests.machines import Machine


def cut_the_power(machine: Machine) -> None:
    """End machine and standbys at once: nobody gets to say anything."""
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    pids = [machine.status()["pid"], *(standby[StandbyRegister.PID] for standby in found.standbys if standby.is_alive)]
    for order in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, order)
    wait_until(lambda: not machine_is_alive(found) and not standby_is_alive(found), "all of them are gone")
    found.close()
    wait_until(lambda: mountinfo.find(str(machine.mountpoint)) is None, "the mount is gone")


def end_of(machine: Machine) -> Any:
    return machine.facts("inspect", machine.image)["last_run"]["end"]


def test_a_disk_that_never_ran(machine: Machine) -> None:
    machine.create(size="64MiB")
    assert end_of(machine) == "never ran"
    assert "last run:" not in machine.mount().stdout
    assert machine.facts("inspect", machine.image)["last_run"] is None
    assert machine.status()["last_run"] == {"end": "never ran", "stage": "off", "reason": ""}


@pytest.mark.parametrize("how", ["unmount", "bugcheck", "kill", "power cut", "controller-dead"])
def test_how_the_last_run_ended_is_told_apart(machine: Machine, how: str) -> None:
    machine.create(size="64MiB")
    machine.mount()
    end, reason = {
        "unmount": ("clean shutdown", ""),
        "bugcheck": ("crash with a dump", "looked where nothing was"),
        "kill": ("crash with a dump", "the mount process died without a bugcheck"),
        "power cut": ("power cut", "machine and standby ended at once, and left no word"),
        "controller-dead": ("crash without a dump", "controller"),
    }[how]
    if how == "unmount":
        machine.unmount()
    elif how == "bugcheck":
        machine.crash("--text", "looked where nothing was")
    elif how == "kill":
        machine.kill()
    elif how == "power cut":
        cut_the_power(machine)
    else:
        machine.crash("--cause", how, check=None)
    inspected = machine.facts("inspect", machine.image)["last_run"]
    assert inspected["end"] == end and reason in inspected["reason"]
    assert inspected["stage"] == ("off" if how == "unmount" else "running")
    if "without" in end or how == "power cut":
        recovered = machine.facts("recover", machine.image, "--output", "out", check=1)
        assert recovered["last_run"] == inspected
    said = machine.mount().stdout
    assert ("last run: " in said) == (end in ("crash without a dump", "power cut"))
    assert machine.status()["last_run"] == inspected
    machine.unmount()
    assert end_of(machine) == "clean shutdown"


def test_without_its_words_a_crash_that_left_no_dump_looks_like_a_power_cut(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    machine.crash("--cause", "controller-dead", check=None)
    found = runtime.find(str(machine.mountpoint))
    assert found is not None
    found.remove()
    found.close()
    assert end_of(machine) == "power cut"


def test_the_words_of_another_disk_or_an_older_run_are_not_taken(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    machine.crash("--cause", "controller-dead", check=None)
    elsewhere = machine.directory / "elsewhere"
    elsewhere.mkdir()
    machine.run("mount", machine.image, elsewhere)
    machine.run("unmount", elsewhere)
    assert end_of(machine) == "clean shutdown"
    machine.run("mount", machine.image, elsewhere)
    machine.run("unmount", elsewhere)
    machine.image.unlink()
    machine.create(size="64MiB")
    assert end_of(machine) == "never ran"


def test_a_boot_that_was_given_up_is_no_run(machine: Machine) -> None:
    machine.create(size="64MiB")
    machine.mount()
    machine.crash("--text", "the crash to tell of")
    before = machine.facts("inspect", machine.image)
    machine.run("mount", machine.image, machine.mountpoint, "--memory-image", "missing", check=2)
    after = machine.facts("inspect", machine.image)
    assert (after["boot_count"], after["last_run"]) == (before["boot_count"], before["last_run"])


def test_a_boot_that_failed_once_its_drivers_were_up_is_none_either(machine: Machine) -> None:
    """It had recorded a place for a small dump of its own, which is where the last run is looked for."""
    machine.create(size="64MiB")
    machine.mount()
    machine.crash("--text", "the crash to tell of")
    before = machine.facts("inspect", machine.image)
    with machine.image.open("r+b") as image:
        image.seek(1024)
        superblock = image.read(1024)
        image.seek(1024)
        image.write(bytes(1024))
    machine.mount(check=1)
    after = machine.facts("inspect", machine.image)
    assert (after["boot_count"], after["last_run"]) == (before["boot_count"], before["last_run"])
    with machine.image.open("r+b") as image:
        image.seek(1024)
        image.write(superblock)
    assert machine.mount().stdout.startswith("last crash: COMPLETE")
    assert machine.status()["last_run"] == before["last_run"]
