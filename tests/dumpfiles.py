"""Writes dump files for tests by the product's own exports, as recovery and conversion do but without a disk."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from dumpwriter.formats.region import PageRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from dumpwriter.export.export import Export, Piece

PAGE = 4096
CHUNK_PAGES = 256


def pieces_of(
    export: Export, runs: Iterable[PageRun], read: Callable[[int, int], bytes], *, chunk_pages: int = CHUNK_PAGES
) -> Iterable[Piece]:
    """All of an export whose pages come in the order of the runs, from `read(physical address, length)`."""
    yield from export.begin()
    for first_page, page_count in runs:
        for page in range(first_page, first_page + page_count, chunk_pages):
            count = min(chunk_pages, first_page + page_count - page)
            content = memoryview(read(page * PAGE, count * PAGE))
            yield from export.data(export.prepare(page, content))
    yield from export.finish()


def assemble(export: Export, pieces: Iterable[Piece]) -> bytes:
    """The file that the pieces make."""
    content = bytearray()
    covered: list[tuple[int, int]] = []
    for offset, part in pieces:
        view = memoryview(part).cast("B")
        covered.append((offset, offset + view.nbytes))
        content.extend(bytes(max(0, offset + view.nbytes - len(content))))
        content[offset : offset + view.nbytes] = view
    content.extend(bytes(max(0, export.size_bytes - len(content))))
    covered.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(covered)), "pieces overlap"
    assert len(content) == export.size_bytes
    return bytes(content)


def write_pieces(path: Path, export: Export, pieces: Iterable[Piece]) -> Path:
    """Write a file as conversion does: holes stay holes."""
    with path.open("wb") as file:
        for offset, part in pieces:
            file.seek(offset)
            file.write(part)
        file.truncate(export.size_bytes)
    return path


def page_runs(pages: Iterable[int]) -> tuple[PageRun, ...]:
    """The ascending runs of a set of pages."""
    runs: list[PageRun] = []
    for page in sorted(pages):
        if runs and sum(runs[-1]) == page:
            runs[-1] = PageRun(runs[-1].first_page, runs[-1].page_count + 1)
        else:
            runs.append(PageRun(page, 1))
    return tuple(runs)


def single_pages(pages: Sequence[int]) -> list[PageRun]:
    """Each page a run of its own, in the order given."""
    return [PageRun(page, 1) for page in pages]
