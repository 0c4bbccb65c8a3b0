"""Faults of the disk, one to three at once: what becomes of a dump, and that recovery gives just what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dumpwriter.formats.region import FrameKind
from dumpwriter.lab import faults as fault_table
from dumpwriter.lab.campaign import Counts, run_cases
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState
from dumpwriter.lab.fates import fates_of
from dumpwriter.lab.faults import DRAWERS, FAULTS_MAX, Fault, FaultKind, draw_faults
from dumpwriter.lab.judging import Expectation, Recovery
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.remembering import RememberingRecovery
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.tally import DIGEST_SIZE_BYTES
from dumpwriter.lab.telling import TOLD
from dumpwriter.lab.world import World, build_world, recording_of
from dumpwriter.recovery import slots
from dumpwriter.verdict import Verdict
from tests.second_reader import SecondReader

if TYPE_CHECKING:
    from vdisk.extent import Run

SECTOR = 512


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SCENARIOS["zeros"])


@pytest.fixture(scope="module")
def passages(world: World) -> Passages:
    return Passages(recording_of(world))


def content_of(state: DiskState) -> bytes:
    return DiskState(state.base, state.patches).read(0, state.size_bytes)


def drawn(world: World, kind: FaultKind, count: int) -> list[Fault]:
    draw, _ = DRAWERS[kind]
    return [draw(Chance(CaseKey("drawn", 0, case)), recording_of(world)) for case in range(count)]


def verdict_of(world: World, *faults: Fault) -> Verdict:
    """Of recovery, where both readers find what the disk holds."""
    state = Passages(recording_of(world)).state_after(faults)
    expected = Expectation(world).of(state)
    for reader in (Recovery(world), SecondReader(world)):
        found = reader.read(state)
        assert found.is_as(expected), (reader.name, faults, expected, found)
    return expected.verdict


def places(world: World, *kinds: FrameKind) -> list[int]:
    """Where frames of these kinds begin on the disk."""
    return [frame.runs[0].physical_bytes for frame in world.frames if frame.plan.kind in kinds]


def test_the_table_says_of_every_fault_what_must_come_out() -> None:
    assert set(DRAWERS) == set(FaultKind)
    assert fault_table.__doc__ is not None
    first_words = [row.split()[0] for row in fault_table.__doc__.splitlines() if row.startswith("    ")]
    assert [word for word in first_words if word.isupper()] == [*FaultKind.__members__]


HARMLESS = [
    FaultKind.LYING_FLUSH,
    FaultKind.LATE_WRITE,
    FaultKind.FAILED,
    FaultKind.SHORT_WRITE,
    FaultKind.FAILED_FLUSHES,
    FaultKind.PASSING_ERROR,
]


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_costs_nothing_alone(world: World, kind: FaultKind) -> None:
    assert {verdict_of(world, fault) for fault in drawn(world, kind, 40)} == {Verdict.COMPLETE}


DAMAGE = [
    Fault(FaultKind.BAD_SECTORS, length_bytes=SECTOR),
    Fault(FaultKind.UNREADABLE, length_bytes=SECTOR),
    Fault(FaultKind.STALE_SECTORS, length_bytes=SECTOR),
    Fault(FaultKind.OVERWRITTEN, length_bytes=SECTOR),
    Fault(FaultKind.BIT_ROT, bits=77),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda fault: fault.kind)
def test_damage_costs_the_frame_that_it_is_in(world: World, damage: Fault) -> None:
    first, last = places(world, FrameKind.META)
    data, zeros = places(world, FrameKind.PAGES) + places(world, FrameKind.ZEROS)
    headers = [world.extents.extents[0].physical_bytes, world.extents.end_on_disk_bytes()]
    assert verdict_of(world) == Verdict.COMPLETE
    for harmless in (headers[0], first, last):
        assert verdict_of(world, damage._replace(place_bytes=harmless)) == Verdict.COMPLETE
    both_metadata = [damage._replace(place_bytes=place) for place in (first, last)]
    both_pages = [damage._replace(place_bytes=place) for place in (data, zeros)]
    assert verdict_of(world, both_pages[0]) == verdict_of(world, both_pages[1]) == Verdict.PARTIAL
    assert verdict_of(world, *both_metadata) == Verdict.PARTIAL
    assert verdict_of(world, *both_pages) == Verdict.NONE


def test_what_was_flushed_is_safe_from_a_cut_unless_the_flush_lied(world: World) -> None:
    flushes = [number for number, event in enumerate(world.trace) if event.kind == "flush"]
    committed = flushes[2]  # behind the two headers and the frames
    lost = Fault(FaultKind.POWER_CUT, committed + 1)
    assert verdict_of(world, lost) == Verdict.COMPLETE
    assert verdict_of(world, lost._replace(operation=committed)) == Verdict.NONE
    assert verdict_of(world, Fault(FaultKind.LYING_FLUSH, committed), lost) == Verdict.NONE
    kept = lost._replace(bits=(1 << len(world.trace)) - 1)
    assert verdict_of(world, Fault(FaultKind.LYING_FLUSH, committed), kept) == Verdict.COMPLETE


@pytest.mark.parametrize("told", [Fault(FaultKind.FAILED), Fault(FaultKind.SHORT_WRITE, length_bytes=SECTOR)])
def test_a_write_that_fails_is_tried_again_frame_by_frame(world: World, passages: Passages, told: Fault) -> None:
    written = next(number for number, event in enumerate(world.trace) if event.length_bytes > 4096)
    trace = passages.trace_under([told._replace(operation=written)])
    frames = {(run.physical_bytes, run.length_bytes) for frame in world.frames for run in frame.runs}
    alone = {(event.offset_bytes, event.length_bytes) for event in trace}
    assert frames <= alone
    assert not frames <= {(event.offset_bytes, event.length_bytes) for event in world.trace}
    assert not told.length_bytes or trace[written].length_bytes == told.length_bytes


def test_flushes_that_fail_leave_the_dump_to_the_cut(world: World, passages: Passages) -> None:
    """Nothing says WRITTEN behind a flush that failed, and the frames are lost with the power."""
    failing = Fault(FaultKind.FAILED_FLUSHES)
    trace = passages.trace_under([failing])
    assert {event.kind for event in trace} == {"write"}
    headers = [header.physical_bytes for header in world.headers]
    assert sum(event.offset_bytes in headers for event in trace) == len(headers)
    assert verdict_of(world, failing, Fault(FaultKind.POWER_CUT, len(trace))) == Verdict.NONE


def test_a_disk_that_is_gone_leaves_what_it_took_before(world: World, passages: Passages) -> None:
    for operation in range(len(world.trace)):
        gone = Fault(FaultKind.GONE, operation)
        assert passages.trace_under([gone]) == world.trace[:operation]
    assert verdict_of(world, Fault(FaultKind.GONE, len(world.trace) - 1)) == Verdict.COMPLETE
    assert verdict_of(world, Fault(FaultKind.GONE)) == Verdict.NONE


def test_a_reset_forgets_what_no_flush_has_covered(world: World) -> None:
    """It comes before the flush of the frames, and before a frame that is then tried again."""
    committed = [number for number, event in enumerate(world.trace) if event.kind == "flush"][2]
    forgetful = Fault(FaultKind.RESET, committed)
    assert verdict_of(world, forgetful) == Verdict.NONE
    assert verdict_of(world, forgetful._replace(bits=(1 << len(world.trace)) - 1)) == Verdict.COMPLETE
    assert verdict_of(world, forgetful._replace(operation=committed + 1)) == Verdict.COMPLETE


def test_a_request_that_hangs_costs_what_it_carries_and_the_end_of_the_dump() -> None:
    """The thread is lost with its request; the second request is another thread's, and nobody ends the dump."""
    world = build_world(SCENARIOS["requests"])
    passages = Passages(recording_of(world))
    frames = [number for number, event in enumerate(world.trace) if event.length_bytes > 4096]
    hung = Fault(FaultKind.HANGING, frames[0], length_bytes=SECTOR)
    trace = passages.trace_under([hung])
    assert trace[frames[0]].length_bytes == SECTOR
    assert len(trace) > frames[0] + 1
    assert {event.kind for event in trace[frames[0] :]} == {"write"}
    assert verdict_of(world, hung) == Verdict.PARTIAL
    assert verdict_of(world, hung._replace(operation=0)) == Verdict.NONE
    assert verdict_of(world, hung._replace(operation=len(world.trace) - 1)) == Verdict.COMPLETE


def test_a_write_that_comes_late_is_lost_at_a_cut_in_spite_of_the_flush(world: World, passages: Passages) -> None:
    pages = places(world, FrameKind.PAGES)[0]
    first = next(number for number, (_, place, length, _) in enumerate(world.trace) if 0 <= pages - place < length)
    end = len(world.trace)
    late = Fault(FaultKind.LATE_WRITE, first, bits=end - first)
    assert verdict_of(world, late) == Verdict.COMPLETE
    assert verdict_of(world, late, Fault(FaultKind.POWER_CUT, end)) == Verdict.PARTIAL
    *_, last = fates_of(passages.trace_under([late]), [late])
    assert (last.number, last.in_words) == (first, "came late")


def test_a_frame_is_not_believed_where_its_extent_was_moved_to(world: World) -> None:
    """It is whole there, among somebody else's blocks."""
    extents = recording_of(world).extents
    (pages,) = (frame for frame in world.frames if frame.plan.kind == FrameKind.PAGES)
    touched = [number for number, extent in enumerate(extents) if any(meet(extent, run) for run in pages.runs)]
    behind = extents[0].physical_bytes + extents[0].length_bytes  # the last on the disk
    for number in touched:
        length_bytes = min(extents[number].length_bytes, len(world.before) - behind)
        moved = Fault(FaultKind.MOVED_EXTENT, number, behind, length_bytes)
        assert verdict_of(world, moved) == Verdict.PARTIAL
    assert touched


def meet(one: Run, other: Run) -> bool:
    first, second = sorted((one, other))
    return second.physical_bytes < first.physical_bytes + first.length_bytes


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in TOLD])
def test_each_fault_does_to_the_disk_what_the_table_says(world: World, passages: Passages, kind: FaultKind) -> None:
    """By a plain model of what the fault means, wherever the writer is not told of it."""
    for fault in drawn(world, kind, 25):
        assert content_of(passages.state_after([fault])) == left_by(world, fault)


def left_by(world: World, fault: Fault) -> bytes:
    disk, flushed = bytearray(world.before), -1
    end = fault.operation if fault.kind == FaultKind.POWER_CUT else len(world.trace)
    for number, event in enumerate(world.trace[:end]):
        flushed = number if event.kind == "flush" else flushed
    in_flight = 0
    late = b""
    for number, event in enumerate(world.trace[:end]):
        place, content = event.offset_bytes, event.content
        if fault.operation == number and fault.kind == FaultKind.DROPPED_WRITE:
            content = b""
        if fault.operation == number and fault.kind == FaultKind.TORN_WRITE:
            content = content[: fault.length_bytes]
        if fault.operation == number and fault.kind == FaultKind.MISDIRECTED:
            place = fault.place_bytes
        if event.kind == "write" and number > flushed and fault.kind == FaultKind.POWER_CUT:
            content = content if fault.bits >> in_flight & 1 else b""
            in_flight += 1
        if fault.operation == number and fault.kind == FaultKind.LATE_WRITE:
            late, content = content, b""
        disk[place : place + len(content)] = content
        if fault.kind == FaultKind.LATE_WRITE and number == fault.operation + fault.bits:
            disk = with_late(world, disk, fault, late)
    if fault.kind == FaultKind.LATE_WRITE and fault.operation + fault.bits >= end:
        disk = with_late(world, disk, fault, late)
    return damaged(world, disk, fault)


def with_late(world: World, disk: bytearray, fault: Fault, content: bytes) -> bytearray:
    place = world.trace[fault.operation].offset_bytes
    disk[place : place + len(content)] = content
    return disk


def damaged(world: World, disk: bytearray, fault: Fault) -> bytes:
    """What comes over it when all is written."""
    others = Chance(CaseKey("somebody else", 0, 0)).take_bytes(len(disk))
    start, stop = fault.place_bytes, fault.place_bytes + fault.length_bytes
    if fault.kind == FaultKind.STALE_SECTORS:
        disk[start:stop] = world.before[start:stop]
    if fault.kind == FaultKind.OVERWRITTEN:
        disk[start:stop] = others[start:stop]
    if fault.kind == FaultKind.MOVED_EXTENT:
        extent = world.extents.extents[fault.operation]
        old, behind = extent.physical_bytes, extent.physical_bytes + extent.length_bytes
        content = bytes(disk[old:behind])
        disk[old:behind] = others[old:behind]
        disk[start:stop] = content
    if fault.kind == FaultKind.BIT_ROT:
        disk[fault.place_bytes + fault.bits // 8] ^= 1 << fault.bits % 8
    return bytes(disk)


def test_sectors_that_cannot_be_read_say_so(world: World, passages: Passages) -> None:
    place = places(world, FrameKind.PAGES)[0]
    state = passages.state_after([Fault(FaultKind.UNREADABLE, place_bytes=place, length_bytes=2 * SECTOR)])
    assert state.read(place + 2 * SECTOR, SECTOR)
    for start in (place, place + SECTOR):
        with pytest.raises(OSError, match="cannot all be read"):
            state.read(start, SECTOR)


def test_a_read_error_that_passes_fails_one_read_of_each_reader(world: World, passages: Passages) -> None:
    """And what is read in spite of it is compared like any other: the second attempt may find damage."""
    place = places(world, FrameKind.PAGES)[0]
    passing = Fault(FaultKind.PASSING_ERROR, place_bytes=place, length_bytes=2 * SECTOR)
    state = passages.state_after([passing])
    for disk in (state.to_one_reader(), state.to_one_reader()):
        with pytest.raises(OSError, match="passes"):
            disk.read(place + SECTOR, 4 * SECTOR)
        assert disk.read(place, 2 * SECTOR) == state.read(place, 2 * SECTOR)
    rotten = Fault(FaultKind.BIT_ROT, place_bytes=place)
    assert verdict_of(world, passing, rotten) == verdict_of(world, rotten) == Verdict.PARTIAL


def test_as_many_errors_pass_in_one_slot_as_a_case_has_faults(world: World) -> None:
    """One in each piece of the slot: each attempt comes one piece further."""
    (pages,) = (frame for frame in world.frames if frame.plan.kind == FrameKind.PAGES)
    pieces = [Fault(FaultKind.PASSING_ERROR, 0, run.physical_bytes, SECTOR) for run in pages.runs]
    assert len(pieces) >= FAULTS_MAX
    assert verdict_of(world, *pieces[:FAULTS_MAX]) == Verdict.COMPLETE


def test_recovery_that_does_not_read_again_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "READ_ATTEMPTS", 1)
    outcome = campaign(world, range(200))
    assert outcome.disagreements
    assert not outcome.wrong_bytes


def campaign(world: World, numbers: range, seed: int = 5) -> Counts:
    return run_cases(world, [Recovery(world), SecondReader(world)], seed, numbers)


@pytest.mark.parametrize(("name", "cases"), [("pages", 2000), ("zeros", 2000), ("short", 500), ("requests", 200)])
def test_whatever_goes_wrong_recovery_gives_just_what_is_left(name: str, cases: int) -> None:
    outcome = campaign(build_world(SCENARIOS[name]), range(cases))
    assert outcome.holds, outcome.examples
    assert outcome.cases == cases
    assert all(outcome.faults.values()), "each fault must come up"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cases"),
    [("pages", 200_000), ("zeros", 200_000), ("short", 50_000), ("requests", 10_000), ("parity", 5_000)],
)
def test_many_cases_are_judged_twice(name: str, cases: int) -> None:
    """As `lab run` judges them, and by the reader that shares no code."""
    world = build_world(SCENARIOS[name])
    outcome = run_cases(world, [RememberingRecovery(world), SecondReader(world)], 6, range(cases))
    assert outcome.holds, outcome.examples
    assert outcome.cases == cases
    assert all(outcome.faults.values()), "each fault must come up"


def test_the_parts_of_a_campaign_find_what_the_whole_finds(world: World) -> None:
    whole = campaign(world, range(300))
    parts = [campaign(world, part) for part in (range(200, 300), range(120), range(120, 200))]
    assert sum_of([part.verdict_digest for part in parts]) == whole.verdict_digest
    assert {verdict: sum(part.verdicts[verdict] for part in parts) for verdict in Verdict} == whole.verdicts
    assert campaign(world, range(300), seed=6).verdict_digest != whole.verdict_digest


def sum_of(digests: list[str]) -> str:
    total = sum(int.from_bytes(bytes.fromhex(digest), "little") for digest in digests)
    return (total % (1 << 8 * DIGEST_SIZE_BYTES)).to_bytes(DIGEST_SIZE_BYTES, "little").hex()


def test_a_case_is_the_same_everywhere(world: World) -> None:
    assert draw_faults(Chance(CaseKey("zeros", 5, 7)), recording_of(world)) == (
        Fault(FaultKind.BIT_ROT, place_bytes=616960, bits=1690),
        Fault(FaultKind.FAILED_FLUSHES, operation=12),
    )
    assert (
        campaign(world, range(50)).verdict_digest == "4964c90f79544df9129ab0dca905ebfcc500bbd3f26b804ff625532e1dcca389"
    )


def test_a_campaign_finds_a_reader_that_believes_too_much(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "payload_is_true", lambda slot, frame: True)
    outcome = campaign(world, range(300))
    assert outcome.wrong_bytes
    assert {example.split()[0] for example in outcome.examples} == {"recovery"}
    assert ": zeros:5:" in outcome.examples[0]
