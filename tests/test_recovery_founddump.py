"""A dump in its region, read here and there: every page as it was, and never one that changed since it was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.formats.region import FIRST_SLOT_OFFSET_BYTES, SLOT_SIZE_BYTES
from dumpwriter.frames import slot_offset_bytes
from dumpwriter.recovery.copies import contents_of
from dumpwriter.recovery.extraction import RegionSource
from dumpwriter.recovery.founddump import FoundDump, FrameIndex
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.unsealing import WithPrivateKey
from tests.dumping import DumpBench, Pages
from tests.sealed import PRIVATE_KEYS, sealed_bench
from vdisk.blockdevice import Layer
from vdisk.errors import DeviceError, RecoveryError
from vdisk.extent import Run
from vdisk.layers.mapped import Mapped
from vdisk.layers.passing_errors import PassingErrors

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dumpwriter.recovery.opening import Opener
    from vdisk.blockdevice import BlockDevice

PAGE = 4096
PAGES = 300


def found(bench: DumpBench, opener: Opener) -> tuple[FoundDump, dict[int, bytes]]:
    source, index, pages = RegionSource(Mapped(bench.disk, bench.extents), bench.identity), FrameIndex(opener), Pages()
    findings = source.read(pages, lambda *_: None, index)
    return FoundDump(source.disk, source.identity, index, contents_of(findings)), pages.pages


def read(dump: FoundDump, first_page: int, page_count: int = 1) -> bytes:
    content = bytearray(page_count * PAGE)
    dump.read_into(first_page, memoryview(content))
    return bytes(content)


@pytest.fixture(scope="module")
def whole() -> DumpBench:
    bench = DumpBench(PAGES, pieces=5)
    bench.write()
    return bench


@settings(max_examples=50)
@given(st.integers(0, PAGES - 1), st.integers(1, 80))
def test_pages_are_read_anywhere(whole: DumpBench, first_page: int, page_count: int) -> None:
    dump, pages = found(whole, WithoutKey())
    page_count = min(page_count, PAGES - first_page)
    assert read(dump, first_page, page_count) == b"".join(pages[first_page + at] for at in range(page_count))


def test_every_page_is_told_once_and_zeros_are_zeros(whole: DumpBench) -> None:
    dump, pages = found(whole, WithoutKey())
    told = [
        (page, run.is_zero) for run in dump.runs() for page in range(run.first_page, run.first_page + run.page_count)
    ]
    assert told == sorted(told)
    assert [page for page, _ in told] == sorted(pages) == list(range(PAGES))
    assert all(not any(pages[page]) for page, is_zero in told if is_zero)
    with pytest.raises(ValueError, match="not in the dump"):
        read(dump, PAGES)


class FailsThoughItCame(Layer):
    """Says of each write that touches a run that it failed, and has done it."""

    def __init__(self, lower: BlockDevice, run: Run) -> None:
        super().__init__(lower)
        self._run = run

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        self.lower.write_from(offset_bytes, buffer)
        if Run(offset_bytes, memoryview(buffer).nbytes).meets(self._run):
            raise DeviceError("no answer")


def test_pages_that_are_in_two_frames_are_told_once() -> None:
    """A frame whose write failed, and came all the same, lies in its own slot and in a spare one."""
    bench = DumpBench(PAGES, pieces=5)
    (place, *_) = bench.extents.runs(slot_offset_bytes(2), PAGE)
    progress = bench.write(lambda disk: FailsThoughItCame(disk, place))
    assert progress.frames_moved == 1
    dump, pages = found(bench, WithoutKey())
    told = [page for run in dump.runs() for page in range(run.first_page, run.first_page + run.page_count)]
    assert told == sorted(pages) == list(range(PAGES))
    assert all(read(dump, page) == pages[page] for page in told)


def test_a_read_that_fails_once_is_tried_again() -> None:
    bench = DumpBench(PAGES, pieces=5)
    bench.write()
    dump, pages = found(bench, WithoutKey())
    everything = list(bench.extents.runs(0, bench.extents.size_bytes))
    dump._disk = PassingErrors(bench.disk, everything)
    assert all(read(dump, page) == pages[page] for page in range(PAGES))


def test_a_sealed_dump_is_opened_frame_by_frame() -> None:
    bench = sealed_bench("X25519", PAGES)
    dump, pages = found(bench, WithPrivateKey(PRIVATE_KEYS["X25519"]))
    assert all(read(dump, page) == pages[page] for page in range(PAGES))


def test_a_frame_that_changes_after_it_was_found_gives_no_page() -> None:
    bench = DumpBench(PAGES, pieces=5)
    bench.write()
    dump, pages = found(bench, WithoutKey())
    for place in bench.extents.runs(FIRST_SLOT_OFFSET_BYTES + 2 * SLOT_SIZE_BYTES, SLOT_SIZE_BYTES):
        bench.disk.content[place.physical_bytes + 5] ^= 1
    lost = 0
    for page in range(PAGES):
        try:
            assert read(dump, page) == pages[page]
        except RecoveryError:
            lost += 1
    assert 0 < lost < PAGES
