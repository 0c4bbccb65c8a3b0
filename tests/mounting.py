"""Mounts for tests: a child process serves one, the test is its client, and whatever happens nothing stays behind.

Whoever serves a mount must never touch it from the same thread, so the child is a program of its own (`tests.served`).
What it has to tell, a line each, goes into a file that the test reads: `ready`, `open PATH`, `failure HANDLER WHY`, ….
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from vdisk.mount import mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BACKENDS = [pytest.param((), id="fake"), pytest.param(("--ext4",), id="ext4")]  # as arguments of `tests.served`
_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.002


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return once a condition holds; fail where it does not within a generous time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(_POLL_SECONDS)


class Mounted:
    """A mount that a child serves."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], events: Path) -> None:
        self.path = path
        self.process = process
        self._events = events
        self.failures_expected = False

    def events(self, kind: str) -> list[str]:
        """What the child has told so far of one kind, without the word for the kind."""
        lines = self._events.read_text(errors="surrogateescape").splitlines()
        return [line[len(kind) + 1 :] for line in lines if line.split(" ")[0] == kind]

    def is_listed(self) -> bool:
        """Whether the kernel's table of mounts has it."""
        return mountinfo.find(str(self.path)) is not None

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.events("ready") or self.process.poll() is not None, "ready, or the end of the child")
        assert self.events("ready"), f"the child ended: {self._events.read_text()}"

    def stop(self) -> int:
        """Ask the child to end, as a user would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(_PATIENCE_SECONDS)

    def clean_up(self) -> None:
        """End the child by whatever means and take the mount away."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            while self.is_listed():
                subprocess.run(["umount", "--lazy", self.path], check=True)


def serve_arguments(mountpoint: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.served", str(mountpoint), *arguments]


@contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Mounted]:
    """Serve a mount at `directory`/mnt for as long as the context lasts; `arguments` are those of `tests.served`.

    Fails at the end where a request was answered with EIO, unless the test has set `failures_expected`, and where the
    disk, if there is one, is not clean.
    """
    mountpoint, events = directory / "mnt", directory / "events"
    mountpoint.mkdir(exist_ok=True)
    with events.open("wb") as output:
        command = serve_arguments(mountpoint, *arguments)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    served = Mounted(mountpoint, process, events)
    try:
        served.wait_until_ready()
        yield served
    finally:
        served.clean_up()
    assert served.failures_expected or not served.events("failure"), events.read_text()
    assert not served.events("Traceback"), events.read_text()
    if "--ext4" in arguments:
        image = mountpoint.with_suffix(".img")
        checked = run("e2fsck", "-f", "-n", image)
        assert checked.returncode == 0, checked.stdout
        image.unlink()


def as_nobody(command: list[str]) -> list[str]:
    """A command run as a user who owns nothing."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *command]


def run(*command: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Run a client program and keep what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
