"""A real kernel's memory: its log and its pages at every level, as makedumpfile has them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.hostfile import HostFile
from dumpwriter.inspection.facts import describe_dump, known_vmcoreinfo
from dumpwriter.linux.address_space import TEXT_MAP, kernel_address_space
from dumpwriter.linux.kernel_log import read_kernel_log
from dumpwriter.linux.levels import LEVELS, PageFilter
from dumpwriter.linux.physical import DumpMemory
from tests.builders.elf_writer import NOTE, ElfCoreBuilder, Piece
from tests.builders.guest import FIVE_LEVELS, FOUR_LEVELS, Guest, crash, what_is_missing
from tests.builders.kdump_reader import KdumpFile
from tests.vmcores import run_reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumpwriter.dumpfile.dump import Dump

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or ""),
]


@pytest.fixture(scope="module", params=[FIVE_LEVELS, FOUR_LEVELS], ids=lambda guest: guest.name)
def guest(request: pytest.FixtureRequest) -> Guest:
    chosen: Guest = request.param
    return chosen


@pytest.fixture(scope="module")
def vmcore(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """QEMU's core with its program headers where makedumpfile looks for them."""
    directory = tmp_path_factory.mktemp(guest.name)
    core = crash(guest, directory).read_bytes()
    (headers_at,), (count,) = struct.unpack_from("<Q", core, 32), struct.unpack_from("<H", core, 56)
    pieces = []
    for number in range(count):
        kind, _, offset, _, physical, size = struct.unpack_from("<IIQQQQ", core, headers_at + 56 * number)
        pieces.append(Piece(0 if kind == NOTE else physical, core[offset : offset + size], kind))
    (directory / "vmcore").write_bytes(ElfCoreBuilder(pieces).build())
    return directory / "vmcore"


@pytest.fixture(scope="module")
def dump(vmcore: Path) -> Iterator[Dump]:
    with HostFile(str(vmcore)) as file:
        yield open_dump(file)


def test_the_log_is_what_makedumpfile_prints(guest: Guest, dump: Dump, vmcore: Path) -> None:
    info = known_vmcoreinfo(dump)
    records = list(read_kernel_log(kernel_address_space(DumpMemory(dump), info), info))
    run_reader("makedumpfile", "--dump-dmesg", "-f", "vmcore", "dmesg", cwd=vmcore.parent)
    ours = "".join(line + "\n" for record in records for line in record.lines())
    assert ours == (vmcore.parent / "dmesg").read_text()
    assert f"line {guest.lines} of init" in ours
    has_wrapped = "line 1 of init" not in ours
    assert has_wrapped == (guest.lines > 1000)


def test_symbols_are_where_the_physical_base_and_the_page_tables_have_them(guest: Guest, dump: Dump) -> None:
    info = known_vmcoreinfo(dump)
    space = kernel_address_space(DumpMemory(dump), info)
    assert space.level_count == (5 if guest is FIVE_LEVELS else 4)
    for name in ("init_uts_ns", "_stext", "node_data"):
        assert space.physical(info.symbols[name]) == info.symbols[name] - TEXT_MAP + info.physical_base
    assert space.read(info.symbols["init_uts_ns"] + info.offsets["uts_namespace.name"], 6) == b"Linux\0"


def test_every_level_keeps_what_makedumpfile_keeps(dump: Dump, vmcore: Path) -> None:
    info, reader = known_vmcoreinfo(dump), DumpMemory(dump)
    everything = {page for run in dump.contents.memory for page in range(run[0], sum(run))}
    for level in LEVELS:
        run_reader("makedumpfile", "-d", str(level), "-f", "vmcore", "filtered", cwd=vmcore.parent)
        theirs = set(KdumpFile((vmcore.parent / "filtered").read_bytes()).dumped)
        runs = PageFilter(dump.contents.memory, reader, info, level).excluded()
        assert everything - {page for run in runs for page in range(run[0], sum(run))} == theirs, f"level {level}"


def test_it_is_told_of_as_what_it_is(dump: Dump) -> None:
    facts = describe_dump(dump)
    assert facts["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    assert facts["system"]["release"].endswith("-cloud-amd64")
    assert len(facts["cpus"]) == 2
    assert facts["problems"] == []
    classes = {entry["name"] for entry in facts["classes"]}
    assert classes == {"kernel", "cache", "cache_private", "user", "free", "offline", "beyond"}
