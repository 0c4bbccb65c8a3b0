"""Rotation: the first crash and the latest stay, and a number is used once."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.recovery.retention import next_name, numbered, superseded

if TYPE_CHECKING:
    from tests.machines import Machine

names = st.lists(st.sampled_from([*map(str, range(1, 30)), "unfinished", "bounds", "mine", "007", "٣"]), unique=True)


@given(names, st.integers(1, 10))
def test_what_stays_is_the_first_and_the_latest(found: list[str], keep: int) -> None:
    going = superseded(found, keep)
    crashes = numbered(found)
    staying = [name for name in crashes if name not in going]
    assert len(staying) == min(keep, len(crashes))
    if crashes:
        assert staying[-1] == crashes[-1]
        assert keep == 1 or staying[0] == crashes[0]
    assert set(going) <= set(crashes)
    assert superseded(found, None) == []


@given(names, st.integers(1, 40))
def test_a_number_is_never_used_again(found: list[str], bound: int) -> None:
    following = int(next_name(found, bound))
    assert following >= bound
    assert all(int(name) < following for name in numbered(found))


def codes(machine: Machine) -> dict[str, int]:
    store = machine.mountpoint / "var" / "crash"
    return {
        name: json.loads((store / name / "report.json").read_text())["bugcheck"]["code"]
        for name in os.listdir(store)
        if name.isdecimal()
    }


def test_a_boot_loop_keeps_its_first_crash_and_its_latest(machine: Machine) -> None:
    machine.create(size="200MiB")
    for number in range(1, 6):
        machine.mount("--keep", 3)
        machine.crash("--bugcheck", number)
    machine.mount("--keep", 3)
    assert codes(machine) == {"1": 1, "4": 4, "5": 5}
    assert (machine.mountpoint / "var" / "crash" / "bounds").read_text() == "6\n"


def test_the_space_rule_leaves_the_dump_in_the_region(machine: Machine) -> None:
    machine.create()
    machine.mount()
    machine.crash()
    assert (
        "no room" in machine.run("recover", machine.image, "--output", "out", "--min-free", "1000TiB", check=1).stderr
    )
    machine.mount("--min-free", "100MiB")
    assert machine.status()["state"] == "disarmed"
    machine.unmount()
    machine.mount("--min-free", "1MiB")
    assert machine.status()["state"] == "armed"
    assert machine.crash_directory().exists()


def test_numbers_go_on_where_crashes_were_removed(machine: Machine) -> None:
    machine.create()
    for number in (1, 2):
        machine.mount()
        machine.crash("--bugcheck", number)
        report = machine.facts("recover", machine.image, "--output", "out", "--keep", 1)
        assert report["path"].endswith(f"/out/{number}")
    assert sorted(os.listdir(machine.directory / "out")) == ["2", "bounds"]
