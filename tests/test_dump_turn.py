"""Whose turn it is: two never write, and nobody lives on behind a dump that is written."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from dumpwriter import runtime
from dumpwriter.crash import standby, turn
from dumpwriter.formats.runtime import LIVES, Lock, MachineState, StandbyRegister

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumpwriter.runtime import RuntimeFile

# Holds a lock of a runtime file and does nothing else, as a standby that was stopped.
HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("held", flush=True)
    time.sleep(600)
"""

# Holds one, and ends once it has that of the first.
WAIT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("held", flush=True)
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeFile]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(turn, "STILL_SECONDS", 0.1)
    made = runtime.create(str(tmp_path / "mnt"))
    yield made
    made.remove()
    made.close()


@pytest.fixture
def still(shared: RuntimeFile, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a lock."""
    command = [sys.executable, "-c", HOLD, shared.path, str(int(request.param))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def seen_by(rank: int, shared: RuntimeFile) -> standby.Standby:
    parts: Any = dict.fromkeys(standby.Standby._fields)
    handles: Any = type("Handles", (), {"rank": rank})
    return standby.Standby(**parts | {"handles": handles, "runtime": shared, "own": shared.standby(rank)})


@pytest.mark.parametrize("still", LIVES[1:], indirect=True)
async def test_who_has_dumped_ends_whoever_stands_still(still: subprocess.Popen[bytes], shared: RuntimeFile) -> None:
    shared.state = MachineState.DUMPED
    await standby._end_the_others(seen_by(0, shared))
    assert still.wait(timeout=10) == -9


@pytest.mark.parametrize("waiting", [Lock.SECOND_LIVES, Lock.SMALL_DUMP_LIVES])
async def test_who_has_dumped_keeps_nobody_waiting(
    shared: RuntimeFile, waiting: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do the others keep it: they wait for the first, and it waits for them."""
    monkeypatch.setattr(turn, "STILL_SECONDS", 60.0)
    command = [sys.executable, "-c", WAIT, shared.path, str(int(waiting))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert turn.try_lock(shared, Lock.FIRST_LIVES)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with trio.fail_after(10):
            await standby._end_the_others(seen_by(0, shared))
        assert process.wait() == 0


@pytest.mark.parametrize("still", [Lock.FIRST_LIVES], indirect=True)
async def test_the_first_is_gone_before_another_writes(still: subprocess.Popen[bytes], shared: RuntimeFile) -> None:
    """One that was only overtaken would write once it moves again."""
    shared.standby(0)[StandbyRegister.PID] = still.pid
    assert await standby._is_our_turn(seen_by(1, shared))
    assert still.wait() == -9
    assert shared.standby(0).words == "stood still and was ended"


@pytest.mark.parametrize("rank", [0, 1, 2])
async def test_who_wakes_behind_the_dump_does_not_write(shared: RuntimeFile, rank: int) -> None:
    shared.state = MachineState.CRASHED
    assert await standby._is_our_turn(seen_by(rank, shared))
    shared.state = MachineState.DUMPED
    assert not await standby._is_our_turn(seen_by(rank, shared))
