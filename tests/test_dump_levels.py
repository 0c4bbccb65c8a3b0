"""Levels: what each holds, what it leaves out, and that the region sized for it is large enough."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.crash.plan import SECONDARY_FRAMES_MAX, MemoryPart, plan_dump, region_size_bytes
from dumpwriter.crash.protection import DEFAULT_PARITY_PERCENT
from dumpwriter.formats.region import DumpLevel, FrameKind, PageRun
from dumpwriter.levels import BY_SIZE, NAMES, parse_level, wanted_runs
from dumpwriter.machine import policy
from dumpwriter.memory.kernel import KernelMap
from vdisk.bootarea import new_record
from vdisk.errors import ArmingError, UsageError

LAST_CLASS = {DumpLevel.SMALL: 3, DumpLevel.KERNEL: 4, DumpLevel.ACTIVE: 5}

a_level = st.sampled_from(list(DumpLevel))
stretches = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=30)
class_stretches = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=30)


def runs_of(lengths: list[tuple[bool, int]]) -> list[PageRun]:
    found, page = [], 0
    for is_there, count in lengths:
        found += [PageRun(page, count)] if is_there else []
        page += count
    return found


def rows_of(lengths: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Rows of (class, first page, count); class 0 stands for pages that no class names."""
    found, page = [], 0
    for page_class, count in lengths:
        found += [(page_class, page, count)] if page_class else []
        page += count
    return found


def pages_of(runs: list[PageRun]) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


@given(a_level, class_stretches, stretches)
def test_a_level_wants_the_pages_of_its_classes_that_memory_has(
    level: DumpLevel, classes: list[tuple[int, int]], memory: list[tuple[bool, int]]
) -> None:
    rows, there = rows_of(classes), runs_of(memory)
    wanted = wanted_runs(level, rows, there)
    named = {page for number, first, count in rows for page in range(first, first + count) if number <= 7}
    valuable = {
        page
        for number, first, count in rows
        for page in range(first, first + count)
        if number <= LAST_CLASS.get(level, 8)
    }
    asks_for_all = level in (DumpLevel.COMPLETE, DumpLevel.AUTOMATIC)
    assert pages_of(wanted) == (pages_of(there) if asks_for_all else pages_of(there) & valuable & named)
    assert wanted == sorted(wanted)


@given(class_stretches)
def test_a_level_holds_all_that_a_smaller_one_does(classes: list[tuple[int, int]]) -> None:
    memory = [PageRun(0, 300)]
    held = [pages_of(wanted_runs(level, rows_of(classes), memory)) for level in BY_SIZE]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(held))


@given(a_level, st.lists(st.tuples(st.integers(1, 7), st.integers(1, 200), st.booleans()), min_size=1, max_size=60))
def test_a_region_of_the_estimated_size_holds_the_level(level: DumpLevel, lengths: list[tuple[int, int, bool]]) -> None:
    parts, rows, page = [], [], 0
    for rank, count, is_zero in lengths:
        parts.append(MemoryPart(rank, PageRun(page, count), is_zero))
        rows.append((rank, page, count))
        page += count
    wanted = pages_of(wanted_runs(level, rows, [PageRun(0, page)]))
    plan = plan_dump(parts, region_size_bytes(len(wanted) * 4096), level, SECONDARY_FRAMES_MAX)
    planned = [number for frame in plan.frames for first, count in frame.runs for number in range(first, first + count)]
    assert sorted(planned) == sorted(wanted)
    assert (plan.pages_wanted, plan.pages_planned, plan.pages_total) == (len(wanted), len(wanted), page)
    kinds = [frame.kind for frame in plan.frames]
    secondary = [FrameKind.SECONDARY] * SECONDARY_FRAMES_MAX
    assert (kinds[0], kinds[1 : 1 + len(secondary)], kinds[-1]) == (FrameKind.META, secondary, FrameKind.META)


@pytest.mark.parametrize("size_mib", [16, 20, 64, 1024, 8192])
def test_the_estimate_counts_what_the_simulated_memory_is_made_of(size_mib: int) -> None:
    found = policy.simulated_estimates(size_mib << 20, DEFAULT_PARITY_PERCENT)
    counts = dict.fromkeys(range(1, 8), 0)
    for page_class, _, page_count in KernelMap(size_mib << 20).class_runs():
        counts[page_class] += page_count
    for level, last in LAST_CLASS.items():
        assert found[level].pages == sum(counts[number] for number in range(1, last + 1))
    assert found[DumpLevel.COMPLETE].pages == found[DumpLevel.AUTOMATIC].pages == size_mib << 8
    sizes = [found[level].region_bytes for level in BY_SIZE]
    assert sizes == sorted(set(sizes))


def test_the_largest_level_that_fits() -> None:
    found = policy.simulated_estimates(64 << 20, DEFAULT_PARITY_PERCENT)
    for level in BY_SIZE:
        assert policy.largest_that_fits(found, found[level].region_bytes) == level
        assert policy.largest_that_fits(found, found[level].region_bytes - 1) != level
    assert policy.largest_that_fits(found, 0) is None


def test_a_level_has_a_name_and_no_other() -> None:
    assert [parse_level(name) for name in NAMES] == [*BY_SIZE, DumpLevel.AUTOMATIC]
    for other in ("", "Kernel", "full", "kernel "):
        with pytest.raises(UsageError, match="is no level: give small, kernel, active, complete or automatic"):
            parse_level(other)


def test_the_level_of_the_run_goes_before_that_of_the_disk() -> None:
    record = new_record(bytes(16), 64 << 20, 16 << 20)._replace(dump_level=DumpLevel.KERNEL)
    assert policy.level_asked_for(None, record) == DumpLevel.KERNEL
    assert policy.level_asked_for(DumpLevel.AUTOMATIC, record) == DumpLevel.AUTOMATIC
    with pytest.raises(ArmingError, match="level 9, which there is not"):
        policy.level_asked_for(None, record._replace(dump_level=9))
