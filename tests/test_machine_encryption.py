"""Encrypted volumes through real mounts and real processes: the dump comes back, and never was in the clear."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dumpwriter.formats.region import FRAME_MAGIC, HEADER_MAGIC
from dumpwriter.recovery.offlinedisk import unlock_image
from tests.builders.elf_reader import ElfCoreFile
from tests.machines import COMMAND
from tests.test_machine_refusals import refused
from vdisk import xts
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES
from vdisk.keyslot import SLOT_OFFSETS_BYTES
from vdisk.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.machines import Machine

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def found_in(path: Path, tokens: dict[str, bytes]) -> set[str]:
    """Which of the tokens stand anywhere in a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return {name for name, token in tokens.items() if content.find(token) >= 0}


def write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def must_be_the_memory(vmcore: Path, memory: Path) -> None:
    content, found = memory.read_bytes(), ElfCoreFile(vmcore.read_bytes())
    for load in found.loads:
        assert found.content[load.offset : load.offset + load.in_file] == content[load.physical :][: load.in_file]
    assert sum(load.in_file for load in found.loads) == len(content)


def volume_key(machine: Machine, key_file: Path) -> Secret:
    return unlock_image(str(machine.image), lambda: Secret(key_file.read_bytes()))


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_nothing_stands_on_an_encrypted_disk_in_the_clear(machine: Machine, key_file: Path, encrypted: bool) -> None:
    """Dumps, files, names, pages that are out, hibernation. The plain disk shows that each token would be found."""
    tokens = {name: os.urandom(16).hex() for name in ("memory", "file", "name", "log")}
    secrets = {name: token.encode() for name, token in tokens.items()}
    memory = machine.directory / "memory.raw"
    memory.write_bytes(secrets["memory"] * (16 << 15) + os.urandom(15 << 20))
    key = ("--key-file", key_file) if encrypted else ()
    found = []
    machine.create("--region", "pagefile", *(("--encrypt", *key) if encrypted else ()))
    machine.mount("--memory-image", memory, *key)
    assert machine.crash()["verdict"] == "COMPLETE"
    found.append(found_in(machine.image, secrets))

    machine.mount(*key)
    must_be_the_memory(machine.crash_directory() / "vmcore", memory)
    write_synced(machine.mountpoint / tokens["name"], secrets["file"] * 4096)
    write_synced(machine.mountpoint / tokens["log"], b"whoever opens it is in the log")
    (machine.mountpoint / tokens["log"]).read_bytes()
    machine.run("hibernate", machine.mountpoint)
    found.append(found_in(machine.image, secrets))
    machine.mount(*key)
    machine.kill()
    found.append(found_in(machine.image, secrets))

    machine.mount(*key)
    assert secrets["log"] in (machine.crash_directory(2) / "vmcore").read_bytes()
    assert (machine.mountpoint / tokens["name"]).read_bytes() == secrets["file"] * 4096
    machine.unmount()
    found.append(found_in(machine.image, secrets))
    if not encrypted:
        assert set.union(*found) == set(secrets)
        return
    assert set.union(*found) == set()
    assert not found_in(machine.image, {"key": volume_key(machine, key_file), "secret": key_file.read_bytes()})
    machine.run("device", machine.image, *key, "--run", "e2fsck -fn")


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_no_small_dump_stands_on_an_encrypted_disk_in_the_clear(
    machine: Machine, key_file: Path, encrypted: bool
) -> None:
    """Neither its log nor its frames; the plain disk shows that both would be found."""
    key = ("--key-file", key_file) if encrypted else ()
    tokens = {"log": b"machine simulated", "frame": FRAME_MAGIC, "header": HEADER_MAGIC, "blob": b'"disk_id"'}
    machine.create(*(("--encrypt", *key) if encrypted else ()), size="64MiB")
    for stage in ("drivers", "arming"):
        machine.mount("--crash-at", stage, *key, check=1)
    assert machine.facts("verify", machine.image, *key, check=1)["kind"] == "small"
    assert found_in(machine.image, tokens) == (set() if encrypted else set(tokens))


def test_the_dump_of_an_encrypted_disk_comes_back_through_a_fragmented_region(machine: Machine, key_file: Path) -> None:
    memory = machine.directory / "memory.raw"
    memory.write_bytes(os.urandom(8 << 20) + bytes(8 << 20) + os.urandom(16 << 20))
    machine.create(
        "--encrypt", "--key-file", key_file, recipe='size = "160MiB"\nmemory = "32MiB"\n[region]\nextents = 30\n'
    )
    machine.mount("--key-file", key_file, "--memory-image", memory)
    machine.kill()
    assert machine.facts("verify", machine.image, "--key-file", key_file)["verdict"] == "COMPLETE"
    assert machine.facts("recover", machine.image, "--output", "out", "--key-file", key_file)["verdict"] == "COMPLETE"
    must_be_the_memory(machine.directory / "out" / "1" / "vmcore", memory)


def test_drivers_and_status_show_the_filters_and_nothing_shows_the_key(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    rows = {row["name"]: row for row in machine.facts("drivers", machine.mountpoint)}
    assert list(rows) == ["storahci", "fve", "diskdump", "dump_storahci", "dump_dumpfve", "dump_diskdump"]
    assert rows["fve"]["signer"] == "verified"
    assert os.path.exists(rows["fve"]["path"]) and not os.path.exists(rows["dump_dumpfve"]["path"])
    assert "no file" in rows["dump_dumpfve"]["signer"]
    status = machine.status()
    assert status["encrypted"]

    secrets = [bytes(volume_key(machine, key_file)), key_file.read_bytes()]
    shown = {secret[:8].hex().encode() for secret in secrets} | {secret[:8] for secret in secrets}
    places = [machine.mountpoint / ".ghostdump" / name for name in ("status", "drivers", "log")]
    for pid in (status["pid"], *(standby["pid"] for standby in status["standbys"])):
        places += [Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ")]
    for place in places:
        content = place.read_bytes()
        assert content
        assert not any(secret in content for secret in shown), place


def test_the_standby_of_an_encrypted_disk_does_not_grow_while_it_dumps(machine: Machine, key_file: Path) -> None:
    memory = machine.directory / "memory.raw"
    memory.write_bytes(os.urandom(1 << 20) * 192)
    machine.create("--encrypt", "--key-file", key_file, size="300MiB", memory="192MiB")
    machine.mount("--key-file", key_file, "--memory-image", memory)
    assert machine.crash()["resident_growth_bytes"] < 3 << 20  # what one thread would need is more


def test_a_wrong_key_is_one_line_and_changes_nothing(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    machine.crash()
    wrong = machine.directory / "wrong"
    wrong.write_bytes(key_file.read_bytes() + b"\n")
    before = digest(machine.image)
    for name, *rest in (("mount", machine.mountpoint), ("recover", "--output", "out"), ("verify",), ("inspect",)):
        said = refused(machine, name, machine.image, *rest, "--key-file", wrong)
        assert "wrong passphrase or key file" in said
    for name, *rest in (("mount", machine.mountpoint), ("recover", "--output", "out"), ("verify",)):
        assert "give --key-file" in refused(machine, name, machine.image, *rest)
    assert digest(machine.image) == before
    assert not (machine.directory / "out").exists()


def test_without_a_key_the_boot_record_is_told_and_the_dump_is_not(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    region = machine.facts("extents", machine.mountpoint)
    machine.crash("--bugcheck", "7")
    assert machine.facts("extents", machine.image) == region
    locked = machine.facts("inspect", machine.image)
    unlocked = machine.facts("inspect", machine.image, "--key-file", key_file)
    assert locked["encrypted"] and locked["region"]["extents"] == region
    assert locked["dump"] is None
    assert unlocked["dump"]["bugcheck"]["code"] == 7
    assert "--key-file" in machine.run("inspect", machine.image).stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--key-file", "key"), "with --encrypt"),
        (("--encrypt",), "give --key-file FILE, or run it on a terminal"),
        (("--encrypt", "--key-file", "missing"), "cannot read the key file"),
        (("--encrypt", "--key-file", "/dev/null"), "is empty"),
    ],
)
def test_a_creation_without_a_proper_key_makes_nothing(
    machine: Machine, key_file: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    said = refused(machine, "create", machine.image, "--size", "64MiB", "--memory", "16MiB", *arguments, code=2)
    assert complaint in said
    assert not machine.image.exists()


def test_a_key_file_for_a_plain_disk_is_refused(machine: Machine, key_file: Path) -> None:
    machine.create()
    assert "not encrypted" in refused(
        machine, "mount", machine.image, machine.mountpoint, "--key-file", key_file, code=2
    )


# At a terminal


def at_a_terminal(machine: Machine, *arguments: object, answers: Sequence[str]) -> tuple[int, str]:
    """Run one command on a terminal of its own and answer its questions; its exit code, and what it said."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(machine.directory)
        os.execv(COMMAND, [COMMAND, *map(str, arguments)])
    said = b""
    answers = [*answers]
    with os.fdopen(terminal, "r+b", buffering=0) as line:
        while True:
            try:
                piece = line.read(1024)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            said += piece
            if answers and (b"passphrase" in said.splitlines()[-1] or b"once more" in said.splitlines()[-1]):
                line.write(answers.pop(0).encode() + b"\n")
                said += b"\n"
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said.decode()


def test_a_passphrase_is_asked_for_and_never_shown(machine: Machine) -> None:
    create = ("create", machine.image, "--size", "64MiB", "--memory", "16MiB", "--encrypt")
    code, said = at_a_terminal(machine, *create, answers=[PASSPHRASE, "another"])
    assert (code, machine.image.exists()) == (2, False)
    assert "differ" in said
    code, said = at_a_terminal(machine, *create, answers=["", ""])
    assert (code, machine.image.exists()) == (2, False)
    code, said = at_a_terminal(machine, *create, answers=[PASSPHRASE, PASSPHRASE])
    assert code == 0, said
    assert PASSPHRASE not in said

    mount = ("mount", machine.image, machine.mountpoint)
    code, said = at_a_terminal(machine, *mount, answers=["wrong"])
    assert code == 1
    assert "wrong passphrase or key file" in said
    code, said = at_a_terminal(machine, *mount, answers=[PASSPHRASE])
    assert code == 0, said
    assert PASSPHRASE not in said
    assert machine.status()["state"] == "armed"
    machine.crash()
    code, said = at_a_terminal(machine, "recover", machine.image, "--output", "out", answers=[PASSPHRASE])
    assert code == 0, said
    assert "COMPLETE" in said


# What knows disks, and not our drivers


def test_e2fsck_sees_and_mends_an_encrypted_disk_and_its_exit_code_is_told(machine: Machine, key_file: Path) -> None:
    key = ("--key-file", key_file)
    machine.create("--encrypt", *key)
    shown = ("device", machine.image, *key, "--run")
    machine.run(*shown, "debugfs -w -R 'clri dump.bin'")
    machine.run(*shown, "e2fsck -fn", check=4)
    machine.run(*shown, "e2fsck -fy", check=1)
    machine.run(*shown, "e2fsck -fn")
    assert "cannot run" in refused(machine, *shown, "no-such-program")
    machine.mount(*key)
    assert "in use" in refused(machine, *shown, "true")


def test_a_disk_is_shown_until_it_is_interrupted(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    command = [COMMAND, "device", str(machine.image), "--key-file", str(key_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        path = Path(shown.stdout.readline().split(":")[0])
        superblock = path.read_bytes()[1024:2048]
        shown.send_signal(signal.SIGINT)
        assert shown.wait(timeout=30) == 0
    assert superblock[0x38:0x3A] == b"\x53\xef"
    assert not path.parent.exists()


# What fails closed


def test_a_cipher_that_is_broken_at_the_crash_writes_nothing(machine: Machine, key_file: Path) -> None:
    if os.geteuid():
        pytest.skip("writing to another process's memory needs root")
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    extents = machine.facts("extents", machine.mountpoint)
    before = region_digest(machine, extents)
    exponents = xts.EXPONENTS[0].tobytes()
    for standby in machine.status()["standbys"]:
        assert overwrite(standby["pid"], exponents, exponents[::-1])
    crash = machine.crash(check=1)
    assert crash["verdict"] == "NONE"
    assert "IEEE 1619" in crash["reason"]
    assert region_digest(machine, extents) == before


def region_digest(machine: Machine, extents: list[dict[str, int]]) -> str:
    hasher = hashlib.sha256()
    with machine.image.open("rb") as file:
        for extent in extents:
            file.seek(extent["physical_bytes"])
            hasher.update(file.read(extent["length_bytes"]))
    return hasher.hexdigest()


def overwrite(pid: int, old: bytes, new: bytes) -> int:
    """Write over every place in the memory of a process that holds these bytes; how many there were."""
    count = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in maps:
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            with contextlib.suppress(OSError, ValueError):
                memory.seek(start)
                content = memory.read(end - start)
                position = content.find(old)
                while position >= 0:
                    memory.seek(start + position)
                    memory.write(new)
                    count += 1
                    position = content.find(old, position + 1)
    return count


# What is lost


def damage(machine: Machine, *offsets_bytes: int) -> None:
    area = machine.image.stat().st_size - BOOT_AREA_SIZE_BYTES
    with machine.image.open("r+b") as file:
        for offset in offsets_bytes:
            file.seek(area + offset + 64)
            file.write(os.urandom(64))


def test_a_dump_is_carved_from_an_encrypted_disk_with_its_key_alone(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    machine.mount("--key-file", key_file)
    machine.crash()
    damage(machine, 0, 4096, SLOT_OFFSETS_BYTES[0])
    report = machine.facts("recover", machine.image, "--output", "out", "--key-file", key_file)
    assert report["verdict"] == "COMPLETE"
    assert "damaged" in report["carved"]
    damage(machine, SLOT_OFFSETS_BYTES[1])
    said = refused(machine, "recover", machine.image, "--output", "out", "--key-file", key_file, code=2)
    assert "key slots are lost" in said
    assert machine.facts("recover", machine.image, "--output", "out", check=1)["verdict"] == "NONE"


def test_a_damaged_key_slot_is_mended_and_two_are_the_end(machine: Machine, key_file: Path) -> None:
    machine.create("--encrypt", "--key-file", key_file)
    damage(machine, SLOT_OFFSETS_BYTES[0])
    machine.mount("--key-file", key_file)
    machine.unmount()
    damage(machine, SLOT_OFFSETS_BYTES[1])
    machine.facts("inspect", machine.image, "--key-file", key_file)
    damage(machine, SLOT_OFFSETS_BYTES[0])
    assert "the volume key is lost" in refused(
        machine, "mount", machine.image, machine.mountpoint, "--key-file", key_file
    )
