"""Recovery tells the truth: complete, partial with every missing page named, or none with the reason."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.crash import dump
from dumpwriter.crash.plan import MemoryPart
from dumpwriter.formats.region import DumpLevel, MemoryRangeRecord, MetaKind, PageRun
from dumpwriter.frames import DumpIdentity
from dumpwriter.levels import LAST_RANK
from dumpwriter.memory.source import PageClass
from dumpwriter.metadata import Metadata, encode_metadata
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.recovery.report import describe_header
from dumpwriter.recovery.scan import Findings, recover
from dumpwriter.verdict import Reason, Verdict
from tests.dumping import CAUSE, DumpBench, Pages
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError, PowerLost
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    import random


def recovered(bench: DumpBench) -> tuple[Findings, Pages]:
    """Recover, and hold the promise against it: no wrong byte, and every missing page named."""
    sink = Pages()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, sink)
    for number, content in sink.pages.items():
        assert content == bench.page(number), f"page {number} is wrong"
    assert findings.pages_present == len(sink.pages)
    missing, left_out = (
        {page for first, count in runs for page in range(first, first + count)}
        for runs in (findings.judgement.missing, findings.judgement.left_out)
    )
    memory = set(range(len(bench.memory.content) // 4096))
    wanted = {page for page in memory if bench.rank(page) <= LAST_RANK[bench.level]}
    if findings.metadata is not None:
        assert missing == wanted - set(sink.pages)
        assert left_out == memory - wanted - set(sink.pages)
    assert (findings.verdict == Verdict.COMPLETE) == (wanted <= set(sink.pages) and findings.metadata is not None)
    return findings, sink


@pytest.mark.parametrize("pieces", [1, 7, 60])
@pytest.mark.parametrize("pages", [1, 5, 64, 300, 1500])
def test_a_whole_dump_comes_back_whole(pages: int, pieces: int) -> None:
    bench = DumpBench(pages, pieces)
    progress = bench.write()
    assert progress.is_committed
    findings, _ = recovered(bench)
    assert (findings.verdict, findings.reason) == (Verdict.COMPLETE, Reason.WHOLE)
    assert findings.header is not None
    assert findings.header.cause_text.rstrip(b"\0").decode() == CAUSE.text
    assert findings.header.pages_written == findings.judgement.pages_total == pages


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ((0, b""), (None, None)),
        ((1, b""), (0, None)),
        ((2, "first standby: köt".encode()), (1, "first standby: köt")),
        ((4, b""), (None, None)),  # the hibernator is no standby
        ((1 << 31, b"\xff" * 84), (None, "\N{REPLACEMENT CHARACTER}" * 84)),
    ],
)
def test_the_report_says_who_wrote_and_why_no_other(
    written: tuple[int, bytes], told: tuple[int | None, str | None]
) -> None:
    bench = DumpBench(5)
    bench.write()
    header = recovered(bench)[0].header
    assert header is not None
    report = describe_header(header._replace(writer=written[0], takeover_text=written[1].ljust(84, b"\0")))
    assert (report["standby"], report["takeover"]) == told


@pytest.mark.parametrize("level", DumpLevel)
def test_a_dump_of_each_level_holds_it_and_names_what_it_leaves_out(level: DumpLevel) -> None:
    bench = DumpBench(700, classes=7, level=level)
    bench.write()
    findings, sink = recovered(bench)
    assert (findings.verdict, findings.reason) == (Verdict.COMPLETE, Reason.WHOLE)
    assert all(bench.rank(page) <= LAST_RANK[level] for page in sink.pages)
    held = DumpLevel.COMPLETE if level == DumpLevel.AUTOMATIC else level
    assert findings.judgement.level_held == held
    counts = {count.page_class: (count.pages_total, count.pages_present) for count in findings.judgement.classes}
    assert counts == {PageClass(number): (100, 100 * (number <= LAST_RANK[level])) for number in range(1, 8)}


@pytest.mark.parametrize(
    ("slots", "held"), [(3, None), (6, DumpLevel.SMALL), (7, DumpLevel.KERNEL), (8, DumpLevel.ACTIVE)]
)
def test_a_dump_that_is_cut_tells_which_smaller_level_it_still_holds(slots: int, held: DumpLevel | None) -> None:
    bench = DumpBench(500, region_bytes=4096 * (2 + 65 * slots), classes=7)
    bench.write()
    findings, _ = recovered(bench)
    assert (findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.REGION_TOO_SMALL)
    assert findings.judgement.level_held == held


def test_without_metadata_nothing_is_said_to_be_left_out() -> None:
    bench = DumpBench(700, pieces=1, classes=7, level=DumpLevel.SMALL)
    bench.write()
    start = bench.extents.extents[0].physical_bytes + 4096
    last = len(bench.job().plan.frames) - 1
    for slot in (0, last):
        bench.disk.content[start + slot * 65 * 4096] ^= 1
    findings, sink = recovered(bench)
    assert findings.metadata is None
    assert (findings.verdict, findings.judgement.level_held) == (Verdict.PARTIAL, None)
    assert not findings.judgement.left_out
    assert sum(run.page_count for run in findings.judgement.missing) == 700 - len(sink.pages)


def test_a_level_that_is_not_known_asks_for_everything() -> None:
    bench = DumpBench(700, classes=7, level=DumpLevel.SMALL)
    known = encode_metadata(Metadata(b"", (MemoryRangeRecord(0, 700 * 4096),), "test", DumpLevel.SMALL))
    bench.metadata = known.replace(
        struct.pack("<IIQ", MetaKind.LEVEL, 8, DumpLevel.SMALL), struct.pack("<IIQ", MetaKind.LEVEL, 8, 77)
    )
    assert bench.metadata != known
    bench.write()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert (findings.verdict, findings.judgement.left_out) == (Verdict.PARTIAL, ())


def test_an_armed_region_without_a_dump_says_so() -> None:
    findings, sink = recovered(DumpBench(100))
    assert (findings.verdict, findings.reason) == (Verdict.NONE, Reason.NO_DUMP)
    assert not sink.pages


def test_nothing_of_an_older_dump_is_taken() -> None:
    bench = DumpBench(300, seed=1)
    bench.write()
    younger = DumpIdentity(bench.identity.dump_id, bench.identity.generation + 1)
    dump.arm_region(Mapped(bench.disk, bench.extents), younger, bench.extents, 6)
    for identity in (younger, DumpIdentity(bytes(16), bench.identity.generation)):
        bench.identity = identity
        findings, _ = recovered(bench)
        assert findings.verdict == Verdict.NONE


def test_a_region_too_small_keeps_the_best_pages() -> None:
    bench = DumpBench(1000, region_bytes=4096 * (2 + 65 * 6))
    bench.write()
    findings, sink = recovered(bench)
    assert (findings.verdict, findings.reason) == (Verdict.PARTIAL, Reason.REGION_TOO_SMALL)
    assert len(sink.pages) == 4 * 64
    assert all(page % 3 == 0 for page in sink.pages)


class StopsAfter(Layer):
    """The power goes after `writes` writes; the next one gets `sectors` sectors far."""

    def __init__(self, lower: BlockDevice, writes: int, sectors: int) -> None:
        super().__init__(lower)
        self.writes, self.sectors = writes, sectors

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        content = bytes(buffer)  # type: ignore[call-overload]
        if not self.writes:
            self.lower.write_from(offset_bytes, content[: self.sectors * 512])
            raise PowerLost
        self.writes -= 1
        self.lower.write_from(offset_bytes, content)

    def write_through(self, offset_bytes: int, buffer: object) -> None:
        self.write_from(offset_bytes, buffer)


@pytest.mark.parametrize("sectors", [0, 1, 7, 8, 9, 100, 513])
def test_a_cut_at_any_write_never_gives_a_wrong_byte(sectors: int) -> None:
    writes, came_through = 0, False
    while not came_through:
        bench = DumpBench(700, pieces=3)
        try:
            bench.write(lambda disk, writes=writes: StopsAfter(disk, writes, sectors))  # type: ignore[misc]
            came_through = True
        except PowerLost:
            writes += 1
        recovered(bench)
    assert writes > 5


class BadBlocks(Layer):
    """Blocks that can neither be read nor written."""

    def __init__(self, lower: BlockDevice, bad: set[int]) -> None:
        super().__init__(lower)
        self.bad = bad

    def _check(self, offset_bytes: int, length_bytes: int) -> None:
        if self.bad & set(range(offset_bytes // 4096, -(-(offset_bytes + length_bytes) // 4096))):
            raise DeviceError(f"bad block near {offset_bytes}")

    def read_into(self, offset_bytes: int, buffer: object) -> None:
        self._check(offset_bytes, memoryview(buffer).nbytes)  # type: ignore[arg-type]
        self.lower.read_into(offset_bytes, buffer)  # type: ignore[arg-type]

    def write_from(self, offset_bytes: int, buffer: object) -> None:
        self._check(offset_bytes, memoryview(buffer).nbytes)  # type: ignore[arg-type]
        self.lower.write_from(offset_bytes, buffer)  # type: ignore[arg-type]


def test_bad_blocks_cost_their_frames_and_nothing_else() -> None:
    bench = DumpBench(1000, pieces=1, region_bytes=4096 * (2 + 65 * 17))  # no slot to spare
    first_block = bench.extents.extents[0].physical_bytes // 4096
    bad = {first_block, first_block + 1 + 65 * 3 + 30}
    progress = bench.write(lambda disk: BadBlocks(disk, bad))
    assert progress.frames_failed == 1
    sink = Pages()
    findings = recover(Mapped(BadBlocks(bench.disk, bad), bench.extents), bench.identity, sink)
    assert findings.verdict == Verdict.PARTIAL
    assert len(sink.pages) == 1000 - 64


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_random_damage_never_gives_a_wrong_byte(source: random.Random, count: int) -> None:
    bench = DumpBench(130, pieces=4, classes=7, level=source.choice(list(DumpLevel)))
    bench.write()
    for _ in range(count):
        where = source.randrange(len(bench.disk.content))
        bench.disk.content[where] ^= source.randrange(1, 256)
    recovered(bench)


def test_a_frame_in_another_slot_is_not_believed() -> None:
    bench = DumpBench(400, pieces=1)
    bench.write()
    start = bench.extents.extents[0].physical_bytes + 4096
    slot = 65 * 4096
    content = bench.disk.content
    content[start + slot : start + 2 * slot] = content[start + 2 * slot : start + 3 * slot]
    findings, sink = recovered(bench)
    assert findings.verdict == Verdict.PARTIAL
    assert len(sink.pages) == 400 - 64


def test_without_any_header_the_frames_are_enough() -> None:
    bench = DumpBench(300, pieces=6)
    bench.write()
    for offset in dump.header_offsets_bytes(bench.extents.size_bytes):
        (place,) = bench.extents.runs(offset, 4096)
        bench.disk.content[place.physical_bytes : place.physical_bytes + 4096] = bytes(4096)
    findings, _ = recovered(bench)
    assert findings.verdict == Verdict.COMPLETE
    assert findings.header is None


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=40), st.integers(1, 70))
def test_a_page_set_is_a_set(runs: list[tuple[int, int]], expected: int) -> None:
    pages: set[int] = set()
    subject = PageSet()
    for first, count in runs:
        new = set(range(first, first + count))
        assert subject.add(PageRun(first, count)) == (not new & pages)
        if not new & pages:
            pages |= new
    found = subject.runs()
    assert {page for first, count in found for page in range(first, first + count)} == pages
    assert all(a.first_page + a.page_count < b.first_page for a, b in itertools.pairwise(found))
    missing = list(subject.missing_from([PageRun(0, expected)]))
    assert {page for first, count in missing for page in range(first, first + count)} == set(range(expected)) - pages


def test_a_read_that_failed_is_told_from_what_is_not_there() -> None:
    bench = DumpBench(700, pieces=1)
    bench.write()
    bad = {bench.extents.extents[0].physical_bytes // 4096 + 1 + 65 * 2 + 30}
    findings = recover(Mapped(BadBlocks(bench.disk, bad), bench.extents), bench.identity, Pages())
    assert (findings.verdict, findings.reads_failed) == (Verdict.PARTIAL, 1)
    everywhere = set(range(bench.disk.size_bytes // 4096))
    findings = recover(Mapped(BadBlocks(bench.disk, everywhere), bench.extents), bench.identity, Pages())
    assert findings.verdict == Verdict.NONE
    assert findings.reads_failed > 5


def test_pages_outside_of_memory_do_not_make_a_dump_whole() -> None:
    bench = DumpBench(200)
    bench.parts = [part for part in bench.parts if part.run.first_page < 190]
    bench.parts += [MemoryPart(1, PageRun(1 << 30, 10), is_zero=True)]
    bench.write()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert findings.verdict == Verdict.PARTIAL
    assert findings.judgement.missing == (PageRun(190, 10),)


@pytest.mark.parametrize("run", [PageRun((1 << 40) - 1, 2), PageRun(1 << 52, 1), PageRun(0, 1 << 63)])
def test_pages_that_no_machine_has_are_not_believed(run: PageRun) -> None:
    bench = DumpBench(100)
    bench.parts += [MemoryPart(1, run, is_zero=True)]
    bench.write()
    findings = recover(Mapped(bench.disk, bench.extents), bench.identity, Pages())
    assert all(present.first_page + present.page_count <= 1 << 40 for present in findings.present)
