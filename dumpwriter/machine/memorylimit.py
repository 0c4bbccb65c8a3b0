"""A limit of memory around a running process: a cgroup of its own where one can be made, else one of address space.

In a cgroup the kernel's OOM killer ends the process. What is allocated before it is in the cgroup does not count there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_BYTES = 64 << 20
REMOVAL_SECONDS = 5.0
POLL_SECONDS = 0.01


class Interface(NamedTuple):
    """Where a version of the memory controller is mounted, and what its files are called."""

    root: str
    limits: tuple[tuple[str, str], ...]
    events: str  # holds a line `oom_kill N`


INTERFACES = (
    Interface(
        "/sys/fs/cgroup",
        (("memory.max", str(LIMIT_BYTES)), ("memory.swap.max", "0")),
        "memory.events",
    ),
    Interface(
        "/sys/fs/cgroup/memory",
        (("memory.limit_in_bytes", str(LIMIT_BYTES)), ("memory.swappiness", "0")),
        "memory.oom_control",
    ),
)


class Limit:
    """What a process was put under. `outcome` tells, when it has ended, what ended it."""

    def __init__(self, group: str = "", events: str = "") -> None:
        self.group = group
        self._events = os.path.join(group, events)

    def outcome(self) -> str:
        if not self.group:
            return "no memory cgroup could be made: its address space was limited, and SIGKILL was its own"
        with open(self._events, encoding="ascii") as file:
            counts = dict(line.split() for line in file)
        if int(counts["oom_kill"]):
            return "the kernel's OOM killer ended it in its memory cgroup"
        return "it ended in its memory cgroup before the OOM killer came"


@contextlib.contextmanager
def limited(pid: int) -> Iterator[Limit]:
    """Put a process under a limit, and take the cgroup away when it has ended."""
    for interface in INTERFACES:
        group = os.path.join(interface.root, f"ghostdump-{pid}")
        try:
            _make_group(interface, group, pid)
        except OSError:
            _remove(group)
            continue
        try:
            yield Limit(group, interface.events)
        finally:
            _remove(group)
        return
    _limit_address_space(pid)
    yield Limit()


def _make_group(interface: Interface, group: str, pid: int) -> None:
    """Raises `OSError` where the host has no such controller or does not let us use it."""
    os.mkdir(group)
    for name, value in (*interface.limits, ("cgroup.procs", str(pid))):
        with open(os.path.join(group, name), "r+", encoding="ascii") as file:
            file.write(value)


def _remove(group: str) -> None:
    """A cgroup can go once the remains of its last process are gone."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while os.path.isdir(group) and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            os.rmdir(group)
            return
        time.sleep(POLL_SECONDS)


def _limit_address_space(pid: int) -> None:
    with open(f"/proc/{pid}/statm", "rb") as file:
        used_bytes = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (used_bytes + LIMIT_BYTES, hard))
