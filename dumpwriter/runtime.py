"""The runtime file, mapped by the command line, the machine and the standby: they meet there and nowhere else.

It is found by the name of the mount point, never by touching the mount: a dead mount may hold whoever touches it.
What stands in it is shared with processes that die half-way; every value read from it is bounded by who reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import stat
import time
from typing import TYPE_CHECKING, Any

import blake3

from dumpwriter.crash.dump import cut_text
from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import (
    CAUSE_TEXT,
    DOCUMENT_SIZE_BYTES_MAX,
    HEAD_SIZE_BYTES,
    HIBERNATOR_RANK,
    MAGIC,
    REASON_TEXT,
    STANDBY_NAMES,
    STANDBY_TABLE,
    STANDBY_TABLE_STRIDE,
    STANDBY_TEXTS,
    VERSION,
    MachineState,
    Register,
    StandbyRegister,
)
from dumpwriter.verdict import Verdict
from vdisk.bootarea import BootStage
from vdisk.errors import GhostdumpError, MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".machine"


class RuntimeFile:
    """Registers by index, texts, and a document of facts that do not change while the machine runs."""

    def __init__(self, descriptor: int, path: str = "") -> None:
        self.descriptor = descriptor
        self.path = path
        self.registers = memoryview(mmap.mmap(descriptor, HEAD_SIZE_BYTES)).cast("Q")

    def __getitem__(self, register: Register) -> int:
        return int(self.registers[register])

    def __setitem__(self, register: Register, value: int) -> None:
        self.registers[register] = value

    @property
    def state(self) -> MachineState:
        """The state as it stands; FAILED where it is none that we know."""
        try:
            return MachineState(self[Register.STATE])
        except ValueError:
            return MachineState.FAILED

    @state.setter
    def state(self, state: MachineState) -> None:
        self[Register.STATE] = state

    @property
    def boot_stage(self) -> BootStage:
        """How far the machine is; OFF where that is no stage that we know."""
        try:
            return BootStage(self[Register.BOOT_STAGE])
        except ValueError:
            return BootStage.OFF

    def text(self, place: tuple[int, int]) -> str:
        offset_bytes, size_bytes = place
        content = os.pread(self.descriptor, size_bytes, offset_bytes)
        return content.split(b"\0", 1)[0].decode(errors="replace")

    def set_text(self, place: tuple[int, int], text: str) -> None:
        offset_bytes, size_bytes = place
        os.pwrite(self.descriptor, cut_text(text, size_bytes - 1).ljust(size_bytes, b"\0"), offset_bytes)

    def standby(self, rank: int) -> StandbyRegisters:
        return StandbyRegisters(self, rank)

    @property
    def standbys(self) -> list[StandbyRegisters]:
        """By rank."""
        return [self.standby(rank) for rank in range(len(STANDBY_NAMES))]

    @property
    def writers(self) -> list[StandbyRegisters]:
        """The standbys, and the hibernator."""
        return [*self.standbys, self.standby(HIBERNATOR_RANK)]

    def parameters(self) -> tuple[int, int, int, int]:
        """The four parameters of the bugcheck."""
        return (
            self[Register.BUGCHECK_PARAMETER_1],
            self[Register.BUGCHECK_PARAMETER_2],
            self[Register.BUGCHECK_PARAMETER_3],
            self[Register.BUGCHECK_PARAMETER_4],
        )

    def set_cause(self, kind: CauseKind, code: int, parameters: tuple[int, int, int, int], text: str) -> None:
        """Say why the machine stops; the kind goes last, since the standby looks for it first."""
        self[Register.CAUSE_KIND] = CauseKind.NONE
        self[Register.BUGCHECK_CODE] = code
        for index, parameter in enumerate(parameters):
            self[Register(Register.BUGCHECK_PARAMETER_1 + index)] = parameter
        self[Register.CRASH_TIME_NS] = time.time_ns()
        self.set_text(CAUSE_TEXT, text)
        self[Register.CAUSE_KIND] = kind

    def set_outcome(self, verdict: Verdict, reason: str) -> None:
        """What the standby says of its dump; the verdict goes last, since it says that there is one."""
        self.set_text(REASON_TEXT, reason)
        self[Register.VERDICT] = 1 + list(Verdict).index(verdict)

    @property
    def reason(self) -> str:
        """What a standby, or the last rehearsal, had to say; empty where all went well."""
        return self.text(REASON_TEXT)

    def clear_outcome(self) -> None:
        """Nothing is said yet: another standby is about to try."""
        self[Register.VERDICT] = 0
        self.set_text(REASON_TEXT, "")

    @property
    def hibernates(self) -> bool:
        """Whether the machine stopped to hibernate, whatever came of it."""
        return self[Register.CAUSE_KIND] == CauseKind.HIBERNATION

    def verdict(self) -> Verdict | None:
        """The standby's verdict; None where it said none, or none that we know."""
        return dict(enumerate(Verdict, start=1)).get(self[Register.VERDICT])

    def document(self) -> dict[str, Any]:
        """The facts; empty where none were published or they cannot be read."""
        length_bytes = min(self[Register.DOCUMENT_LENGTH_BYTES], DOCUMENT_SIZE_BYTES_MAX)
        try:
            document = json.loads(os.pread(self.descriptor, length_bytes, HEAD_SIZE_BYTES) or b"{}")
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def publish(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self[Register.DOCUMENT_LENGTH_BYTES] = 0
        os.pwrite(self.descriptor, content, HEAD_SIZE_BYTES)
        self[Register.DOCUMENT_LENGTH_BYTES] = len(content)

    def remove(self) -> None:
        """Take the name away, where it is still ours: the next machine may be at that mount point already."""
        with contextlib.suppress(FileNotFoundError), _locked(os.path.dirname(self.path)):
            if os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor)):
                os.unlink(self.path)

    def close(self) -> None:
        os.close(self.descriptor)


class StandbyRegisters:
    """The part of a runtime file that is about one standby."""

    def __init__(self, runtime: RuntimeFile, rank: int) -> None:
        first = STANDBY_TABLE + rank * STANDBY_TABLE_STRIDE
        self._registers = runtime.registers[first : first + STANDBY_TABLE_STRIDE]
        self._runtime = runtime
        self._place = STANDBY_TEXTS[rank]

    def __getitem__(self, register: StandbyRegister) -> int:
        return int(self._registers[register])

    def __setitem__(self, register: StandbyRegister, value: int) -> None:
        self._registers[register] = value

    @property
    def words(self) -> str:
        """What the standby said last: why it ended, or what its rehearsal found; empty where all is well."""
        return self._runtime.text(self._place)

    @words.setter
    def words(self, text: str) -> None:
        self._runtime.set_text(self._place, text)

    @property
    def is_alive(self) -> bool:
        return is_alive(self[StandbyRegister.PID], self[StandbyRegister.START])


def by_rank(words: dict[int, str]) -> str:
    """One line of what is said of each standby; empty where nothing is."""
    said = [f"{STANDBY_NAMES[rank]} standby: {text}" for rank, text in sorted(words.items()) if text]
    return "; ".join(said)


def create(mountpoint: str) -> RuntimeFile:
    """A fresh file for a machine at this mount point; what an earlier machine left there is replaced.

    Raises `MountError` where a machine of that mount point still lives: nobody could find it any more.
    """
    place = directory()
    path = os.path.join(place, _name_of(mountpoint))
    with _locked(place):
        if (earlier := _open(path)) is not None:
            with contextlib.closing(earlier):
                _refuse_the_living(earlier, mountpoint)
        return _create_at(path)


def _refuse_the_living(machine: RuntimeFile, mountpoint: str) -> None:
    pid = machine[Register.MACHINE_PID]
    if is_alive(pid, machine[Register.MACHINE_START]):
        raise MountError(
            f"{mountpoint}: another machine starts or ends there (process {pid}): "
            "wait for it, or name another directory"
        )


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    """One process at a time says whose a name in this directory is."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_at(path: str) -> RuntimeFile:
    unfinished = f"{path}.{os.getpid()}"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.ftruncate(descriptor, HEAD_SIZE_BYTES)
    runtime = RuntimeFile(descriptor, path)
    runtime[Register.VERSION] = VERSION
    runtime[Register.STATE] = MachineState.BOOTING
    runtime[Register.MACHINE_PID] = os.getpid()
    runtime[Register.MACHINE_START] = process_start(os.getpid())
    runtime[Register.MAGIC] = MAGIC
    os.rename(unfinished, path)
    return runtime


def find(mountpoint: str) -> RuntimeFile | None:
    """The runtime file of the machine that is, or was last, at this mount point."""
    found = (_open(os.path.join(place, _name_of(mountpoint))) for place in _directories())
    return next((machine for machine in found if machine is not None), None)


def _open(path: str) -> RuntimeFile | None:
    """None where there is no such file, or it is none of ours. Raises `MountError` where it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        raise MountError(f"cannot open {path}: {error.strerror}") from None
    if os.fstat(descriptor).st_size < HEAD_SIZE_BYTES:
        os.close(descriptor)
        return None
    runtime = RuntimeFile(descriptor, path)
    if (runtime[Register.MAGIC], runtime[Register.VERSION]) != (MAGIC, VERSION):
        runtime.close()
        return None
    return runtime


def all_machines() -> Iterator[RuntimeFile]:
    """Every runtime file of this user; each is the caller's to close."""
    for place in _directories():
        for name in sorted(os.listdir(place)):
            if name.endswith(SUFFIX) and (machine := _open(os.path.join(place, name))):
                yield machine


def _name_of(mountpoint: str) -> str:
    """The name of a mount point's file. The mount point must be absolute and free of symbolic links."""
    return blake3.blake3(os.fsencode(mountpoint)).hexdigest(length=16) + SUFFIX


def directory() -> str:
    """Where this process puts runtime files: private to the user, made when it is missing.

    Raises `GhostdumpError` where there is no such place.
    """
    refusal: OSError | None = None
    for path in _candidates():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        except OSError as error:
            refusal = error
            continue
        if _is_private(path):
            return path
    reason = f"{refusal.filename}: {refusal.strerror}" if refusal else "those that exist are not private to you"
    raise GhostdumpError(f"no place for the runtime file ({reason}): set XDG_RUNTIME_DIR to a directory of your own")


def _directories() -> list[str]:
    """Every place where a machine of this user may have put its file, whatever environment it was started in."""
    return [path for path in _candidates() if _is_private(path)]


def _candidates() -> list[str]:
    own = os.geteuid()
    if own == 0 and os.path.isdir("/run"):
        return ["/run/ghostdump"]
    bases = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{own}"]
    places = [os.path.join(base, "ghostdump") for base in bases if base and os.path.isdir(base)]
    return list(dict.fromkeys([*places, f"/tmp/ghostdump-{own}"]))  # noqa: S108 - checked to be ours and private


def _is_private(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where there is no such process, or only its remains.

    While threads of it still end, its first one may be a zombie already: it then still holds its files and their locks.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    return 0 if state in (b"Z", b"X") and threads <= 1 else start


def is_alive(pid: int, start: int) -> bool:
    """Whether the very process that wrote its pid and start time still runs."""
    return pid > 0 and start > 0 and process_start(pid) == start
