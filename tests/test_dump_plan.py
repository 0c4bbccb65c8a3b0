"""The plan: every page once, the best first, whatever fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.crash.plan import PAGE_FRAMES_MIN, MemoryPart, memory_parts, plan_dump, region_size_bytes
from dumpwriter.formats.region import ClassRunRecord, FrameKind, PageRun
from dumpwriter.frames import page_count, slot_count
from dumpwriter.memory.physical import MemoryRun
from vdisk.bootarea import SMALL_DUMP_SIZE_BYTES


def parts_of(lengths: list[tuple[int, int, bool]]) -> list[MemoryPart]:
    parts, page = [], 0
    for rank, count, is_zero in lengths:
        parts.append(MemoryPart(rank, PageRun(page, count), is_zero))
        page += count
    return parts


memories = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 200), st.booleans()), min_size=1, max_size=60)


@given(memories)
def test_every_page_is_planned_exactly_once_in_a_region_sized_for_it(lengths: list[tuple[int, int, bool]]) -> None:
    parts = parts_of(lengths)
    total = sum(part.run.page_count for part in parts)
    plan = plan_dump(parts, region_size_bytes(total * 4096))
    pages = [page for frame in plan.frames for run in frame.runs for page in range(run[0], run[0] + run[1])]
    assert sorted(pages) == list(range(total))
    assert (plan.pages_total, plan.pages_planned) == (total, total)


def test_alternating_pages_fit_a_region_sized_for_them() -> None:
    total = 20_000
    parts = parts_of([(4, 1, bool(page % 2)) for page in range(total)])
    assert plan_dump(parts, region_size_bytes(total * 4096)).pages_planned == total


@given(memories, st.integers(0, 30))
def test_a_small_region_keeps_the_best(lengths: list[tuple[int, int, bool]], slots: int) -> None:
    parts = parts_of(lengths)
    region = 2 * 4096 + slots * 65 * 4096
    plan = plan_dump(parts, region)
    assert len(plan.frames) <= slot_count(region) == slots
    if slots < 2:
        assert plan.frames == ()
        return
    assert plan.frames[0].kind == plan.frames[-1].kind == FrameKind.META
    rank = {page: part.rank for part in parts for page in range(part.run[0], part.run[0] + part.run[1])}
    data = {page for part in parts if not part.is_zero for page in range(part.run[0], part.run[0] + part.run[1])}
    kept = [p for f in plan.frames if f.kind == FrameKind.PAGES for r in f.runs for p in range(r[0], r[0] + r[1])]
    assert [rank[page] for page in kept] == sorted(rank[page] for page in data)[: len(kept)]
    zeros = [p for f in plan.frames if f.kind == FrameKind.ZEROS for r in f.runs for p in range(r[0], r[0] + r[1])]
    assert [rank[page] for page in zeros] == sorted(rank[page] for page in rank.keys() - data)[: len(zeros)]
    best = [rank[frame.runs[0].first_page] for frame in plan.frames if frame.runs]
    assert best == sorted(best)


def test_frames_lie_in_their_slots_and_hold_what_their_kind_may() -> None:
    plan = plan_dump(parts_of([(3, 1000, False), (1, 50, False), (7, 9999, True)]), 1 << 30)
    for number, frame in enumerate(plan.frames):
        assert frame.sequence == number
        assert frame.region_offset_bytes == 4096 + number * 65 * 4096
        if frame.kind == FrameKind.PAGES:
            assert 1 <= page_count(frame.runs) <= 64
    assert [f.sequence for request in plan.requests() for f in request] == list(range(len(plan.frames)))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=20), memories)
def test_memory_is_cut_by_worth_and_by_holes(
    spans: list[tuple[bool, int]], classes: list[tuple[int, int, bool]]
) -> None:
    worth: dict[int, int] = {}
    holes: dict[int, bool] = {}
    rows, page = [], 0
    for page_class, count, is_named in classes:
        if is_named:
            rows.append(ClassRunRecord(page_class, page, count))
            worth.update(dict.fromkeys(range(page, page + count), page_class))
        page += count
    runs, page = [], 3
    for is_hole, count in spans:
        runs.append(MemoryRun(page * 4096, count * 4096, is_hole))
        holes.update(dict.fromkeys(range(page, page + count), is_hole))
        page += count + int(is_hole)
    found = {
        number: (rank, is_zero)
        for rank, (first, count), is_zero in memory_parts(rows, runs)
        for number in range(first, first + count)
    }
    assert found == {number: (worth.get(number, 255), is_hole) for number, is_hole in holes.items()}


def test_secondary_data_leaves_a_small_dump_room_for_the_log() -> None:
    parts = [MemoryPart(1, PageRun(0, 1000), is_zero=False)]
    plan = plan_dump(parts, SMALL_DUMP_SIZE_BYTES, secondary_frames=100)
    assert [frame.kind for frame in plan.frames].count(FrameKind.PAGES) == PAGE_FRAMES_MIN
