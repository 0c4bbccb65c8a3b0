"""Faults of the disk, one to three at once: what becomes of a dump, and that recovery gives just what is left of it."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dumpwriter import cli
from dumpwriter.cli import lab
from dumpwriter.formats.region import FrameKind
from dumpwriter.lab import faults as fault_table
from dumpwriter.lab.campaign import Outcome, run_cases
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState
from dumpwriter.lab.faults import DRAWERS, Fault, FaultKind, draw_faults
from dumpwriter.lab.judging import Expectation, Recovery
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.tally import DIGEST_SIZE_BYTES
from dumpwriter.lab.world import World, build_world
from dumpwriter.recovery import slots
from dumpwriter.verdict import Verdict
from tests.second_reader import SecondReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECTOR = 512


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SCENARIOS["zeros"])


def content_of(state: DiskState) -> bytes:
    return DiskState(state.base, state.patches).read(0, state.size_bytes)


def drawn(world: World, kind: FaultKind, count: int) -> list[Fault]:
    return [DRAWERS[kind](Chance(CaseKey("drawn", 0, case)), world) for case in range(count)]


def verdict_of(world: World, *faults: Fault) -> Verdict:
    """Of recovery, where both readers find what the disk holds."""
    state = Passages(world).state_after(faults)
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


@pytest.mark.parametrize("kind", [FaultKind.LYING_FLUSH, FaultKind.FAILED])
def test_what_costs_nothing_alone(world: World, kind: FaultKind) -> None:
    assert {verdict_of(world, fault) for fault in drawn(world, kind, 40)} == {Verdict.COMPLETE}


DAMAGE = [
    Fault(FaultKind.BAD_SECTORS, length_bytes=SECTOR),
    Fault(FaultKind.UNREADABLE, length_bytes=SECTOR),
    Fault(FaultKind.STALE_SECTORS, length_bytes=SECTOR),
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


def test_a_write_that_fails_is_tried_again_frame_by_frame(world: World) -> None:
    written = next(number for number, event in enumerate(world.trace) if event.length_bytes > 4096)
    trace = Passages(world).trace_under([Fault(FaultKind.FAILED, written)])
    frames = {(run.physical_bytes, run.length_bytes) for frame in world.frames for run in frame.runs}
    alone = {(event.offset_bytes, event.length_bytes) for event in trace}
    assert frames <= alone
    assert not frames <= {(event.offset_bytes, event.length_bytes) for event in world.trace}


@pytest.mark.parametrize("kind", FaultKind)
def test_each_fault_does_to_the_disk_what_the_table_says(world: World, kind: FaultKind) -> None:
    """By a plain model of what the fault means, wherever the writer is not told of it."""
    passages = Passages(world)
    for fault in drawn(world, kind, 25):
        if kind not in (FaultKind.FAILED, FaultKind.BAD_SECTORS):
            assert content_of(passages.state_after([fault])) == left_by(world, fault)


def left_by(world: World, fault: Fault) -> bytes:
    disk, flushed = bytearray(world.before), -1
    end = fault.operation if fault.kind == FaultKind.POWER_CUT else len(world.trace)
    for number, event in enumerate(world.trace[:end]):
        flushed = number if event.kind == "flush" else flushed
    in_flight = 0
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
        disk[place : place + len(content)] = content
    stop = fault.place_bytes + fault.length_bytes
    if fault.kind == FaultKind.STALE_SECTORS:
        disk[fault.place_bytes : stop] = world.before[fault.place_bytes : stop]
    if fault.kind == FaultKind.BIT_ROT:
        disk[fault.place_bytes + fault.bits // 8] ^= 1 << fault.bits % 8
    return bytes(disk)


def test_sectors_that_cannot_be_read_say_so(world: World) -> None:
    place = places(world, FrameKind.PAGES)[0]
    state = Passages(world).state_after([Fault(FaultKind.UNREADABLE, place_bytes=place, length_bytes=2 * SECTOR)])
    assert state.read(place + 2 * SECTOR, SECTOR)
    for start in (place, place + SECTOR):
        with pytest.raises(OSError, match="cannot all be read"):
            state.read(start, SECTOR)


def campaign(world: World, numbers: range, seed: int = 5) -> Outcome:
    return run_cases(world, [Recovery(world), SecondReader(world)], seed, numbers)


@pytest.mark.parametrize(("name", "cases"), [("pages", 3000), ("zeros", 3000), ("requests", 200)])
def test_whatever_goes_wrong_recovery_gives_just_what_is_left(name: str, cases: int) -> None:
    outcome = campaign(build_world(SCENARIOS[name]), range(cases))
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
    assert draw_faults(Chance(CaseKey("zeros", 5, 7)), world) == (
        Fault(FaultKind.DROPPED_WRITE, operation=13),
        Fault(FaultKind.UNREADABLE, place_bytes=352768, length_bytes=3072),
    )
    assert (
        campaign(world, range(50)).verdict_digest == "e9d765aacbb1839a9e2e0b82d62b3b1935544d2fa389d45eac8440a81e9a0f84"
    )


def test_a_campaign_finds_a_reader_that_believes_too_much(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "payload_is_true", lambda slot, frame: True)
    outcome = campaign(world, range(300))
    assert outcome.wrong_bytes
    assert {example.reader for example in outcome.examples} == {"recovery"}
    assert outcome.examples[0].case.startswith("zeros:5:")


def interrupting_at(case: int) -> Callable[[str], object]:
    """Stands for the progress bar, and for somebody who presses Ctrl-C."""

    @contextmanager
    def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: signal.raise_signal(signal.SIGINT) if done == case else None

    return progress_bar


def test_an_interrupted_campaign_tells_what_it_has_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, code: int) -> dict[str, object]:
        assert cli.main(["lab", "run", "zeros", "--seed", "5", "--json", *arguments]) == code
        document: dict[str, object] = json.loads(capsys.readouterr().out)
        return document

    whole = run("--cases", "40", code=0)
    monkeypatch.setattr(lab, "progress_bar", interrupting_at(15))
    begun = run("--cases", "40", code=130)
    assert (begun["cases"], begun["next"]) == (15, 15)
    rest = run("--first", "15", "--cases", "25", code=130)
    assert (rest["cases"], rest["next"]) == (15, 30)
    end = run("--first", "30", "--cases", "10", code=0)
    assert sum_of([str(part["verdict_digest"]) for part in (begun, rest, end)]) == whole["verdict_digest"]
