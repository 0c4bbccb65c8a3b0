"""`kill -9` at random moments: what is killed and when, by a seed, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter import runtime
from dumpwriter.formats.runtime import StandbyRegister
from dumpwriter.machine.status import machine_is_alive, standby_is_alive
from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND
from tests.mounting import wait_until
from vdisk.mount import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machines import Machine

MEMORY_PAGES = 4096
LONGEST_SECONDS = {"boot": 1.2, "recovery": 1.6, "run": 0.6, "dump": 0.12}  # how long each phase may take
VICTIMS = ("machine", "standby", "all at once")
FILE_BYTES_MAX = 200_000


class Moment(NamedTuple):
    """When, in which phase, and who is killed."""

    number: int
    phase: str
    victim: str
    delay_seconds: float

    def __str__(self) -> str:
        return f"moment {self.number}: {self.phase}, {self.victim}, after {self.delay_seconds:.3f} s"


def moment(seed: int, number: int) -> Moment:
    source = random.Random(f"{seed}/{number}")
    phase = source.choice(list(LONGEST_SECONDS))
    victim = source.choice(VICTIMS)
    return Moment(number, phase, victim, source.random() * LONGEST_SECONDS[phase])


class Subject:
    """One machine that is killed again and again, and everything that it owes us."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = machine.directory / "memory.raw"
        self.outcomes: Counter[str] = Counter()
        self._content = b"".join(page.to_bytes(8, "little") + os.urandom(4088) for page in range(MEMORY_PAGES))
        self._promised: dict[str, bytes] = {}
        self._dumps_seen: set[str] = set()
        self.memory.write_bytes(self._content)
        machine.create(size="256MiB", memory="16MiB")
        self._mount()

    def suffer(self, now: Moment) -> None:
        """Come to the phase, kill, and look: the machine is up and whole at the end as it was at the beginning."""
        getattr(self, f"_kill_in_{now.phase}")(now)
        self._settle()
        self._must_replay_to_clean()
        self._mount()
        self._must_keep_its_promises()

    def end(self) -> None:
        self.machine.unmount()
        self.machine.wait_until_off()
        self.machine.must_be_clean()

    # Each begins and ends with the machine mounted, or dead

    def _kill_in_boot(self, now: Moment) -> None:
        self.machine.unmount()
        self._kill_while_mounting(now)

    def _kill_in_recovery(self, now: Moment) -> None:
        self.machine.crash()
        self._kill_while_mounting(now)

    def _kill_in_run(self, now: Moment) -> None:
        stop = threading.Event()
        writer = threading.Thread(target=self._write_files, args=(now, stop))
        writer.start()
        time.sleep(now.delay_seconds)  # the moment itself: there is no condition to wait for
        self._kill(now.victim)
        stop.set()
        writer.join()

    def _kill_in_dump(self, now: Moment) -> None:
        self._kill("machine")
        time.sleep(now.delay_seconds)
        self._kill("all at once" if now.victim == "machine" else now.victim)

    def _kill_while_mounting(self, now: Moment) -> None:
        mounting = subprocess.Popen(
            [COMMAND, "mount", self.machine.image, self.machine.mountpoint, "--memory-image", self.memory],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.machine.environment,
        )
        time.sleep(now.delay_seconds)
        self._kill(now.victim)
        mounting.wait(120)

    # Killing

    def _kill(self, victim: str) -> None:
        machines, standbys = self._machines(), self._standbys()
        pids = {"machine": machines, "standby": standbys[:1], "all at once": machines + standbys}[victim]
        for order in (signal.SIGSTOP, signal.SIGKILL):  # so that nobody reacts to the death of another
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, order)
        wait_until(lambda: not any(map(runtime.process_start, pids)), f"{victim} ended")

    def _machines(self) -> list[int]:
        """By their command line: a machine that has just been started has no runtime file yet."""
        image = os.fsencode(self.machine.image)
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = path.read_bytes()
                if b"dumpwriter.machine.daemon" in command and image in command:
                    found.append(int(path.parent.name))
        return found

    def _standbys(self) -> list[int]:
        found = runtime.find(str(self.machine.mountpoint))
        if found is None:
            return []
        with contextlib.closing(found):
            return [standby[StandbyRegister.PID] for standby in found.standbys if standby.is_alive]

    def _settle(self) -> None:
        """Where the machine survived it is shut down; where it did not, its standbys write what they can."""
        found = runtime.find(str(self.machine.mountpoint))
        if found is not None and machine_is_alive(found):
            self.machine.unmount()
        wait_until(lambda: not self._machines(), "the machine has ended")
        if found is not None:
            wait_until(lambda: not standby_is_alive(found), "the standbys have ended")
            found.close()
        wait_until(lambda: mountinfo.find(str(self.machine.mountpoint)) is None, "the mount is gone")

    # Promises

    def _mount(self) -> None:
        self.machine.mount("--memory-image", self.memory, "--keep", "2")
        status = self.machine.status()
        assert status["state"] == "armed", status["reason"]
        self.outcomes[status["last_run"]["end"]] += 1

    def _must_replay_to_clean(self) -> None:
        copy = self.machine.directory / "copy.img"
        subprocess.run(["cp", "--sparse=always", self.machine.image, copy], check=True)
        replayed = subprocess.run(["e2fsck", "-p", copy], capture_output=True, text=True, check=False)
        assert replayed.returncode in (0, 1), replayed.stdout + replayed.stderr
        checked = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        copy.unlink()

    def _must_keep_its_promises(self) -> None:
        for name, content in self._promised.items():
            assert (self.machine.mountpoint / name).read_bytes() == content, f"{name} is not what was fsynced"
        crashes = self.machine.mountpoint / "var" / "crash"
        for crash in crashes.iterdir() if crashes.exists() else ():
            if crash.name.isdigit() and crash.name not in self._dumps_seen:
                self._must_be_exact(crash)
                self._dumps_seen.add(crash.name)
        assert not (crashes / ".ghostdump-unfinished").exists()

    def _must_be_exact(self, crash: Path) -> None:
        report = json.loads((crash / "report.json").read_text())
        self.outcomes[f"{report['kind']} {report['verdict']}"] += 1
        found = (crash / "vmcore").read_bytes()
        present = 0
        for load in ElfCoreFile(found).loads:
            expected = self._content[load.physical : load.physical + load.in_file]
            assert found[load.offset : load.offset + load.in_file] == expected, "a wrong byte"
            present += load.in_file
        assert present == report["pages_present"] * 4096

    def _write_files(self, now: Moment, stop: threading.Event) -> None:
        """Promise what fsync has returned for, until the machine is gone."""
        source = random.Random(now.number)
        with contextlib.suppress(OSError), opened_directory(self.machine.mountpoint) as root:
            self._write_durably(root, f"kept{now.number}", source.randbytes(10_000))
            for number in range(10_000):
                if stop.is_set():
                    return
                self._write_durably(root, f"file{number % 20}", source.randbytes(source.randrange(FILE_BYTES_MAX)))

    def _write_durably(self, root: int, name: str, content: bytes) -> None:
        """A file of that name that was promised before is promised no more once it is written to again."""
        self._promised.pop(name, None)
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=root), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._promised[name] = content


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """By its path, who writes on after the mount has gone writes to what was below it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
