"""What the standby cannot do once it is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machines import Machine

# Runs in a process of its own, with a thread that was there before the filter. Prints what each attempt ended in.
ATTEMPTS = """
import json, os, socket, subprocess, threading
from dumpwriter.crash.sandbox import confine

def attempt(action):
    try:
        action()
    except OSError as error:
        return error.errno
    except RuntimeError as error:
        return str(error)
    return 0

attempts = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "create": lambda: os.open("/tmp/ghostdump-escape", os.O_CREAT | os.O_WRONLY),
    "socket": lambda: socket.socket(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "unlink": lambda: os.unlink("/tmp/ghostdump-escape"),
    "mount": lambda: os.chroot("/"),
    "kill": lambda: os.kill(os.getppid(), 0),
    "memfd": lambda: os.memfd_create("x"),
    "thread": lambda: threading.Thread(target=int).start(),
}
go, old = threading.Event(), {}
thread = threading.Thread(target=lambda: (go.wait(), old.update(open=attempt(attempts["open"]))))
thread.start()
confined = confine()
go.set()
thread.join()
result = {name: attempt(action) for name, action in attempts.items()}
print(json.dumps({"confined": confined, "result": result, "old thread": old["open"]}), flush=True)
os._exit(0)
"""


def test_nothing_can_be_opened_connected_or_started() -> None:
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if not found["confined"]:
        pytest.skip("this host permits no seccomp filter")
    refused = found["result"]
    assert refused.pop("thread") == "can't start new thread"
    assert set(refused.values()) == {1}, refused  # EPERM
    assert found["old thread"] == 1


def test_the_standby_is_confined_and_holds_only_what_it_was_given(machine: Machine) -> None:
    machine.create()
    machine.mount()
    status = machine.status()
    standby = Path("/proc") / str(status["standbys"][0]["pid"])
    said = (standby / "status").read_text()
    assert status["standbys"][0]["confined"] == ("Seccomp:\t2" in said)
    assert "NoNewPrivs:\t1" in said
    held = {os.readlink(descriptor) for descriptor in (standby / "fd").iterdir()}
    permitted = (
        "/statm",
        "/memfd:ghostdump-",
        "anon_inode:",
        "socket:",
        "pipe:",
        str(machine.image),
        "/dev/null",
        ".machine",
    )
    assert all(any(word in name for word in permitted) for name in held), held
    assert not any("fuse" in name for name in held)
    assert os.readlink(standby / "cwd") == "/"


def test_the_standby_does_not_grow_while_it_dumps(machine: Machine) -> None:
    machine.create(size="400MiB", memory="256MiB")
    memory = machine.directory / "memory.raw"
    memory.write_bytes(os.urandom(1 << 20) * 256)
    machine.mount("--memory-image", memory)
    standby = Path("/proc") / str(machine.status()["standbys"][0]["pid"])
    armed_kib = resident_kib(standby, "VmRSS")
    peak = machine.facts("crash", machine.mountpoint)["resident_growth_bytes"]
    assert peak < 8 << 20, f"armed with {armed_kib} KiB"


def resident_kib(process: Path, field: str) -> int:
    (line,) = [line for line in (process / "status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1])
