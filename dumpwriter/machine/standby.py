"""One standby, as the machine sees it: a process that gets ready, is called, and is dismissed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.formats.runtime import Call, StandbyRegister
from dumpwriter.runtime import process_start
from vdisk.errors import ArmingError
from vdisk.imagefile import reopen_direct

if TYPE_CHECKING:
    from typing import IO

    from dumpwriter.memory.source import MemorySource
    from dumpwriter.runtime import RuntimeFile
    from vdisk.imagefile import ImageFile

READY_SECONDS = 30.0
REHEARSAL_SECONDS = 10.0
REHEARSAL_POLL_SECONDS = 0.002
PUBLISHED = ("memory_locked", "confined", "code_digest", "control_block")
# What numpy brings for linear algebra would set 32 MiB aside for each processor, and they would be locked in memory.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


class Hardware(NamedTuple):
    """What of the machine outlives its process: a standby is given descriptors of all of it."""

    image: ImageFile
    registers: int
    source: MemorySource
    runtime: RuntimeFile


class Standby:
    """It is loaded when `wait_until_loaded` returns, and ready when `let_rehearse` does.

    Loading needs nothing of the machine; for its rehearsal the machine must stand still.
    """

    program = "dumpwriter.crash.standby"

    def __init__(self, rank: int, control_block: int, hardware: Hardware) -> None:
        """Start the process. `control_block` is a descriptor of the sealed block.

        Raises `ArmingError`, `ImageError` where it cannot be started.
        """
        self.rank = rank
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.facts: dict[str, Any] = {}
        self._registers = hardware.runtime.standby(rank)
        self._registers.words = ""
        self._process = self._start(control_block, hardware)
        self.pidfd = os.pidfd_open(self._process.pid)
        self._registers[StandbyRegister.START] = process_start(self.pid)
        self._registers[StandbyRegister.PID] = self.pid

    def _start(self, control_block: int, hardware: Hardware) -> subprocess.Popen[bytes]:
        own = {"image": reopen_direct(hardware.image.descriptor), "machine": os.pidfd_open(os.getpid())}
        given = own | {
            "control_block": control_block,
            "memory": hardware.source.memory.fd,
            "registers": hardware.registers,
            "lock": hardware.image.descriptor,
            "runtime": hardware.runtime.descriptor,
            "wake": self.wake,
        }
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-m", self.program, json.dumps({"rank": self.rank} | given)],
                pass_fds=list(given.values()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            raise ArmingError(f"the standby cannot be started: {error.strerror}") from None
        finally:
            for descriptor in own.values():
                os.close(descriptor)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> int:
        """Readable once the standby is loaded, or dead."""
        return _stream(self._process.stdout).fileno()

    @property
    def code_digest(self) -> str:
        """Of the code of ours that it has loaded; empty where it is not that far."""
        return str(self.facts.get("code_digest", ""))

    @property
    def words(self) -> str:
        """Why it ended, or what its last rehearsal found."""
        return self._registers.words

    def describe(self) -> dict[str, Any]:
        """What the standby said of itself."""
        return {"rank": self.rank, "pid": self.pid} | {name: self.facts[name] for name in PUBLISHED}

    def modules(self) -> list[dict[str, Any]]:
        """Its clones' rows of the module table."""
        return [module | {"pid": self.pid} for module in self.facts["modules"]]

    def wait_until_loaded(self, wait_seconds: float = READY_SECONDS) -> None:
        """Raises `ArmingError` where it does not get that far in time."""
        self.facts = self._line(wait_seconds)

    def go_without_rehearsal(self) -> None:
        """The machine will not stand still for one."""
        _stream(self._process.stdin).close()

    def let_rehearse(self) -> None:
        """Raises `ArmingError` where the rehearsal fails: then it could not write a dump either."""
        with contextlib.suppress(BrokenPipeError):  # it died, and has said why
            _stream(self._process.stdin).write(b"\n")
            _stream(self._process.stdin).flush()
        reason = self._line(REHEARSAL_SECONDS)["rehearsal"]
        self._close_streams()
        if reason:
            raise ArmingError(f"the rehearsal failed: {reason}")

    def rehearse(self) -> str:
        """Why a dump could not be written; empty where it could.

        One that does not answer is ended: it would rehearse once it moves again, beside a machine that runs.
        """
        before = self._registers[StandbyRegister.REHEARSALS]
        os.eventfd_write(self.wake, Call.REHEARSE)
        deadline = time.monotonic() + REHEARSAL_SECONDS
        while self._registers[StandbyRegister.REHEARSALS] == before:
            if select.select([self.pidfd], [], [], REHEARSAL_POLL_SECONDS)[0]:
                return self.words or "it died"
            if time.monotonic() > deadline:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                self._registers.words = f"it did not answer within {REHEARSAL_SECONDS:.0f} s"
                return self.words
        return self.words

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def dismiss(self) -> None:
        """End the standby without a dump."""
        self.kill()
        self._process.wait()
        self._close_streams()
        os.close(self.wake)
        os.close(self.pidfd)

    def _line(self, wait_seconds: float) -> dict[str, Any]:
        """The next line of what it says. Raises `ArmingError` where none comes in time; the process is ended then."""
        output = _stream(self._process.stdout)
        readable, _, _ = select.select([output], [], [], wait_seconds)
        line = output.readline() if readable else b""
        if not line:
            self._process.kill()
            said = _stream(self._process.stderr).read().decode(errors="replace").strip().splitlines()
            raise ArmingError(
                f"the standby did not get ready: {self.words or (said[-1] if said else 'it said nothing')}"
            )
        facts: dict[str, Any] = json.loads(line)
        return facts

    def _close_streams(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):
                _stream(stream).close()


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
