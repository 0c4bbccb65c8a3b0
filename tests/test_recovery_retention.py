"""Rotation: the first crash and the latest stay, and a number is used once."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.extraction import RegionSource, extract
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.retention import KEEP_ALL, NUMBER_MAX, next_number, numbered, superseded
from tests.dumping import DumpBench
from vdisk.errors import RecoveryError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from pathlib import Path

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
    following = next_number(found, b"%d\n" % bound)
    assert following >= bound
    assert all(int(name) < following for name in numbered(found))


@pytest.mark.parametrize(
    "bound", [b"", b"9" * 32, b"1" + b"0" * 31, b"-5", b"0", b"seven", b"\xff" * 32, b"1000000001"]
)
def test_a_bound_that_is_none_of_ours_says_nothing(bound: bytes) -> None:
    assert next_number(["3"], bound) == 4


def test_numbers_that_are_used_up_are_not_used_again() -> None:
    assert next_number([str(NUMBER_MAX)], b"") == next_number([], b"%d" % (NUMBER_MAX + 1)) == NUMBER_MAX + 1


def recovered(store: HostStore) -> dict[str, Any]:
    """The report of a recovery of one and the same dump."""
    bench = DumpBench(100)
    bench.write()
    source = RegionSource(Mapped(bench.disk, bench.extents), bench.identity)
    return extract(source, store, KEEP_ALL, lambda *_: None, WithoutKey()).report


@pytest.mark.parametrize("bound", ["9" * 32, "1" + "0" * 31])
def test_a_store_whose_bound_overflows_takes_every_crash(tmp_path: Path, bound: str) -> None:
    (tmp_path / "bounds").write_text(bound)
    with contextlib.closing(HostStore(str(tmp_path))) as store:
        names = [os.path.basename(recovered(store)["path"])]
        (tmp_path / names[0] / "vmcore").unlink()  # so that the next one is no copy of it
        names.append(os.path.basename(recovered(store)["path"]))
    assert names == ["1", "2"]
    assert (tmp_path / "bounds").read_text() == "3\n"


def test_the_last_number_is_used_and_then_refused(tmp_path: Path) -> None:
    (tmp_path / "bounds").write_text(str(NUMBER_MAX))
    with contextlib.closing(HostStore(str(tmp_path))) as store:
        path = recovered(store)["path"]
        assert recovered(store)["path"] == path == str(tmp_path / str(NUMBER_MAX))
        os.unlink(os.path.join(path, "vmcore"))
        with pytest.raises(RecoveryError, match="is the last that has a number"):
            recovered(store)
    assert sorted(os.listdir(tmp_path)) == [str(NUMBER_MAX), "bounds"]


@pytest.mark.parametrize(
    "change",
    [
        {"path": None},
        {"path": "/etc"},
        {"path": 7, "pages_total": "many", "stage": [1], "kind": {}, "reason": "\x1b[31m"},
        {"recovered": "yesterday"},
    ],
    ids=str,
)
def test_nothing_in_a_stored_report_is_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    with contextlib.closing(HostStore(str(tmp_path))) as store:
        first = recovered(store)
        file = tmp_path / "1" / "report.json"
        stored = json.loads(file.read_text())
        file.write_text(json.dumps({name: value for name, value in (stored | change).items() if value is not None}))
        again = recovered(store)
    assert again == first | ({"recovered": None} if "recovered" in change else {})


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "7", "{", ""])
def test_a_stored_report_that_is_none_is_passed_over(tmp_path: Path, content: str) -> None:
    with contextlib.closing(HostStore(str(tmp_path))) as store:
        recovered(store)
        (tmp_path / "1" / "report.json").write_text(content)
        assert recovered(store)["path"] == str(tmp_path / "2")


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
