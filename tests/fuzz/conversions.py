"""Edited dumps on their way into every other format: what comes out has the pages that went in."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from dumpwriter.conversion.conversion import Wish, convert
from dumpwriter.conversion.formats import FORMATS
from dumpwriter.dumpfile.file import File, Span
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.dumpfile.raw import open_raw
from tests.dumpreading import BytesFile, must_be_one_line, must_be_sound, read_or_refuse
from tests.fuzz import seeds
from tests.fuzz.edits import edited
from vdisk.errors import ConversionError, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dumpwriter.dumpfile.dump import Dump
    from dumpwriter.export.export import Piece
    from tests.fuzz.seeds import Seed

WISHES = (
    *(Wish(name, fill=not target.tells_missing) for name, target in FORMATS.items()),
    *(Wish("kdump", compression) for compression in ("lzo", "zstd", "none")),
    Wish("raw"),
)
TELL_PARTIAL = ("elf", "kdump", "kdump-flattened", "windows", "windows-bitmap")
RUNS_COMPARED = 20
PAGES_COMPARED = 8
WRITTEN_BYTES_MAXIMUM = 16 << 20


@cache
def all_seeds() -> tuple[Seed, ...]:
    return tuple(chain(seeds.elf(), seeds.kdump(), seeds.pagedump(), seeds.lime(), seeds.flat()))


class WrittenFile(File):
    """An output, and then the file that was written. What no piece covers is a hole, however large."""

    def __init__(self) -> None:
        super().__init__(0)
        self._room_bytes = WRITTEN_BYTES_MAXIMUM
        self._pieces: list[tuple[int, bytes]] = []

    def begin(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self.write(piece)

    def write(self, piece: Piece) -> None:
        self._pieces.append((piece.offset_bytes, bytes(piece.content)))
        self._room_bytes -= len(self._pieces[-1][1])
        if self._room_bytes < 0:
            raise ConversionError("the bitmap of a large memory takes more room than there is")

    def finish(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._pieces = sorted(piece for piece in self._pieces if piece[1])

    def _within(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        index = max(bisect_right(self._pieces, start, key=lambda piece: piece[0]) - 1, 0)
        while index < len(self._pieces) and self._pieces[index][0] < end:
            at, content = self._pieces[index]
            part = content[max(start - at, 0) : end - at]
            if part:
                yield max(at, start), part
            index += 1

    def _fill(self, offset_bytes: int, buffer: memoryview) -> None:
        buffer[:] = bytes(buffer.nbytes)
        for at, part in self._within(offset_bytes, offset_bytes + buffer.nbytes):
            buffer[at - offset_bytes : at - offset_bytes + len(part)] = part

    def data_spans(self, offset_bytes: int, length_bytes: int) -> Iterator[Span]:
        for at, part in self._within(offset_bytes, offset_bytes + length_bytes):
            yield Span(at, len(part))


def converted_dump(program: bytes) -> None:
    """The first byte chooses what is wished for, the rest makes the dump."""
    wish = WISHES[program[0] % len(WISHES)] if program else WISHES[0]
    written = WrittenFile()
    try:
        dump = open_dump(BytesFile(edited(all_seeds(), program[1:])))
        convert(dump, wish, written, lambda done, total: None)
    except (FormatError, ConversionError, UsageError) as error:
        must_be_one_line(error)
        return
    copy = open_raw(written) if wish.format == "raw" else open_dump(written)
    must_be_sound(copy)
    must_hold_the_same(dump, copy, wish)


def must_hold_the_same(dump: Dump, copy: Dump, wish: Wish) -> None:
    if wish.target.tells_missing:
        assert copy.contents.present == dump.contents.present
    if wish.format in TELL_PARTIAL:
        assert copy.contents.is_partial == dump.contents.is_partial
    for run in list(dump.contents.present[:RUNS_COMPARED]):
        count = min(run.page_count, PAGES_COMPARED)
        assert read_or_refuse(copy, run.first_page, count) == read_or_refuse(dump, run.first_page, count)
