"""A standby that stands still holds up neither the machine nor a rehearsal, and does nothing late."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from dumpwriter.formats.runtime import StandbyRegister
from dumpwriter.machine import standby, standbys

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 0.1


class Registers(dict[StandbyRegister, int]):
    """A standby's part of the runtime file."""

    words = ""


@pytest.fixture
def still() -> Iterator[standby.Standby]:
    """A standby that says nothing and does nothing."""
    made = object.__new__(standby.Standby)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    made._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    registers: Any = Registers(dict.fromkeys(StandbyRegister, 0))
    made._registers = registers
    made.rank, made.facts = 1, {}
    made.wake = os.eventfd(0, os.EFD_NONBLOCK)
    made.pidfd = os.pidfd_open(made.pid)
    yield made
    if made._process.returncode is None:
        made.dismiss()


def test_one_that_does_not_rehearse_is_ended(still: standby.Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would take the controller over once it moves again, beside a machine that runs."""
    monkeypatch.setattr(standby, "REHEARSAL_SECONDS", PATIENCE_SECONDS)
    assert "did not answer" in still.rehearse()
    assert select.select([still.pidfd], [], [], 10)[0], "it lives on"
    assert "did not answer" in still.words


async def test_the_machine_goes_on_beside_one_that_does_not_load(
    still: standby.Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standbys, "READY_SECONDS", PATIENCE_SECONDS)
    kept: Any = SimpleNamespace(_starting=[still], _ready={}, _lost={}, _start=lambda _: still)
    for name in ("_load", "_dismissed_where_it_fails"):
        setattr(kept, name, getattr(standbys.Standbys, name).__get__(kept))
    with trio.fail_after(10):
        await standbys.Standbys._replace(kept, 1)
        await trio.lowlevel.checkpoint()  # late, where the machine stood still meanwhile
    assert "did not get ready" in kept._lost[1]
    assert still._process.returncode is not None


def test_one_that_is_still_loading_does_not_outlive_the_revocation(still: standby.Standby) -> None:
    """Else it would get ready, and write to blocks that are not the region's any more."""
    kept: Any = SimpleNamespace(_ready={}, _starting=[still])
    standbys.Standbys.revoke(kept, "the region lies elsewhere")
    assert select.select([still.pidfd], [], [], 10)[0], "it lives on"
