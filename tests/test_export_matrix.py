"""Each format by each reader: the README's table is what comes out, cell by cell."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dumpwriter.conversion.exports import MAKERS
from dumpwriter.conversion.formats import COMPRESSION_NAMES, FORMATS
from dumpwriter.dumpfile.dump import Contents
from dumpwriter.export.about import About, VirtualRange
from dumpwriter.formats.region import PageRun
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.dumpfiles import PAGE, page_runs, pieces_of, write_pieces
from tests.dumpreaders import READERS, Sample, UnreadError
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
MEMORY_BYTES = 20 * MIB  # leechcore opens no file below 16 MiB
PAGES = MEMORY_BYTES // PAGE
MISSING = {"whole": frozenset[int](), "partial": frozenset({0x203, 0x500, 0x501})}
TEXT_MAP = VirtualRange(kernel.TEXT, 2 * MIB, kernel.text_address(kernel.TEXT))
DIRECT_MAP = (
    VirtualRange(0, kernel.TEXT, kernel.direct_address(0)),
    VirtualRange(4 * MIB, MEMORY_BYTES - 4 * MIB, kernel.direct_address(4 * MIB)),
)
NOT_READ = "-"

# Each row of the README's table, with the format and the compression that stand for it.
ROWS = {
    (f"`{name}`, {compression}" if FORMATS[name].is_compressed else f"`{name}`"): (name, compression)
    for name in FORMATS
    for compression in (COMPRESSION_NAMES if name == "kdump" else COMPRESSION_NAMES[:1])
}
DUMPS = [(row, kind) for row in ROWS for kind in MISSING]


class Machine(NamedTuple):
    """A memory that crashed, and what is known of it."""

    memory: bytes
    notes: bytes
    about: About


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with closing(SimulatedMemory(MEMORY_BYTES)) as source:
        source.bugcheck(0xD1, (1, 2, 3, 4), "read by everyone")
        notes = source.memory.read_notes()
        known = About.of_notes(notes)._replace(page_table_root=kernel.TOP_TABLE)
        ranges = tuple(sorted((TEXT_MAP, *DIRECT_MAP)))
        yield Machine(source.memory.read(0, MEMORY_BYTES), notes, known._replace(virtual_ranges=ranges))


def virtual(physical_bytes: int) -> int:
    """Where gdb looks for it."""
    in_text = 0 <= physical_bytes - TEXT_MAP.physical_bytes < TEXT_MAP.length_bytes
    return kernel.text_address(physical_bytes) if in_text else kernel.direct_address(physical_bytes)


@pytest.fixture(scope="module")
def dump(
    request: pytest.FixtureRequest, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sample]:
    """In the format of the row, whole or partial."""
    row, kind = request.param
    name, compression = ROWS[row]
    directory = tmp_path_factory.mktemp("dump")
    present = page_runs(set(range(PAGES)) - MISSING[kind])
    contents = Contents((PageRun(0, PAGES),), present, machine.notes, is_partial=bool(MISSING[kind]))
    export = MAKERS[name](contents, machine.about, compression)
    pieces = pieces_of(export, present, lambda at, length: machine.memory[at : at + length])
    path = write_pieces(directory / FORMATS[name].file, export, pieces)
    yield Sample(path, directory, machine.memory, MISSING[kind], "read by everyone", virtual)
    path.unlink()


@cache
def table() -> dict[str, dict[str, str]]:
    """The README's cells by row and reader."""
    text = (REPOSITORY / "README.md").read_text().split("<!-- readers -->\n")[1].split("<!-- end of readers -->")[0]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_the_table_has_every_format_and_every_reader() -> None:
    assert list(table()) == list(ROWS)
    assert all(list(cells) == list(READERS) for cells in table().values())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dump", DUMPS, indirect=True, ids=[f"{'-'.join(ROWS[row])}-{kind}" for row, kind in DUMPS])
def test_a_reader_makes_of_a_dump_what_the_table_says(
    dump: Sample, reader: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of a whole dump, nothing can read as zeros."""
    try:
        outcome = READERS[reader](replace(dump, directory=tmp_path))
    except UnreadError:
        outcome = NOT_READ
    row, kind = request.node.callspec.params["dump"]
    told = table()[row][reader]
    assert outcome == ("yes" if (told, kind) == ("zeros", "whole") else told)
