"""Windows crash dumps, LiME files, raw memory and flattened files as dumps; and which of them a file is."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.dumpfile.flattened import FlattenedFile
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.dumpfile.raw import open_raw
from dumpwriter.memory.simulated import SimulatedMemory
from tests.builders.elf_writer import ElfCoreBuilder, Piece
from tests.builders.flattened_writer import cut_up, flattened
from tests.builders.kdump_writer import KdumpBuilder
from tests.builders.lime_writer import LimeRange
from tests.builders.pagedump_writer import BITMAP, KERNEL, PagedumpBuilder
from tests.dumpreading import PAGE, BytesFile, all_pages, must_be_sound
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from dumpwriter.dumpfile.dump import Dump

SOURCE = random.Random(5)
PAGES = {page: SOURCE.randbytes(PAGE) for page in (1, 2, 3, 70, 71, 4000)} | {5: bytes(PAGE)}


def opened(content: bytes) -> Dump:
    dump = open_dump(BytesFile(content))
    must_be_sound(dump)
    return dump


def test_a_full_windows_dump() -> None:
    dump = opened(PagedumpBuilder(PAGES).build())
    assert (dump.format, dump.contents.is_partial) == ("windows-full", False)
    assert all_pages(dump) == PAGES
    assert dump.contents.memory == dump.contents.present == [(1, 3), (5, 1), (70, 2), (4000, 1)]


@pytest.mark.parametrize("kind", [KERNEL, BITMAP])
@pytest.mark.parametrize("magic", [b"FDMPDUMP", b"SDMPDUMP"])
def test_a_windows_dump_with_a_bitmap(kind: int, magic: bytes) -> None:
    dump = opened(PagedumpBuilder(PAGES, kind, runs=[(0, 158), (256, 5000)], bitmap_magic=magic).build())
    assert dump.format == "windows-bitmap"
    assert all_pages(dump) == PAGES
    assert dump.contents.memory == [(0, 158), (256, 5000)]


def test_a_windows_dump_that_says_that_it_is_incomplete_is_partial() -> None:
    comment = b"ghostdump: incomplete, pages are missing that the dump was to hold"
    assert opened(PagedumpBuilder(PAGES, BITMAP, comment=comment).build()).contents.is_partial


def test_a_lime_file() -> None:
    ranges = [LimeRange(page * PAGE, PAGES[page]) for page in (70, 71, 1)]
    dump = opened(b"".join(part.build() for part in [*ranges, LimeRange(2 * PAGE + 10, b"inside a page")]))
    assert dump.format == "lime"
    expected = {page: PAGES[page] for page in (1, 70, 71)} | {2: (bytes(10) + b"inside a page").ljust(PAGE, b"\0")}
    assert all_pages(dump) == expected


def test_raw_memory_is_read_where_somebody_says_so() -> None:
    content = PAGES[1] + b"and a bit"
    dump = open_raw(BytesFile(content))
    assert all_pages(dump) == {0: PAGES[1], 1: b"and a bit".ljust(PAGE, b"\0")}
    with pytest.raises(FormatError, match="it is no dump in a format that is read here"):
        opened(content)


HOSTILE: dict[str, tuple[PagedumpBuilder | LimeRange, str]] = {
    "more runs than there is room for": (PagedumpBuilder(PAGES, run_count=43), "do not fit"),
    "runs out of order": (PagedumpBuilder(PAGES, runs=[(5, 1), (1, 3)]), "not in order"),
    "a run beyond memory": (PagedumpBuilder(PAGES, runs=[(1, 1 << 63)]), "beyond any memory"),
    "an empty run": (PagedumpBuilder(PAGES, runs=[(1, 0)]), "not in order"),
    "more pages than the file": (PagedumpBuilder(PAGES, runs=[(1, 800)]), "cut off"),
    "no bitmap": (PagedumpBuilder(PAGES, BITMAP, bitmap_magic=b"nonsense"), "not where it should be"),
    "a vast bitmap": (PagedumpBuilder(PAGES, BITMAP, bitmap_pages=1 << 63), "larger than any memory"),
    "a bitmap that leaves the file": (PagedumpBuilder(PAGES, BITMAP, bitmap_pages=1 << 39), "cut off"),
    "another count": (PagedumpBuilder(PAGES, BITMAP, present_pages=6), "names 7 pages, its header 6"),
    "a header alone": (PagedumpBuilder(PAGES, kind=3), "of type 3 is not read here"),
    "ends before it starts": (LimeRange(PAGE, b"d" * PAGE, last=5), "is none"),
    "longer than the file": (LimeRange(PAGE, b"d" * PAGE, last=10 * PAGE), "cut off"),
    "the whole address space": (LimeRange(0, b"d" * PAGE, last=(1 << 64) - 1), "is none"),
    "another version": (LimeRange(0, b"d" * PAGE, version=2), "no header of a LiME file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_lie_are_refused_with_the_reason(name: str) -> None:
    builder, reason = HOSTILE[name]
    with pytest.raises(FormatError, match=reason):
        opened(builder.build())


@pytest.mark.parametrize("piece", [100, 4096, 50_000])
def test_a_flattened_file_is_the_dump_that_it_describes(piece: int) -> None:
    for plain in (KdumpBuilder(PAGES).build(), ElfCoreBuilder([Piece(PAGE, PAGES[1] + PAGES[2])]).build()):
        records = cut_up(plain, piece)
        SOURCE.shuffle(records)
        dump = opened(flattened([(0, b"what is written first, and then again"), *records]))
        assert dump.format in ("kdump-flattened", "elf-flattened")
        assert all_pages(dump) == all_pages(opened(plain))


def test_what_no_record_names_is_a_hole() -> None:
    file = FlattenedFile(BytesFile(flattened([(3 * PAGE, b"end"), (PAGE, b"middle")])))
    assert file.size_bytes == 3 * PAGE + 3
    assert file.read(0, file.size_bytes) == (bytes(PAGE) + b"middle").ljust(3 * PAGE, b"\0") + b"end"
    assert [*file.data_spans(10, 2 * PAGE)] == [(PAGE, 6)]
    assert [*file.data_spans(PAGE + 2, 2)] == [(PAGE + 2, 2)]


def lime_far_behind(last: int) -> bytes:
    """One range from 0 on, of which nothing is written but its last byte."""
    return flattened([(0, LimeRange(0, b"", last=last).build()), (last + 32, b"!")])


@pytest.mark.parametrize("last", [(1 << 31) - 1, (1 << 50) - 1])
def test_memory_that_no_record_of_a_flattened_file_names_is_none(last: int) -> None:
    """4 KiB would else be any number of pages of zeros, and fill the disk in another format."""
    with pytest.raises(FormatError, match="claim more memory than the file holds"):
        opened(lime_far_behind(last))


RECORDS = st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=30)), max_size=12)


@given(RECORDS)
@settings(max_examples=300, deadline=None)
def test_the_last_of_what_was_written_to_a_place_counts(records: list[tuple[int, bytes]]) -> None:
    expected = bytearray(max((at + len(part) for at, part in records), default=0))
    for at, part in records:
        expected[at : at + len(part)] = part
    file = FlattenedFile(BytesFile(flattened(records)))
    assert file.read(0, file.size_bytes) == bytes(expected)
    for start in range(0, len(expected), 7):
        length = min(11, len(expected) - start)
        assert file.read(start, length) == bytes(expected[start : start + length])


KDUMP = KdumpBuilder(PAGES).build()
HOSTILE_FLATTENED = {
    "no end": (flattened(cut_up(KDUMP, PAGE), end=b""), "cut off"),
    "cut in a record": (flattened(cut_up(KDUMP, PAGE))[:-100], "cut off"),
    "a place before the file": (flattened([(-5, b"x")]), "damaged"),
    "a place behind any file": (flattened([(1 << 62, b"x")]), "damaged"),
    "an empty record": (flattened([(0, b"")]), "damaged"),
    "a vast record": (flattened([(0, b"x")], size=(1 << 63) - 1), "damaged"),
    "another version": (flattened([(0, KDUMP)], version=2), "version 2"),
    "no dump": (flattened([(0, b"text")]), "describes is no dump"),
    "nothing": (flattened([]), "describes is no dump"),
    "itself": (flattened([(0, flattened([(0, KDUMP)]))]), "describes is no dump"),
}


@pytest.mark.parametrize("name", HOSTILE_FLATTENED)
def test_flattened_files_that_lie_are_refused(name: str) -> None:
    content, reason = HOSTILE_FLATTENED[name]
    with pytest.raises(FormatError, match=reason):
        opened(content)


OTHERS = {
    b"GHOSTDH\0": "sealed dump",
    b"\x1f\x8b\x08": "unpack it first",
    b"PAGEDUMP": "32 bits",
    b"QFI\xfb": "qcow2",
    b"": "no dump",
    b"\x7fEL": "no dump",
}


@pytest.mark.parametrize("start", OTHERS)
def test_what_is_no_dump_is_told_what_it_looks_like(start: bytes) -> None:
    with pytest.raises(FormatError, match=OTHERS[start]):
        opened(start)


def test_a_disk_image_is_told_its_next_step() -> None:
    image = b"anything" * 512 + b"GHOSTBR\0".ljust(8 << 20, b"\0")
    with pytest.raises(FormatError, match="image of a disk: ghostdump recover"):
        opened(image)


@pytest.mark.parametrize("options", [("-c", "-d", "1"), ("-l", "-d", "31"), ("-E", "-d", "0")])
def test_what_makedumpfile_flattens_is_what_it_writes(tmp_path: Path, options: tuple[str, ...]) -> None:
    with closing(SimulatedMemory(16 << 20)) as machine:
        write_vmcore(tmp_path / "vmcore", machine.memory)
    run_reader("makedumpfile", *options, "vmcore", "plain", cwd=tmp_path)
    run_reader("sh", "-c", f"makedumpfile -F {' '.join(options)} vmcore > flat", cwd=tmp_path)
    plain, flat = (open_dump(BytesFile((tmp_path / name).read_bytes())) for name in ("plain", "flat"))
    assert flat.format == f"{plain.format}-flattened"
    assert flat.contents == plain.contents
    assert all_pages(flat) == all_pages(plain)
