"""Several dumps come out at once: each is told of, in its order, and the worst of them is the exit code."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.cli import recover
from dumpwriter.recovery import offline
from dumpwriter.recovery.report import describe_nothing, headline, together
from dumpwriter.recovery.retention import KEEP_ALL
from dumpwriter.verdict import Reason, Verdict
from tests.sealed import write_keys
from vdisk.errors import RecoveryError

if TYPE_CHECKING:
    from tests.machines import Machine

SMALL = "PARTIAL, small dump of boot stage {}, "


@pytest.fixture
def crashed_twice(machine: Machine) -> Machine:
    """A whole dump in the region, and a small one of the boot that should have taken it out."""
    machine.create(size="96MiB")
    machine.mount()
    machine.crash()
    machine.mount("--crash-at", "recovery", check=1)
    return machine


def of(verdict: Verdict, reason: Reason, kind: str) -> dict[str, Any]:
    return describe_nothing(reason) | {"verdict": verdict, "kind": kind, "level_held": None}


def test_a_dump_of_which_nothing_is_left_is_one_of_them() -> None:
    lost = of(Verdict.NONE, Reason.NO_PAGES, "region")
    idle = of(Verdict.NONE, Reason.NO_DUMP, "small")
    whole = of(Verdict.COMPLETE, Reason.WHOLE, "small")
    found = headline([lost, idle, whole])
    assert found is not None
    assert [report["reason"] for report in together(found)] == [Reason.NO_PAGES, Reason.WHOLE]
    assert headline([whole, lost]) == lost | {"earlier": [whole]}
    assert headline([idle]) is None


def test_each_dump_is_a_line_in_its_order(crashed_twice: Machine) -> None:
    machine = crashed_twice
    kept = machine.directory / "kept.img"
    shutil.copyfile(machine.image, kept)
    for command in (("verify", kept), ("recover", kept, "--output", "out")):
        first, second = machine.run(*command, check=1).stdout.splitlines()
        assert first.startswith("COMPLETE, 4096 of 4096 pages")
        assert second.startswith(SMALL.format("recovery"))
    assert "/out/1" in first and "/out/2" in second

    first, second, _ = machine.mount().stdout.splitlines()
    assert first.startswith("last crash: COMPLETE") and second.startswith("last crash: " + SMALL.format("recovery"))
    rows = [line for line in machine.run("status", machine.mountpoint).stdout.splitlines() if "last boot" in line]
    assert len(rows) == 2 and "COMPLETE" in rows[0] and "boot stage recovery" in rows[1]
    log = (machine.mountpoint / ".ghostdump" / "log").read_text()
    assert log.count("recovery: ") == 2


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((Verdict.COMPLETE, Verdict.COMPLETE), 0),
        ((Verdict.PARTIAL, Verdict.COMPLETE), 1),
        ((Verdict.COMPLETE, Verdict.PARTIAL), 1),
        ((Verdict.NONE, Verdict.COMPLETE), 1),
    ],
)
def test_the_worst_verdict_is_the_exit_code(verdicts: tuple[Verdict, Verdict], code: int) -> None:
    older, newer = (of(verdict, Reason.WHOLE, "region") for verdict in verdicts)
    assert recover.tell(newer | {"earlier": [older]}, as_json=False) == code


def test_what_came_out_before_a_failure_is_told(crashed_twice: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = None  # nothing is written

    def fail_at_the_second(source: Any, *_: object) -> Any:
        if source.kind == "small":
            raise RecoveryError("no room for the dump")
        return SimpleNamespace(verdict=Verdict.NONE), {"path": "/out/1"}

    monkeypatch.setattr(offline, "extract", fail_at_the_second)
    with pytest.raises(RecoveryError, match="no room for the dump; taken out before it: /out/1"):
        offline.recover_image(str(crashed_twice.image), store, KEEP_ALL, lambda *_: None)


def test_a_dump_that_the_key_does_not_open_is_told(machine: Machine) -> None:
    ours, private = write_keys(machine.directory, "X25519")
    theirs, _ = write_keys(machine.directory, "RSA")
    machine.create(size="96MiB")
    machine.mount("--dump-key", ours)
    machine.crash()
    machine.mount("--dump-key", theirs, "--crash-at", "recovery", check=1)
    done = machine.run("recover", machine.image, "--output", "out", "--dump-private-key", private, check=1)
    assert done.stdout.startswith("COMPLETE") and done.stdout.count("\n") == 1
    assert "another dump stays in" in done.stderr and "sealed for another key" in done.stderr
