"""Memory from a file: raw bytes and ELF cores, and files that lie."""

from __future__ import annotations

import os
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dumpwriter.memory.loading import load_image
from dumpwriter.memory.source import ClassRun, PageClass
from tests.builders.elf_writer import NOTE, ElfCoreBuilder, Piece, note
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from dumpwriter.memory.image import ImageMemory

PAGE = 4096
MIB = 1 << 20
NOTES_CAPACITY = 65528


def patterned(length: int, seed: int = 1) -> bytes:
    """Bytes of which no two nearby pages are equal."""
    return struct.pack(f"<{length // 4 + 1}I", *((n * 2654435761 + seed) & 0xFFFFFFFF for n in range(length // 4 + 1)))[
        :length
    ]


def image(directory: Path, content: bytes) -> ImageMemory:
    path = directory / "memory"
    path.write_bytes(content)
    return load_image(str(path))


@pytest.mark.parametrize("length", [1, 4095, 4096, 5 * MIB + 123])
def test_a_raw_file_is_padded_to_pages(tmp_path: Path, length: int) -> None:
    content = b"r" + patterned(length)[1:]
    pages = -(-length // PAGE)
    with closing(image(tmp_path, content)) as source:
        assert source.memory.read(0, pages * PAGE) == content.ljust(pages * PAGE, b"\0")
        assert source.memory.size_bytes == pages * PAGE
        assert source.memory.read_notes() == b""
        assert source.page_classes() == [ClassRun(PageClass.KERNEL_DATA, 0, pages)]


def test_holes_of_the_file_stay_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * MIB)
        for at in (0, 5 * MIB, 64 * 1024 * MIB - 1):
            file.seek(at)
            file.write(b"!")
    with closing(load_image(str(path))) as source:
        assert source.memory.size_bytes == 64 * 1024 * MIB
        assert os.fstat(source.memory.fd).st_blocks * 512 < MIB
        assert source.memory.read(5 * MIB, 2) == b"!\0"
        assert source.memory.read(64 * 1024 * MIB - 2, 2) == b"\0!"


def test_an_elf_core_gives_ranges_and_notes(tmp_path: Path) -> None:
    low, high = patterned(3 * PAGE, 1), patterned(8 * MIB, 2)
    notes = note(b"CORE", 1, b"r" * 336), note(b"VMCOREINFO", 0, b"OSRELEASE=x\n")
    core = ElfCoreBuilder(
        [Piece(0, part, NOTE) for part in notes] + [Piece(0x1_0000_0000, high), Piece(0x1000, low)]
    ).build()
    with closing(image(tmp_path, core)) as source:
        assert [(part.physical_bytes, part.length_bytes) for part in source.memory.ranges] == [
            (0x1000, 3 * PAGE),
            (0x1_0000_0000, 8 * MIB),
        ]
        assert source.memory.read(0x1000, 3 * PAGE) == low
        assert source.memory.read(0x1_0000_0000, 8 * MIB) == high
        assert source.memory.read_notes() == b"".join(notes)
        assert source.page_classes() == [
            ClassRun(PageClass.KERNEL_DATA, 1, 3),
            ClassRun(PageClass.KERNEL_DATA, 0x10_0000, 8 * MIB // PAGE),
        ]


def test_log_and_bugcheck_leave_a_foreign_memory_alone(tmp_path: Path) -> None:
    with closing(image(tmp_path, patterned(PAGE))) as source:
        source.log("text")
        source.bugcheck(1, (0, 0, 0, 0), "reason")
        assert source.memory.read(0, PAGE) == patterned(PAGE)
        assert source.memory.read_notes() == b""


def test_segments_that_begin_and_end_inside_a_page_share_it(tmp_path: Path) -> None:
    core = ElfCoreBuilder([Piece(0x9_F000, b"a" * 0xC00), Piece(0x9_FC00, b"b" * 0x400), Piece(0xB_0010, b"c")]).build()
    with closing(image(tmp_path, core)) as source:
        assert source.memory.read(0x9_F000, PAGE) == b"a" * 0xC00 + b"b" * 0x400
        assert source.memory.read(0xB_0000, PAGE) == (bytes(16) + b"c").ljust(PAGE, b"\0")
        assert len(source.memory.ranges) == 2


def test_memory_that_is_described_twice_is_taken_once(tmp_path: Path) -> None:
    whole = patterned(16 * PAGE)
    text = Piece(4 * PAGE, whole[4 * PAGE : 6 * PAGE + 100], virtual=0xFFFFFFFF81000000)
    with closing(image(tmp_path, ElfCoreBuilder([text, Piece(0, whole)]).build())) as source:
        assert source.memory.read(0, 16 * PAGE) == whole
        assert len(source.memory.ranges) == 1


def test_what_was_left_out_of_a_segment_is_no_memory(tmp_path: Path) -> None:
    core = ElfCoreBuilder([Piece(0, b"a" * PAGE, in_memory=1 << 40), Piece(4 * PAGE, b"", in_memory=1 << 40)]).build()
    with closing(image(tmp_path, core)) as source:
        assert source.memory.size_bytes == PAGE


def test_more_segments_than_e_phnum_can_count(tmp_path: Path) -> None:
    pieces = [Piece(index * 2 * PAGE, b"x" * PAGE) for index in range(40)]
    core = ElfCoreBuilder(pieces, header_count=0xFFFF, extended_count=40).build()
    with closing(image(tmp_path, core)) as source:
        assert len(source.memory.ranges) == 40


PAGE_OF_DATA = Piece(0, b"d" * PAGE)
HOSTILE = {
    "32 bits": ElfCoreBuilder([PAGE_OF_DATA], ident=b"\x7fELF\x01\x01\x01".ljust(16, b"\0")),
    "big endian": ElfCoreBuilder([PAGE_OF_DATA], ident=b"\x7fELF\x02\x02\x01".ljust(16, b"\0")),
    "a program": ElfCoreBuilder([PAGE_OF_DATA], kind=2),
    "another processor": ElfCoreBuilder([PAGE_OF_DATA], machine=183),
    "odd header size": ElfCoreBuilder([PAGE_OF_DATA], entry_size=1),
    "no segments": ElfCoreBuilder([]),
    "only notes": ElfCoreBuilder([Piece(0, note(b"CORE", 1, b""), NOTE)]),
    "more headers than file": ElfCoreBuilder([PAGE_OF_DATA], header_count=0xFFFE),
    "extended count too large": ElfCoreBuilder([PAGE_OF_DATA], header_count=0xFFFF, extended_count=0xFFFFFFFF),
    "segment behind the file": ElfCoreBuilder([Piece(0, b"d", offset=1 << 62)]),
    "segment longer than the file": ElfCoreBuilder([Piece(0, b"d", in_file=1 << 63)]),
    "offset that overflows": ElfCoreBuilder([Piece(0, b"d", offset=2**64 - 1, in_file=2**64 - 1)]),
    "beyond any memory": ElfCoreBuilder([Piece(2**64 - PAGE, b"d" * PAGE)]),
    "core of a program": ElfCoreBuilder([Piece(0, b"d", virtual=0x400000), Piece(0, b"d", virtual=0x500000)]),
    "the same bytes many times": ElfCoreBuilder([Piece(0, b"d" * MIB)] + [
        Piece(index * MIB, b"", offset=64, in_file=MIB) for index in range(1, 100)
    ]),
    "a page for each byte": ElfCoreBuilder([Piece(index * 2 * PAGE, b"d") for index in range(1000)]),
    "notes that do not parse": ElfCoreBuilder([PAGE_OF_DATA, Piece(0, struct.pack("<III", 4, 1 << 31, 1), NOTE)]),
    "too many notes": ElfCoreBuilder([PAGE_OF_DATA, Piece(0, bytes(NOTES_CAPACITY + 4), NOTE)]),
    "the same notes many times": ElfCoreBuilder([PAGE_OF_DATA] + [
        Piece(0, b"", NOTE, offset=64, in_file=PAGE) for _ in range(20)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_lie_give_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"memory image .*memory: ") as caught:
        image(tmp_path, HOSTILE[name].build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [4, 63, 64, 120, 200, 5000])
def test_cut_cores_are_refused(tmp_path: Path, length: int) -> None:
    whole = ElfCoreBuilder([Piece(0, b"d" * PAGE), Piece(2 * PAGE, b"e" * PAGE)]).build()
    with pytest.raises(FormatError):
        image(tmp_path, whole[:length])


def test_what_cannot_be_opened_is_a_matter_of_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {"missing": "No such file", "empty": "empty", "pipe": "regular", ".": "regular"}.items():
        with pytest.raises(UsageError, match=reason):
            load_image(str(tmp_path / name))


def test_a_sparse_file_beyond_any_memory_is_refused() -> None:
    fd = os.memfd_create("vast")
    try:
        os.ftruncate(fd, 1 << 53)
        with pytest.raises(FormatError, match="beyond any physical memory"):
            load_image(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
