"""The laboratory knows what parity must give back, and finds a recovery that gives less, or more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dumpwriter.crash import dump
from dumpwriter.formats.region import FrameKind
from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.case import open_case
from dumpwriter.lab.faults import Fault, FaultKind
from dumpwriter.lab.judging import Expectation, Recovery, is_whole
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.proof import prove
from dumpwriter.lab.remembering import RememberingRecovery
from dumpwriter.lab.replay import Laboratory
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import World, build_world, recording_of
from dumpwriter.recovery import rebuilding, slots
from dumpwriter.verdict import Verdict
from tests.second_reader import SecondReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dumpwriter.crash.dump import DumpJob, Progress
    from dumpwriter.frames import FramePlan
    from dumpwriter.recovery.rebuilding import Rebuilt
    from vdisk.errors import DeviceError

SECTOR = 512


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SCENARIOS["parity"])


def lost(world: World, slot: int, kind: FaultKind = FaultKind.UNREADABLE) -> Fault:
    slots = [frame.plan.sequence for frame in world.frames] + [place.slot for place in (*world.parity, *world.spares)]
    runs = dict(zip(slots, world.places, strict=True))
    return Fault(kind, place_bytes=runs[slot][0].physical_bytes, length_bytes=SECTOR)


def test_the_world_has_two_sets_of_two_groups_and_two_slots_to_spare(world: World) -> None:
    assert [frame.plan.sequence for frame in world.frames] == [*range(8), *range(10, 18)]
    assert [place.slot for place in world.parity] == [8, 9, 18, 19]
    assert [place.slot for place in world.spares] == [20, 21]
    assert sorted(map(sorted, world.groups)) == [[0, 2, 4, 6], [1, 3, 5, 7], [10, 12, 14, 16], [11, 13, 15, 17]]


@pytest.mark.parametrize(
    ("slots_lost", "verdict"),
    [
        ((3,), Verdict.COMPLETE),
        ((2, 3, 10, 11), Verdict.COMPLETE),
        ((2, 4), Verdict.PARTIAL),
        ((2, 12), Verdict.COMPLETE),
        ((2, 8), Verdict.PARTIAL),
        ((2, 9), Verdict.COMPLETE),
        ((8, 9, 18, 19), Verdict.COMPLETE),
        ((0, 17), Verdict.COMPLETE),
    ],
)
@pytest.mark.parametrize("kind", [FaultKind.UNREADABLE, FaultKind.STALE_SECTORS])
def test_one_of_each_group_comes_back(
    world: World, kind: FaultKind, slots_lost: tuple[int, ...], verdict: Verdict
) -> None:
    state = Passages(recording_of(world)).state_after([lost(world, slot, kind) for slot in slots_lost])
    expected = Expectation(world).of(state)
    assert expected.verdict == verdict
    assert Recovery(world).read(state).is_as(expected)
    assert SecondReader(world).read(state).is_as(expected)


def test_what_could_not_be_written_comes_back_where_nothing_else_of_its_group_is_lost(world: World) -> None:
    """Sectors that are bad for ever take no frame, and the slots to spare neither: parity has it."""
    passages = Passages(recording_of(world))
    bad = [lost(world, slot, FaultKind.BAD_SECTORS) for slot in (4, 20, 21)]
    alone, beside = passages.state_after(bad), passages.state_after([*bad, lost(world, 6)])
    for state, missing in ((alone, 0), (beside, 2 * 63)):
        expected = Expectation(world).of(state)
        assert sum(run.page_count for run in expected.missing or ()) == missing
        assert Recovery(world).read(state).is_as(expected)


@pytest.mark.parametrize(
    ("slots_bad", "slots_lost", "pages_missing"),
    [
        ((4,), (), 0),
        ((4,), (20,), 0),  # where it was moved to
        ((4,), (20, 6), 2 * 63),
        ((4, 20), (21,), 0),  # the first spare slot does not take it, either
        ((4, 6), (20,), 0),
        ((4, 6), (20, 21), 2 * 63),
        ((4, 5), (20, 21), 0),
        ((4, 5, 6), (20,), 63 * 2),  # no slot is left for the third, of the group of the first
        ((0, 17), (20, 21), 0),
        ((17,), (13,), 0),  # the last frame of metadata, which is as the first would be there
        ((8,), (2,), 0),  # parity is moved as well
        ((8,), (2, 20), 63),
    ],
)
def test_what_is_moved_is_found_where_it_is_and_rebuilt(
    world: World, slots_bad: tuple[int, ...], slots_lost: tuple[int, ...], pages_missing: int
) -> None:
    faults = [lost(world, slot, FaultKind.BAD_SECTORS) for slot in slots_bad]
    state = Passages(recording_of(world)).state_after([*faults, *(lost(world, slot) for slot in slots_lost)])
    expected = Expectation(world).of(state)
    assert sum(run.page_count for run in expected.missing or ()) == pages_missing
    assert Recovery(world).read(state).is_as(expected)
    assert SecondReader(world).read(state).is_as(expected)


def moves_nothing(
    job: DumpJob, frame: FramePlan, content: memoryview, _: memoryview, progress: Progress, failure: DeviceError
) -> None:
    progress.count_failed(failure)
    assert job.parity is not None
    if frame.kind != FrameKind.PARITY:
        job.parity.cover_lost(frame.sequence, content)


def test_a_writer_that_moves_nothing_is_found_though_parity_makes_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "_write_further_on", moves_nothing)
    crippled = build_world(SCENARIOS["parity"])
    outcome = run_cases(crippled, [RememberingRecovery(crippled)], 5, range(120))
    assert outcome.disagreements and not outcome.wrong_bytes
    assert "a spare slot would have taken" in outcome.examples[0]
    _, faults = open_case(outcome.examples[0].split()[-1])
    replay = Laboratory(crippled, [RememberingRecovery(crippled)]).replay(faults)
    assert replay.is_one_left_out and not replay.holds, "what a campaign complains of can be replayed and shrunk"


def test_a_writer_that_leaves_a_frame_out_of_parity_is_found_though_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [lost(world, 4, FaultKind.BAD_SECTORS)]
    assert Laboratory(world, [RememberingRecovery(world)]).replay(faults).holds
    write_alone = dump._write_alone

    def covers_nothing(
        job: DumpJob, frame: FramePlan, content: memoryview, elsewhere: memoryview, progress: Progress
    ) -> None:
        is_parity = frame.kind == FrameKind.PARITY
        write_alone(job if is_parity else job._replace(parity=None), frame, content, elsewhere, progress)

    monkeypatch.setattr(dump, "_write_alone", covers_nothing)
    crippled = build_world(SCENARIOS["parity"])
    replay = Laboratory(crippled, [RememberingRecovery(crippled)]).replay(faults)
    assert replay.expected.verdict == Verdict.COMPLETE
    assert replay.is_one_left_out and not replay.holds


def test_whatever_goes_wrong_recovery_gives_just_what_is_left_and_what_parity_gives(world: World) -> None:
    outcome = run_cases(world, [RememberingRecovery(world), SecondReader(world)], 5, range(200))
    assert outcome.holds, outcome.examples
    assert all(outcome.verdicts.values())


def test_parity_makes_dumps_whole_of_which_frames_are_lost(world: World) -> None:
    state = Passages(recording_of(world)).state_after([lost(world, 5)])
    assert [frame.plan.sequence for frame in world.frames if not is_whole(state, frame)] == [5]
    assert Expectation(world).of(state).verdict == Verdict.COMPLETE


def nothing_rebuilt(_: object) -> Iterator[Rebuilt]:
    yield from ()


def test_a_recovery_that_rebuilds_nothing_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding.Rebuilding, "rebuilt", nothing_rebuilt)
    outcome = run_cases(world, [RememberingRecovery(world)], 5, range(60))
    assert outcome.disagreements and not outcome.wrong_bytes


def test_a_recovery_that_believes_what_it_rebuilds_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is off by a bit makes its frame false, and what is rebuilt with it too."""
    monkeypatch.setattr(slots, "payload_is_true", lambda slot, frame: True)
    passages = Passages(recording_of(world))
    runs = {frame.plan.sequence: frame.runs for frame in world.frames}
    rotten = Fault(FaultKind.BIT_ROT, place_bytes=runs[2][0].physical_bytes + 5 * 4096, bits=7)
    state = passages.state_after([rotten, lost(world, 4)])
    assert Recovery(world).read(state).wrong_bytes == 2


@pytest.mark.slow
def test_every_state_of_a_dump_with_parity_is_judged_alike_by_both(world: World) -> None:
    certificate = prove(world, [RememberingRecovery(world), SecondReader(world)], lambda done, total: None)
    assert certificate.holds, certificate.examples
    assert certificate.states > 79_000
