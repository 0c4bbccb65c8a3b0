"""kdump-compressed files as dumps: those that the tests write, and those that makedumpfile makes of the same memory."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.dump import DumpRun
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.memory.simulated import SimulatedMemory
from tests.builders.elf_writer import note
from tests.builders.kdump_writer import INCOMPLETE, LZO, RAW, SNAPPY, ZLIB, ZSTD, KdumpBuilder
from tests.dumpreading import PAGE, BytesFile, all_pages, joined, must_be_sound, read_pages
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from dumpwriter.dumpfile.dump import Dump

SOURCE = random.Random(4)
PAGES = {
    page: SOURCE.randbytes(PAGE) if page % 3 == 0 else bytes([page % 256]) * PAGE
    for page in (*range(2, 700), 1000, 40_000, 40_001)
} | {page: bytes(PAGE) for page in (*range(300, 340), 500, 1001, 1002)}  # fmt: skip
ZEROS = {page for page, content in PAGES.items() if not any(content)}
MEMORY = {*range(2048), *range(40_000, 40_100)}
NOTES = note(b"CORE", 1, b"r" * 336) + note(b"VMCOREINFO", 0, b"OSRELEASE=x\n")


def opened(content: bytes) -> Dump:
    return open_dump(BytesFile(content))


@pytest.mark.parametrize("kind", [RAW, ZLIB, LZO, ZSTD])
@pytest.mark.parametrize("version", range(1, 7))
def test_every_version_and_compression_gives_every_page(kind: int, version: int) -> None:
    dump = opened(KdumpBuilder(PAGES, MEMORY, kind, version, notes=NOTES).build())
    assert dump.format == "kdump"
    assert all_pages(dump) == PAGES
    assert dump.contents.memory == [(0, 2048), (40_000, 100)]
    assert dump.contents.notes == (NOTES if version >= 4 else b"")
    assert not dump.contents.is_partial
    must_be_sound(dump)


def test_zeros_that_share_a_stored_page_are_told_without_reading() -> None:
    runs = [run for run in opened(KdumpBuilder(PAGES, MEMORY).build()).runs() if run.is_zero]
    assert runs == [DumpRun(page, count, is_zero=True) for page, count in joined((page, 1) for page in sorted(ZEROS))]
    unshared = opened(KdumpBuilder(PAGES, MEMORY, share_zeros=False).build())
    assert not any(run.is_zero for run in unshared.runs())
    assert all_pages(unshared) == PAGES


def test_a_page_that_many_share_and_that_is_not_zero_is_data() -> None:
    content = bytearray(KdumpBuilder({page: bytes(PAGE) for page in range(8)}, kind=RAW).build())
    content[-1] = 1
    dump = opened(bytes(content))
    assert [*dump.runs()] == [DumpRun(0, 8, is_zero=False)]
    assert all_pages(dump)[7][-1] == 1


def test_vmcoreinfo_of_old_versions_becomes_a_note() -> None:
    dump = opened(KdumpBuilder(PAGES, MEMORY, version=3, vmcoreinfo=b"OSRELEASE=3.0\n").build())
    assert dump.contents.notes == note(b"VMCOREINFO", 0, b"OSRELEASE=3.0\n")


def test_of_an_incomplete_file_the_pages_that_were_written_are_present() -> None:
    unwritten = {10, 11, 600, 40_001}
    whole = KdumpBuilder(PAGES, MEMORY, status=INCOMPLETE, unwritten=unwritten).build()
    dump = opened(whole)
    assert dump.contents.is_partial
    assert all_pages(dump) == {page: content for page, content in PAGES.items() if page not in unwritten}
    must_be_sound(dump)
    cut = opened(whole[: len(whole) - 100 * PAGE])
    assert 0 < cut.contents.present.page_count < len(PAGES) - 100  # type: ignore[attr-defined]
    assert all_pages(cut).items() <= PAGES.items()
    must_be_sound(cut)


def test_a_complete_file_that_was_cut_says_so_where_it_is_read() -> None:
    whole = KdumpBuilder(PAGES, MEMORY).build()
    dump = opened(whole[:-PAGE])
    assert read_pages(dump, 2, 1) == PAGES[2]
    with pytest.raises(FormatError, match=r"pages from 0x3e8 on: .* not in the file .*cut off"):
        read_pages(dump, 1000, 1)


@pytest.mark.parametrize("version", [2, 6])
def test_one_file_of_a_split_dump_holds_its_part(version: int) -> None:
    dump = opened(KdumpBuilder(PAGES, MEMORY, version=version, split=(100, 1001)).build())
    assert dump.contents.is_partial
    assert all_pages(dump) == {page: content for page, content in PAGES.items() if page in range(100, 1001)}


HOSTILE: dict[str, tuple[KdumpBuilder, str]] = {
    "snappy": (KdumpBuilder(PAGES, status=SNAPPY), "snappy"),
    "large pages": (KdumpBuilder(PAGES, block_size=65536), "only those of 4096"),
    "bitmaps too small": (KdumpBuilder(PAGES, max_mapnr=1 << 40), "too small"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_read_here_is_named(name: str) -> None:
    builder, reason = HOSTILE[name]
    with pytest.raises(FormatError, match=reason):
        opened(builder.build())


def test_a_damaged_page_is_an_error_and_its_neighbours_are_not() -> None:
    for kind in (ZLIB, LZO, ZSTD):
        whole = bytearray(KdumpBuilder({0: b"a" * PAGE, 1: b"b" * PAGE}, kind=kind).build())
        whole[-12:-2] = b"\xff" * 10
        dump = opened(bytes(whole))
        assert read_pages(dump, 0, 1) == b"a" * PAGE
        with pytest.raises(FormatError, match="pages from 0x1 on"):
            read_pages(dump, 1, 1)


def test_a_page_that_claims_to_be_vast_takes_no_room() -> None:
    claim = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\1\0\0"
    content = bytearray(KdumpBuilder({0: SOURCE.randbytes(PAGE)}, kind=RAW).build())
    table = content.index((len(content) - PAGE).to_bytes(8, "little"))
    content[table + 8 : table + 16] = len(claim).to_bytes(4, "little") + ZSTD.to_bytes(4, "little")
    content[-PAGE : -PAGE + len(claim)] = claim
    with pytest.raises(FormatError, match="larger than a page"):
        read_pages(opened(bytes(content)), 0, 1)


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vmcore") / "vmcore"
    with closing(SimulatedMemory(16 << 20)) as machine:
        machine.bugcheck(0xE2, (1, 2, 3, 4), "crash on request")
        write_vmcore(path, machine.memory)
    return path


@pytest.mark.parametrize("option", ["-c", "-l", ""])
@pytest.mark.parametrize("level", [0, 1, 16, 31])
def test_what_makedumpfile_wrote_has_the_pages_of_the_memory(
    vmcore: Path, tmp_path: Path, option: str, level: int
) -> None:
    options = [option] if option else []
    run_reader("makedumpfile", *options, "-d", str(level), str(vmcore), "filtered", cwd=tmp_path)
    source, dump = opened_file(vmcore), opened_file(tmp_path / "filtered")
    expected, found = all_pages(source), all_pages(dump)
    assert found.items() <= expected.items()
    assert (len(found) == len(expected)) == (level in (0, 1))
    assert dump.contents.memory == source.contents.memory
    assert b"VMCOREINFO" in dump.contents.notes
    must_be_sound(dump)
    assert any(run.is_zero for run in dump.runs()) == bool(level & 1)  # zeros are not left out: they share a page


def opened_file(path: Path) -> Dump:
    return opened(path.read_bytes())
