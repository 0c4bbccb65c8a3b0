"""ELF cores as dumps: what is memory, what is there, what is a hole, and files that lie."""

from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dumpwriter.dumpfile.dump import DumpRun
from dumpwriter.dumpfile.elf import open_elf
from dumpwriter.hostfile import HostFile
from tests.builders.elf_writer import NOTE, ElfCoreBuilder, Piece, note
from tests.dumpreading import PAGE, BytesFile, open_or_refuse, read_pages
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path


def test_pages_that_were_left_out_are_memory_and_not_present() -> None:
    pieces = [Piece(0, b"a" * PAGE, in_memory=3 * PAGE), Piece(8 * PAGE, b"", in_memory=2 * PAGE)]
    dump = open_elf(BytesFile(ElfCoreBuilder(pieces).build()))
    assert dump.contents.memory == [(0, 3), (8, 2)]
    assert dump.contents.present == [(0, 1)]
    assert not dump.contents.is_partial
    with pytest.raises(ValueError, match="not all present"):
        read_pages(dump, 0, 2)


def test_an_incomplete_core_is_partial() -> None:
    content = bytearray(ElfCoreBuilder([Piece(0, b"a" * PAGE)]).build())
    content[48] = 1  # e_flags
    assert open_elf(BytesFile(bytes(content))).contents.is_partial


def test_pieces_that_share_pages_and_addresses_are_one_memory() -> None:
    whole = b"".join(bytes([page]) * PAGE for page in range(1, 9))
    pieces = [
        Piece(5 * PAGE + 100, whole[5 * PAGE + 100 :]),
        Piece(10, whole[10 : 3 * PAGE + 5]),
        Piece(2 * PAGE, whole[2 * PAGE : 5 * PAGE + 7]),
    ]
    dump = open_elf(BytesFile(ElfCoreBuilder(pieces).build()))
    assert dump.contents.present == [(0, 8)]
    read = read_pages(dump, 0, 8)
    assert read[:10] == bytes(10)
    assert read[10 : 5 * PAGE + 7] == whole[10 : 5 * PAGE + 7]
    assert read[5 * PAGE + 7 : 5 * PAGE + 100] == bytes(93)
    assert read[5 * PAGE + 100 :] == whole[5 * PAGE + 100 :]


def test_holes_of_the_file_are_told_as_zeros_without_reading(tmp_path: Path) -> None:
    """64 GiB of memory of which three pages are there; pages and holes of the file do not begin at the same places."""
    builder = ElfCoreBuilder([Piece(0, b"", in_file=64 << 30, offset=1000 * PAGE + 512)])
    path = tmp_path / "core"
    with path.open("wb") as file:
        file.write(builder.build())
        file.truncate(1000 * PAGE + 512 + (64 << 30))
        for page in (0, 5000, 1 << 23):
            file.seek((1000 + page) * PAGE)
            file.write(b"!" * PAGE)
    with HostFile(str(path)) as opened:
        dump = open_elf(opened)
        runs = list(dump.runs())
        assert sum(run.page_count for run in runs) == 1 << 24
        held = [range(run.first_page, run.first_page + run.page_count) for run in runs if not run.is_zero]
        assert [*chain(*held)] == [0, 4999, 5000, (1 << 23) - 1, 1 << 23]
        assert read_pages(dump, 4999, 2) == (bytes(PAGE - 512) + b"!" * PAGE).ljust(2 * PAGE, b"\0")
        assert not any(read_pages(dump, 6000, 10))


def test_a_file_that_becomes_shorter_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(ElfCoreBuilder([Piece(0, b"a" * 8 * PAGE)]).build())
    with HostFile(str(path)) as opened:
        dump = open_elf(opened)
        os.truncate(path, 3 * PAGE)
        with pytest.raises(FormatError, match="shorter"):
            list(dump.runs())
        with pytest.raises(FormatError, match="cut while it was read"):
            read_pages(dump, 0, 8)


def test_as_many_segments_as_a_core_may_have_take_little_memory() -> None:
    count = 200_000
    pieces = [Piece(2 * page * PAGE, b"", offset=64, in_file=8) for page in range(count)]
    content = ElfCoreBuilder(pieces, header_count=0xFFFF, extended_count=count).build() + bytes(count * PAGE)
    dump = open_elf(BytesFile(content))
    assert len(dump.contents.present) == count
    assert next(iter(dump.runs())) == DumpRun(0, 1, is_zero=False)
    assert read_pages(dump, 2 * (count - 1), 1) == content[64:72].ljust(PAGE, b"\0")


def test_notes_of_nothing_but_zeros_before_their_end_are_read_in_one_go() -> None:
    notes = bytes(12 << 16) + note(b"x", 1, b"")
    dump = open_elf(BytesFile(ElfCoreBuilder([Piece(0, notes, NOTE), Piece(0, b"a" * PAGE)]).build()))
    assert len(dump.contents.notes) == len(notes)


NUMBERS = st.one_of(st.integers(0, 20 * PAGE), st.integers(0, 2**64 - 1))
PIECES = st.builds(
    Piece,
    physical=NUMBERS,
    content=st.binary(max_size=200),
    kind=st.sampled_from([0, 1, 1, 1, 4, 5]),
    virtual=st.one_of(st.none(), NUMBERS),
    offset=st.one_of(st.none(), NUMBERS),
    in_file=st.one_of(st.none(), NUMBERS),
    in_memory=st.one_of(st.none(), NUMBERS),
)
BUILDERS = st.builds(
    ElfCoreBuilder,
    pieces=st.lists(PIECES, max_size=8),
    header_count=st.one_of(st.none(), st.integers(0, 0xFFFF)),
    extended_count=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
)


@given(BUILDERS)
@settings(max_examples=400, deadline=None)
def test_any_segments_give_a_core_or_a_declared_error(builder: ElfCoreBuilder) -> None:
    open_or_refuse(open_elf, builder.build())


@given(st.binary(max_size=300), st.integers(0, 400))
@example(b"", 0)
@settings(max_examples=400, deadline=None)
def test_any_bytes_over_a_good_core_give_a_core_or_a_declared_error(garbage: bytes, at: int) -> None:
    whole = ElfCoreBuilder([Piece(0, note(b"CORE", 1, b"r" * 40), NOTE), Piece(0, b"d" * 200)]).build()
    open_or_refuse(open_elf, whole[:at] + garbage + whole[at + len(garbage) :])
