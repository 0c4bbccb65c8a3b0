"""Page file mode: the dump takes the page file over, and the next boot makes another."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machines import Machine

RECIPE = 'size = "160MiB"\nmemory = "16MiB"\n[region]\nkind = "pagefile"\n'
FULL = 'size = "48MiB"\nmemory = "16MiB"\n[region]\nkind = "pagefile"\n[disk]\nfill_percent = 100\n'


def blocks_of(extents: list[dict[str, int]]) -> set[int]:
    return {
        block
        for extent in extents
        for block in range(
            extent["physical_bytes"] // 4096, (extent["physical_bytes"] + extent["length_bytes"]) // 4096
        )
    }


def report_of(machine: Machine, number: int = 1) -> Any:
    return json.loads((machine.crash_directory(number) / "report.json").read_text())


def test_a_dump_in_the_page_file_is_taken_out_and_a_new_page_file_is_made(machine: Machine) -> None:
    machine.run("create", machine.image, "--size", "128MiB", "--memory", "16MiB", "--region", "pagefile")
    machine.mount()
    status = machine.status()
    assert status["region"]["path"] == "/pagefile.sys"
    assert not (machine.mountpoint / "dump.bin").exists()
    with pytest.raises(PermissionError):
        os.unlink(machine.mountpoint / "pagefile.sys")
    old = blocks_of(status["region"]["extents"])
    assert machine.crash("--bugcheck", "0xD1")["verdict"] == "COMPLETE"
    assert machine.facts("inspect", machine.image)["region_kind"] == "pagefile"
    machine.mount()
    assert report_of(machine)["verdict"] == "COMPLETE"
    status = machine.status()
    assert status["state"] == "armed"
    new = blocks_of(status["region"]["extents"])
    assert len(new) == len(old)
    assert not new & old
    machine.unmount()
    machine.must_be_clean()
    machine.mount()
    assert blocks_of(machine.status()["region"]["extents"]) == new, "a page file that held no dump is not made anew"


def test_without_room_for_a_second_page_file_the_old_one_is_used_again(machine: Machine) -> None:
    machine.create(recipe=FULL)
    machine.mount()
    old = machine.status()["region"]["extents"]
    assert machine.crash()["verdict"] == "COMPLETE"
    assert machine.facts("recover", machine.image, "--output", "out")["verdict"] == "COMPLETE"
    machine.mount()
    status = machine.status()
    assert status["state"] == "armed"
    assert status["region"]["extents"] == old
    assert machine.crash()["verdict"] == "COMPLETE"


def test_a_dump_without_room_for_its_copy_stays_in_the_page_file(machine: Machine) -> None:
    machine.create(recipe=FULL)
    machine.mount()
    machine.crash()
    assert "NOT armed" in machine.mount().stdout
    assert machine.status()["paging"] is None
    for number in range(2000):
        (machine.mountpoint / f"there-is-no-{number}").exists()
    for attempt in (os.unlink, lambda path: os.truncate(path, 0)):
        with pytest.raises(PermissionError):
            attempt(machine.mountpoint / "pagefile.sys")
    machine.unmount()
    assert machine.facts("verify", machine.image)["verdict"] == "COMPLETE"


@pytest.mark.parametrize("what", ["removed", pytest.param("moved", marks=pytest.mark.slow)])
def test_a_page_file_that_others_changed_is_noticed_and_made_anew(machine: Machine, what: str) -> None:
    if os.geteuid():
        pytest.skip("a kernel mount needs root")
    machine.create(recipe=RECIPE)
    machine.mount()
    assert machine.crash()["verdict"] == "COMPLETE"
    theirs = machine.directory / "kernel"
    theirs.mkdir()
    subprocess.run(["mount", "-o", "loop", machine.image, theirs], check=True)
    try:
        if what == "moved":
            os.rename(theirs / "pagefile.sys", theirs / "elsewhere.sys")
        else:
            os.unlink(theirs / "pagefile.sys")
        content = os.urandom(60 << 20)
        (theirs / "user").write_bytes(content)
    finally:
        subprocess.run(["umount", theirs], check=True)

    machine.mount()
    status = machine.status()
    assert status["last_recovery"]["verdict"] in (("COMPLETE",) if what == "moved" else ("COMPLETE", "PARTIAL", "NONE"))
    assert status["state"] == "armed"
    assert machine.crash("--bugcheck", "2")["verdict"] == "COMPLETE"
    machine.check_filesystem()
    machine.mount()
    assert (machine.mountpoint / "user").read_bytes() == content
