"""Looking into dumps: inspect, log, read and diff, each beside another tool that says the same."""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.cli import inspect
from dumpwriter.dumpfile.file import File
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.export.notes import pack_notes, prstatus_note
from dumpwriter.inspection.facts import describe_dump
from dumpwriter.inspection.hexdump import hexdump
from dumpwriter.linux.log_record import LogRecord
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.builders.elf_writer import ElfCoreBuilder, Piece
from tests.machines import Machine
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB, PAGE = 1 << 20, 4096


@pytest.fixture
def cli(tmp_path: Path) -> Machine:
    """The command alone: nothing is ever mounted."""
    return Machine(tmp_path)


@pytest.fixture
def simulated() -> Iterator[SimulatedMemory]:
    with closing(SimulatedMemory(16 * MIB)) as simulated:
        yield simulated


def hexdump_says(path: Path, start: int, length: int) -> str:
    if shutil.which("hexdump") is None:
        pytest.skip("hexdump is not installed")
    command = ["hexdump", "-C", "-s", str(start), "-n", str(length), str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout


def test_a_recovered_dump_tells_of_its_machine(machine: Machine) -> None:
    machine.create()
    machine.mount()
    machine.crash("--bugcheck", "0xD1", "--parameter", "0x10", "--text", "a driver touched freed memory")
    machine.mount()
    core = machine.crash_directory() / "vmcore"
    facts = machine.facts("inspect", core)
    assert facts["bugcheck"] == {"code": 0xD1, "parameters": [0x10, 0, 0, 0], "text": "a driver touched freed memory"}
    assert facts["panic"] == "Kernel panic - not syncing: bugcheck 0x000000d1: a driver touched freed memory"
    assert facts["system"]["release"] == kernel.RELEASE
    assert [cpu["symbol"] for cpu in facts["cpus"]] == ["ghostdump_bugcheck+0x0", None]
    assert facts["cpus"][0]["registers"]["rdi"] == 0xD1
    assert facts["report"]["verdict"] == "COMPLETE"
    assert facts["problems"] == []
    assert sum(entry["pages_present"] for entry in facts["classes"]) == facts["pages_total"] == 16 * MIB // PAGE
    printed = machine.run("inspect", core).stdout
    assert "ghostdump_bugcheck+0x0" in printed
    assert "0xd1 (0x10, 0x0, 0x0, 0x0) a driver touched freed memory" in printed

    run_reader("makedumpfile", "--dump-dmesg", str(core), "dmesg", cwd=machine.directory)
    assert machine.run("log", core).stdout == (machine.directory / "dmesg").read_text()

    converted = machine.directory / "converted"
    machine.run("convert", core, "--to", "kdump", "-o", converted)
    assert machine.run("diff", core, converted).stdout == ""
    assert machine.facts("inspect", converted)["classes"] == facts["classes"]


@pytest.mark.parametrize(("address", "length"), [(0x300001, 4099), (15 * MIB, MIB)])
def test_read_prints_what_hexdump_prints(
    cli: Machine, simulated: SimulatedMemory, tmp_path: Path, address: int, length: int
) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    (tmp_path / "raw").write_bytes(simulated.memory.read(0, 16 * MIB))
    printed = cli.run("read", "vmcore", hex(address), length).stdout
    assert printed == hexdump_says(tmp_path / "raw", address, length)
    facts = cli.facts("read", "vmcore", hex(address), length)
    assert bytes.fromhex(facts["hex"]) == simulated.memory.read(address, length)


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([bytes(16), bytes(100), b"x" * 48]), min_size=1, max_size=8),
    st.sampled_from([0, 3, 0xFFFF_FFF0, 1 << 40]),
)
def test_any_pieces_are_shown_as_hexdump_shows_them(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], address: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "hexdump"
    content = b"".join(pieces)
    with path.open("wb") as file:
        file.seek(address)
        file.write(content)
    ours = "".join(line + "\n" for line in hexdump(pieces, address))
    assert ours == (hexdump_says(path, address, len(content)) if content else "")


def test_virtual_addresses_are_read_through_the_page_tables(
    cli: Machine, simulated: SimulatedMemory, tmp_path: Path
) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    address = kernel.direct_address(kernel.UTS_NAMESPACE + kernel.UTS_NAME_OFFSET)
    first = cli.run("read", "vmcore", hex(address), 16, "--virtual").stdout.splitlines()[0]
    assert first.startswith(f"{address:x}  4c 69 6e 75 78")
    assert first.endswith("|Linux...........|")
    refused = cli.run("read", "vmcore", "0x1000", 16, "--virtual", check=1)
    assert "vmcore: 0x1000 is not mapped: its PGD at" in refused.stderr


def test_what_is_missing_is_named_behind_what_is_there(
    cli: Machine, simulated: SimulatedMemory, tmp_path: Path
) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory, [(0, 8 * MIB), (9 * MIB, 7 * MIB)], partial=True)
    done = cli.run("read", "vmcore", hex(8 * MIB - 16), 32, check=1)
    assert done.stdout.startswith("007ffff0  ")
    assert done.stderr == "ghostdump: vmcore: the dump does not hold the page at 0x800000\n"
    assert "PARTIAL" in cli.run("inspect", "vmcore").stdout


def test_diff_names_the_pages_that_differ(cli: Machine, simulated: SimulatedMemory, tmp_path: Path) -> None:
    write_vmcore(tmp_path / "a", simulated.memory, [(0, 12 * MIB), (13 * MIB, 3 * MIB)])
    simulated.memory.write(0x30_0000 + 5, b"!")
    simulated.memory.write(0x50_0FFF, b"!!")
    write_vmcore(tmp_path / "b", simulated.memory, [(MIB, 15 * MIB)])
    assert cli.run("diff", "a", "a").stdout == ""
    lines = cli.run("diff", "a", "b", check=1).stdout.splitlines()
    assert lines == [
        "differ             0x000000300000 1 page",
        "differ             0x000000500000 2 pages",
        "only in the first  0x000000000000 256 pages",
        "only in the second 0x000000c00000 256 pages",
    ]
    facts = cli.facts("diff", "a", "b", check=1)
    assert facts["same"] is False
    assert facts["differing"] == [{"first_page": 0x300, "page_count": 1}, {"first_page": 0x500, "page_count": 2}]


@pytest.mark.parametrize("second", ["nowhere", "garbage"])
def test_diff_says_2_where_it_cannot_tell(
    cli: Machine, simulated: SimulatedMemory, tmp_path: Path, second: str
) -> None:
    write_vmcore(tmp_path / "a", simulated.memory)
    (tmp_path / "garbage").write_bytes(b"no dump")
    done = cli.run("diff", "a", second, check=2)
    assert done.stderr.startswith(f"ghostdump: {second}: ")
    assert done.stderr.count("\n") == 1


def test_a_dump_without_vmcoreinfo_is_told_as_far_as_it_goes(cli: Machine, tmp_path: Path) -> None:
    notes = pack_notes([prstatus_note(7, {"rip": 0x1234})])
    pieces = [Piece(0, notes, kind=4), Piece(0x1000, b"x" * 8192)]
    (tmp_path / "core").write_bytes(ElfCoreBuilder(pieces).build())
    facts = cli.facts("inspect", "core")
    assert facts["problems"] == ["the dump has no VMCOREINFO: nothing is known of its kernel, only of its pages"]
    assert (facts["pages_total"], facts["classes"], facts["bugcheck"]) == (2, [], None)
    assert (facts["cpus"][0]["pid"], facts["cpus"][0]["registers"]["rip"]) == (7, 0x1234)
    assert "not known" in cli.run("inspect", "core").stdout
    assert "no VMCOREINFO" in cli.run("log", "core", check=1).stderr


class Bytes(File):
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content))
        self._content = content

    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = self._content[offset_bytes : offset_bytes + len(buffer)]


def test_a_scribbled_dump_is_told_of_or_refused(simulated: SimulatedMemory, tmp_path: Path) -> None:
    """Words and digits change where a kernel says something: headers, VMCOREINFO, page tables, log, descriptors."""
    simulated.bugcheck(0xD1, (1, 2, 3, 4), "scribbled")
    layout = write_vmcore(tmp_path / "vmcore", simulated.memory)
    content = (tmp_path / "vmcore").read_bytes()
    memory = layout.file_offset_bytes(0)
    numbers = [found.span(1) for found in re.finditer(rb"=(-?[0-9a-f]+)\n", content[:memory])]
    starts = (kernel.UTS_NAMESPACE, kernel.PRINTK_VARIABLES, kernel.PRINTK_BUFFER, kernel.PAGE_TABLES)
    descriptors = kernel.KernelMap(simulated.memory.size_bytes).page_descriptors
    areas = [(0, memory), *((memory + start, 512) for start in (*starts, descriptors, kernel.MEM_MAP_POINTER))]
    chance, told = random.Random(1), 0
    for _ in range(150):
        scribbled = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            start, end = chance.choice(numbers)
            scribbled[start:end] = bytes(chance.choice(b"0123456789abcdef-") for _ in range(end - start))
            place, length = chance.choice(areas)
            place += chance.randrange(length)
            scribbled[place : place + 8] = chance.choice((bytes(8), b"\xff" * 8, chance.randbytes(8)))
        with suppress(FormatError):
            assert describe_dump(open_dump(Bytes(bytes(scribbled))))["pages_total"] > 0
            told += 1
    assert told > 100


def test_no_text_of_a_dump_steers_the_terminal(cli: Machine, simulated: SimulatedMemory, tmp_path: Path) -> None:
    simulated.log("\x1b[2Jgone")
    simulated.bugcheck(1, (0, 0, 0, 0), "\x1b]0;title\x07")
    simulated.memory.write(kernel.UTS_NAMESPACE + kernel.UTS_NAME_OFFSET + 65, b"\x1b[31m")
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    for command in ("inspect", "log"):
        printed = cli.run(command, "vmcore").stdout
        assert "\x1b" not in printed
        assert "\\x1b" in printed


def test_a_log_that_is_damaged_is_printed_up_to_there(cli: Machine, simulated: SimulatedMemory, tmp_path: Path) -> None:
    for number in range(10):
        simulated.log(f"line {number}")
    simulated.memory.write(kernel.PRINTK_BUFFER + 5 * 24 + 8, b"\x01\x00")
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    done = cli.run("log", "vmcore", check=1)
    assert [line.split("] ")[1] for line in done.stdout.splitlines()] == [f"line {number}" for number in range(5)]
    assert done.stderr == "ghostdump: vmcore: the log ring is damaged: a record of 1 bytes at 120\n"
    facts = cli.facts("log", "vmcore", check=1)
    assert [record["text"] for record in facts["records"]] == [f"line {number}" for number in range(5)]
    assert facts["problem"] == "the log ring is damaged: a record of 1 bytes at 120"


def test_a_log_of_any_length_is_written_as_it_is_read(
    simulated: SimulatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ring that somebody prepared has millions of records: they must not be held until the last one."""
    printed: list[str] = []

    def records(*_: object) -> Iterator[LogRecord]:
        for number in range(3):
            yield LogRecord(number, b"said %d" % number)
            printed.append(capsys.readouterr().out)

    monkeypatch.setattr(inspect, "read_kernel_log", records)
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    assert inspect.log(argparse.Namespace(dump=str(tmp_path / "vmcore"), json=True)) == 0
    assert [f"said {number}" in piece for number, piece in enumerate(printed)] == [True] * 3
    facts = json.loads("".join(printed) + capsys.readouterr().out)
    assert [record["time_ns"] for record in facts["records"]] == [0, 1, 2]


@pytest.mark.parametrize("content", ["[", "[" * 100_000, "[]", '{"pages_present": 1}', '{"pages_present": "\\u001b"}'])
def test_a_report_that_is_of_something_else_is_not_told(
    cli: Machine, simulated: SimulatedMemory, tmp_path: Path, content: str
) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    (tmp_path / "report.json").write_text(content)
    assert cli.facts("inspect", "vmcore")["report"] is None


def test_what_a_report_says_is_escaped(cli: Machine, simulated: SimulatedMemory, tmp_path: Path) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    report = {"pages_written": 16 * MIB // PAGE, "verdict": "\x1b[2J", "reason": ["x"]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert "report     \\x1b[2J: ['x']" in cli.run("inspect", "vmcore").stdout
