"""Recovery into each format, from a real crash: the same pages in each, read by readers that know nothing of us."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.conversion.conversion import AS_ELF, Wish
from dumpwriter.conversion.formats import FORMATS
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.dumpfile.raw import open_raw
from dumpwriter.formats.region import FIRST_SLOT_OFFSET_BYTES, SLOT_SIZE_BYTES
from dumpwriter.hostfile import HostFile
from dumpwriter.recovery.crashstore import HostStore
from dumpwriter.recovery.extraction import RegionSource, extract
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.retention import KEEP_ALL
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.kdump_reader import KdumpFile, rearranged
from tests.dumping import DumpBench
from tests.machines import COMMAND, Machine
from tests.vmcores import run_reader
from vdisk.errors import ConversionError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
MEMORY_BYTES = 16 << 20


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of a machine that crashed; nobody has taken the dump out."""
    machine = Machine(tmp_path_factory.mktemp("crashed"))
    try:
        machine.create()
        machine.mount()
        machine.crash("--bugcheck", "0xD1", "--text", "in every format")
    finally:
        machine.end()
    return machine.image


@pytest.fixture
def image(crashed: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    path = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", crashed, path], check=True)
    return path


@pytest.fixture(scope="module")
def memory(crashed: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The memory, from the ELF core of a copy."""
    directory = tmp_path_factory.mktemp("memory")
    shutil.copy(crashed, directory / "disk.img")
    subprocess.run([COMMAND, "recover", "disk.img", "-o", "out"], cwd=directory, check=True, capture_output=True)
    return ElfCoreFile((directory / "out" / "1" / "vmcore").read_bytes()).read(0, MEMORY_BYTES)


def pages_of(path: Path, name: str) -> bytes:
    with HostFile(str(path)) as file:
        dump = open_raw(file) if name == "raw" else open_dump(file)
        content = bytearray(MEMORY_BYTES)
        dump.read_into(0, memoryview(content))
        return bytes(content)


@pytest.mark.parametrize("name", FORMATS)
def test_a_dump_is_recovered_in_each_format(machine: Machine, image: Path, memory: bytes, name: str) -> None:
    told = machine.facts("recover", image, "--format", name, "--output", "out")
    directory = machine.directory / "out" / "1"
    file = directory / FORMATS[name].file
    assert pages_of(file, name) == memory
    assert file.stat().st_mode & 0o777 == 0o600
    assert told == json.loads((directory / "report.json").read_text())
    assert told["format"] == name
    assert told["digests"] == {file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
    assert machine.run("recover", image, "--output", "out", check=1).stdout.startswith("NONE: the dump was already")


def test_kdump_readers_find_the_log(machine: Machine, image: Path) -> None:
    machine.run("recover", image, "--format", "kdump", "--compress", "lzo", "--output", "out")
    run_reader("makedumpfile", "--dump-dmesg", "out/1/vmcore.kdump", "log", cwd=machine.directory)
    assert "in every format" in (machine.directory / "log").read_text()


def test_a_level_leaves_out_what_makedumpfile_leaves_out(machine: Machine, image: Path, crashed: Path) -> None:
    shutil.copy(crashed, machine.directory / "other.img")
    machine.run("recover", "other.img", "--output", "whole")
    told = machine.facts("recover", image, "--format", "kdump", "-d", 31, "--output", "out")
    run_reader("makedumpfile", "-c", "-d", "31", "whole/1/vmcore", "theirs", cwd=machine.directory)
    ours, theirs = (KdumpFile((machine.directory / name).read_bytes()) for name in ("out/1/vmcore.kdump", "theirs"))
    assert ours.dumped == theirs.dumped
    assert 0 < len(ours.dumped) < MEMORY_BYTES // PAGE
    assert all(ours.page(page) == theirs.page(page) for page in ours.dumped)
    assert told["pages_written"] == len(ours.dumped)
    assert told["verdict"] == "COMPLETE"


def test_a_dump_goes_through_a_pipe_and_stays_in_its_image(machine: Machine, image: Path, memory: bytes) -> None:
    command = [COMMAND, "recover", str(image), "--format", "kdump-flattened", "-o", "-"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, check=True, cwd=machine.directory)
        found = KdumpFile(rearranged(done.stdout))
        assert b"".join(map(found.page, range(MEMORY_BYTES // PAGE))) == memory
        assert b"--output DIR takes it out" in done.stderr
    (machine.directory / "flat").write_bytes(done.stdout)
    with (machine.directory / "flat").open("rb") as flat:
        subprocess.run(
            ["makedumpfile", "-R", "whole"], stdin=flat, check=True, cwd=machine.directory, capture_output=True
        )
    run_reader("makedumpfile", "--dump-dmesg", "whole", "log", cwd=machine.directory)
    assert "in every format" in (machine.directory / "log").read_text()
    assert machine.facts("recover", image, "--output", "out")["verdict"] == "COMPLETE"


def test_only_a_format_without_an_order_goes_through_a_pipe(machine: Machine, image: Path) -> None:
    said = machine.run("recover", image, "-o", "-", check=2).stderr
    assert "kdump-flattened" in said
    assert said.count("\n") == 1


def take(bench: DumpBench, store: HostStore, wish: Wish) -> Any:
    source = RegionSource(Mapped(bench.disk, bench.extents), bench.identity)
    return extract(source, store, KEEP_ALL, lambda *_: None, WithoutKey(), wish).report


def test_a_copy_is_known_again_by_its_format(tmp_path: Path) -> None:
    bench = DumpBench(300, pieces=3)
    bench.write()
    wishes = (AS_ELF, Wish("kdump", "lzo"), Wish("kdump", "zstd"), Wish("lime"))
    with closing(HostStore(str(tmp_path))) as store:
        made = [take(bench, store, wish)["path"] for wish in wishes]
        again = [take(bench, store, wish)["path"] for wish in wishes]
    assert made == again == [str(tmp_path / str(number)) for number in range(1, 5)]


def test_what_a_format_cannot_tell_is_filled_on_request_alone(tmp_path: Path) -> None:
    bench = DumpBench(300, pieces=3)
    bench.write()
    place, *_ = bench.extents.runs(FIRST_SLOT_OFFSET_BYTES + 2 * SLOT_SIZE_BYTES, PAGE)
    bench.disk.content[place.physical_bytes + 9] ^= 1
    with closing(HostStore(str(tmp_path))) as store:
        with pytest.raises(ConversionError, match="--fill"):
            take(bench, store, Wish("raw"))
        assert store.names() == []
        report = take(bench, store, Wish("raw", fill=True))
    assert report["verdict"] == "PARTIAL"
    assert report["filled"] == report["missing"] != []
    raw = (tmp_path / "1" / "memory.raw").read_bytes()
    for run in report["missing"]:
        assert not any(raw[run["first_page"] * PAGE : (run["first_page"] + run["page_count"]) * PAGE])
