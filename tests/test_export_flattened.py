"""The flattened format: put together again, it is the very file that the plain export gives."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.dumpfile.dump import Contents
from dumpwriter.export.about import About
from dumpwriter.export.compression import COMPRESSIONS
from dumpwriter.export.export import Export, FixedExport
from dumpwriter.export.flattened import FlattenedExport
from dumpwriter.export.kdump import KdumpExport
from dumpwriter.export.raw import RawLayout
from dumpwriter.formats.region import PageRun
from tests.builders.kdump_reader import rearranged
from tests.dumpfiles import assemble, page_runs, pieces_of
from tests.sampledumps import NOTES, partial_contents, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def kdump(contents: Contents) -> Export:
    return KdumpExport(contents, About(), COMPRESSIONS["zlib"])


def raw(contents: Contents) -> Export:
    return FixedExport(RawLayout(contents))


@pytest.mark.parametrize("plain", [kdump, raw])
@given(st.data(), partial_contents(last_page=700))
@settings(deadline=None, max_examples=60)
def test_it_comes_back(plain: Callable[[Contents], Export], data: st.DataObject, contents: Contents) -> None:
    order = data.draw(st.permutations(contents.present))
    expected = plain(contents)
    flattened = FlattenedExport(plain(contents))
    content = assemble(flattened, pieces_of(flattened, order, read))
    assert rearranged(content) == assemble(expected, pieces_of(expected, order, read))


def test_its_pieces_follow_each_other() -> None:
    """So that they can go through a pipe."""
    contents = Contents((PageRun(0, 30),), (PageRun(0, 30),))
    export = FlattenedExport(kdump(contents))
    end = 0
    for offset, content in pieces_of(export, reversed((PageRun(0, 10), PageRun(10, 20))), read):
        assert offset == end
        end += memoryview(content).nbytes
    assert end == export.size_bytes


def test_a_hole_at_the_end_is_part_of_the_file() -> None:
    contents = Contents((PageRun(0, 3),), (PageRun(0, 3),))
    export = FlattenedExport(raw(contents))
    content = assemble(export, [*export.begin(), *export.zeros(PageRun(0, 3)), *export.finish()])
    assert rearranged(content) == bytes(3 * 4096)


def test_makedumpfile_makes_the_very_file_of_a_flattened_one(tmp_path: Path) -> None:
    """And so does whoever reads our pipe: both are what the plain export gives."""
    pages = [page for page in range(3000) if page % 7]
    contents = Contents((PageRun(0, 3000),), page_runs(pages), NOTES, is_partial=True)
    flattened, plain = FlattenedExport(kdump(contents)), kdump(contents)
    content = assemble(flattened, pieces_of(flattened, contents.present, read))
    subprocess.run(["makedumpfile", "-R", "made"], input=content, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "made").read_bytes() == assemble(plain, pieces_of(plain, contents.present, read))
