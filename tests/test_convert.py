"""ghostdump convert: the real command on real files, judged by others' tools."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import drgn
import pytest

from dumpwriter.conversion.formats import FORMATS
from dumpwriter.export.elf import ElfLayout
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.kdump_reader import KdumpFile
from tests.machines import COMMAND
from tests.vmcores import run_reader, write_vmcore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine

MIB, GIB = 1 << 20, 1 << 30
PAGE = 4096
MEMORY_BYTES = 16 * MIB
SPARSE_BYTES = 64 * GIB
RESIDENT_BYTES_MAX = 200 * MIB
COMPRESSIONS = ("zlib", "lzo", "zstd", "none")


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole simulated memory that crashed."""
    path = tmp_path_factory.mktemp("convert") / "vmcore"
    with closing(SimulatedMemory(MEMORY_BYTES)) as source:
        source.bugcheck(0xD1, (1, 2, 3, 4), "to be converted")
        write_vmcore(path, source.memory)
    return path


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the pages from 8 MiB to 12 MiB, and it says so."""
    path = tmp_path_factory.mktemp("convert") / "vmcore"
    with closing(SimulatedMemory(MEMORY_BYTES)) as source:
        runs = [(0, 8 * MIB), (12 * MIB, 4 * MIB)]
        write_vmcore(path, source.memory, runs, partial=True)
    return path


def marked(page: int) -> bytes:
    return page.to_bytes(4, "little") * (PAGE // 4)


def memory_of(vmcore: Path) -> bytes:
    return vmcore.read_bytes()[-MEMORY_BYTES:]


def digest_by_drgn(vmcore: Path, address: int = 0, length: int = MEMORY_BYTES) -> str:
    """SHA-256 of memory that drgn reads."""
    dump = drgn.Program()
    dump.set_core_dump(vmcore)
    return hashlib.sha256(dump.read(address, length, physical=True)).hexdigest()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_kdump_files_of_each_compression_open_in_others_tools(machine: Machine, vmcore: Path, compression: str) -> None:
    made = machine.directory / "dump.kdump"
    told = machine.facts("convert", vmcore, "--to", "kdump", "--compress", compression, "-o", made)
    assert told["compression"] == compression
    assert told["pages_written"] == MEMORY_BYTES // PAGE
    assert told["size_bytes"] == made.stat().st_size
    assert told["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert digest_by_drgn(made) == hashlib.sha256(memory_of(vmcore)).hexdigest()
    if compression != "zstd":  # Debian's makedumpfile does not know it
        run_reader("makedumpfile", "--dump-dmesg", str(made), "log", cwd=machine.directory)
        assert "to be converted" in (machine.directory / "log").read_text()


def test_an_elf_core_that_is_converted_to_elf_gains_virtual_addresses_and_nothing_else(
    machine: Machine, vmcore: Path
) -> None:
    machine.run("convert", vmcore, "--to", "elf", "-o", "once")
    machine.run("convert", "once", "--to", "elf", "-o", "again")
    once, source = (machine.directory / "once").read_bytes(), ElfCoreFile(vmcore.read_bytes())
    assert (machine.directory / "again").read_bytes() == once
    assert ElfCoreFile(once).notes() == source.notes()
    assert b"".join(map(source.bytes_of, source.loads)) == memory_of(machine.directory / "once")
    told = run_reader("gdb", "-nx", "-batch", "-c", "once", "-ex", "x/i $rip", cwd=machine.directory)
    assert f"=> {kernel.text_address(kernel.BUGCHECK_ENTRY):#x}:\tud2" in told


@pytest.mark.parametrize("level", [0, 1, 2, 8, 16, 31])
def test_levels_leave_out_what_makedumpfile_leaves_out(machine: Machine, vmcore: Path, level: int) -> None:
    told = machine.facts("convert", vmcore, "--to", "kdump", "-d", level, "-o", "ours")
    run_reader("makedumpfile", "-c", "-d", str(level), str(vmcore), "theirs", cwd=machine.directory)
    ours, theirs = (KdumpFile((machine.directory / name).read_bytes()) for name in ("ours", "theirs"))
    assert ours.dumped == theirs.dumped
    assert ours.memory == theirs.memory
    assert ours.dump_level == theirs.dump_level == told["dump_level"] == level
    assert all(ours.page(page) == theirs.page(page) for page in ours.dumped)
    excluded = {page for run in told["excluded"] for page in range(run["first_page"], sum(run.values()))}
    assert excluded == set(ours.memory) - set(ours.dumped)
    assert told["missing"] == []


def test_a_partial_dump_stays_partial_and_names_what_is_missing(machine: Machine, partial: Path) -> None:
    for name in ("elf", "kdump"):
        told = machine.facts("convert", partial, "--to", name, "-o", name)
        assert told["partial"]
        assert told["pages_written"] == 12 * MIB // PAGE
        assert told["filled"] == []
    found = KdumpFile((machine.directory / "kdump").read_bytes())
    assert set(found.dumped) == {*range(8 * MIB // PAGE), *range(12 * MIB // PAGE, 16 * MIB // PAGE)}
    assert found.status & 8  # incomplete
    core = ElfCoreFile((machine.directory / "elf").read_bytes())
    assert core.pages() == set(found.dumped)
    assert core.flags & 1


def test_zeros_stand_for_missing_pages_on_request_alone(machine: Machine, partial: Path) -> None:
    said = machine.run("convert", partial, "--to", "raw", "-o", "raw", check=1).stderr
    assert "1024 pages" in said
    assert "--fill" in said
    told = machine.facts("convert", partial, "--to", "raw", "--fill", "-o", "raw")
    assert told["filled"] == [{"first_page": 8 * MIB // PAGE, "page_count": 4 * MIB // PAGE}]
    raw, content = (machine.directory / "raw").read_bytes(), partial.read_bytes()
    assert raw == content[-12 * MIB : -4 * MIB] + bytes(4 * MIB) + content[-4 * MIB :]


def test_a_pipe_gets_the_same_bytes_and_standard_error_the_report(machine: Machine, vmcore: Path) -> None:
    command = [COMMAND, "convert", str(vmcore), "--to", "elf", "-o", "-", "--json"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=machine.directory)
    told = json.loads(done.stderr)
    machine.run("convert", vmcore, "--to", "elf", "-o", "file")
    assert done.stdout == (machine.directory / "file").read_bytes()
    assert told["path"] is None
    assert told["sha256"] == hashlib.sha256(done.stdout).hexdigest()


def test_an_error_goes_to_standard_error_too_where_the_dump_goes_to_standard_output(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "damaged").write_bytes(b"\x7fELF" + bytes(100))
    done = machine.run("convert", "damaged", "--to", "elf", "-o", "-", "--json", check=1)
    assert done.stdout == ""
    assert "64-bit" in json.loads(done.stderr[: done.stderr.rindex("}") + 1])["error"]


def test_standard_output_that_is_full_is_told(machine: Machine, vmcore: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [COMMAND, "convert", str(vmcore), "--to", "elf", "-o", "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, env=machine.environment)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"standard output: No space left on device; what was sent is not a whole dump" in done.stderr


def test_a_reader_that_goes_before_the_end_is_told(machine: Machine, vmcore: Path) -> None:
    pipe = f"{COMMAND} convert {vmcore} --to elf -o - | head -c 100 > head; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False, cwd=machine.directory)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "gone before its end" in done.stderr


def test_a_terminal_gets_no_dump(machine: Machine, vmcore: Path) -> None:
    terminal, end = pty.openpty()
    try:
        command = [COMMAND, "convert", str(vmcore), "--to", "elf", "-o", "-"]
        done = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert "terminal" in done.stderr
    finally:
        os.close(terminal)
        os.close(end)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("{vmcore}", "--to", "kdump", "-o", "-"), 2, "kdump-flattened"),
        (("{vmcore}", "--to", "elf", "--compress", "zlib", "-o", "new"), 2, "never compressed"),
        (("{vmcore}", "--to", "core", "-o", "new"), 2, "'core' is none of "),
        (("{vmcore}", "--to", "elf", "-o", "there"), 2, "--force"),
        (("{vmcore}", "--to", "elf", "-o", "{vmcore}", "--force"), 2, "the dump itself"),
        (("{vmcore}", "--to", "elf", "-o", ""), 2, "names no file"),
        (("{vmcore}", "--to", "elf", "-o", "no/such/place"), 1, "No such file"),
        (("no-such-dump", "--to", "elf", "-o", "new"), 2, "No such file"),
        (("there", "--to", "elf", "-o", "new"), 1, "no dump"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_next_step(
    machine: Machine, vmcore: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    before = hashlib.sha256(vmcore.read_bytes()).hexdigest()
    (machine.directory / "there").write_bytes(b"of somebody")
    done = machine.run("convert", *(word.format(vmcore=vmcore) for word in arguments), check=code)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(machine.directory)) == ["mnt", "there"]
    assert (machine.directory / "there").read_bytes() == b"of somebody"
    assert hashlib.sha256(vmcore.read_bytes()).hexdigest() == before


def test_a_full_disk_leaves_nothing_and_says_so(machine: Machine, vmcore: Path) -> None:
    limited = ["prlimit", f"--fsize={MIB}", COMMAND, "convert", str(vmcore), "--to", "elf", "-o", "new"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, cwd=machine.directory)
    assert done.returncode == 1
    assert "new: File too large; nothing is left of it" in done.stderr
    assert os.listdir(machine.directory) == ["mnt"]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 GiB of memory, of which three pages were ever touched: an ELF core of holes."""
    path = tmp_path_factory.mktemp("sparse") / "vmcore"
    with closing(SimulatedMemory(MEMORY_BYTES)) as source:
        layout = ElfLayout([(0, SPARSE_BYTES)], source.memory.read_notes(), partial=False)
    with path.open("wb") as file:
        file.write(layout.header())
        for page in (0, 1000, SPARSE_BYTES // PAGE - 1):
            file.seek(layout.file_offset_bytes(page * PAGE))
            file.write(marked(page))
        file.truncate(layout.size_bytes)
    return path


# From a small process: a program counts as its own the memory of the one that it is started from.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.parametrize("target", FORMATS)
def test_64_gib_of_holes_convert_in_little_memory(sparse: Path, tmp_path: Path, target: str) -> None:
    made = tmp_path / "made"
    command = [COMMAND, "convert", str(sparse), "--to", target, "-o", str(made), "--no-digest", "--json"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, check=True)
    told: Any = json.loads(done.stdout)
    assert told["pages_written"] == SPARSE_BYTES // PAGE
    assert int(done.stderr) * 1024 < RESIDENT_BYTES_MAX
    assert made.stat().st_size == told["size_bytes"]
    must_be_as_small_as_it_can(made, target)
    assert last_two_pages(made, target) == bytes(PAGE) + marked(SPARSE_BYTES // PAGE - 1)


def last_two_pages(made: Path, target: str) -> bytes:
    """By drgn; of a format that it does not know, the end of the file."""
    if target in ("elf", "kdump", "kdump-flattened"):
        dump = drgn.Program()
        dump.set_core_dump(made)
        content: bytes = dump.read(SPARSE_BYTES - 2 * PAGE, 2 * PAGE, physical=True)
        return content
    with made.open("rb") as file:
        file.seek(-2 * PAGE, os.SEEK_END)
        return file.read()


def must_be_as_small_as_it_can(made: Path, target: str) -> None:
    descriptors_bytes = SPARSE_BYTES // PAGE * 24 if target.startswith("kdump") else 0
    assert made.stat().st_blocks * 512 < descriptors_bytes + 10 * MIB
