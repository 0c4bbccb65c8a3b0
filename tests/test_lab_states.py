"""The states of a disk that the laboratory makes: all that a cut can leave, each once, and each cheap to compare."""

from __future__ import annotations

import itertools

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.formats.region import CLASS_RUN
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.enumeration import (
    changed_sectors,
    cuts,
    disk_count,
    distinct_count,
    epochs,
    expected_count,
    sectors,
    state_after,
)
from dumpwriter.lab.pieces import Pieces
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import build_world
from vdisk.errors import DeviceError
from vdisk.extent import Run
from vdisk.layers.trace import Event

SECTOR = 512
DISK_SECTORS = 12
FLUSH = Event("flush", 0, 0, b"")


def content(letter: int, sectors: int) -> bytes:
    """No two sectors of a test are the same."""
    return b"".join(bytes([letter, sector]).ljust(SECTOR, b"-") for sector in range(sectors))


BEFORE = content(0, DISK_SECTORS)


@st.composite
def traces(draw: st.DrawFn) -> list[Event]:
    """A few epochs of up to four writes that do not overlap within one."""
    trace: list[Event] = []
    letters = itertools.count(1)
    for _ in range(draw(st.integers(0, 3))):
        ends = sorted(draw(st.sets(st.integers(0, DISK_SECTORS), max_size=5)))
        for start, stop in draw(st.permutations(list(itertools.pairwise(ends)))):
            written = content(next(letters), stop - start)
            trace.append(Event("write", start * SECTOR, len(written), written))
        trace.append(FLUSH)
    is_open = draw(st.booleans())
    return trace[:-1] if is_open else trace


@st.composite
def traces_that_change_little(draw: st.DrawFn) -> list[Event]:
    """The same, but many a sector is written with what it holds. None gets back what it held before."""
    letters, disk, rewritten = itertools.count(100), bytearray(BEFORE), []
    for event in draw(traces()):
        for start in range(event.offset_bytes, event.offset_bytes + event.length_bytes, SECTOR):
            if draw(st.booleans()):
                disk[start : start + SECTOR] = content(next(letters), 1)
        written = bytes(disk[event.offset_bytes : event.offset_bytes + event.length_bytes])
        rewritten.append(event._replace(content=written))
    return rewritten


def left_by_any_cut(trace: list[Event]) -> set[bytes]:
    """By the words of the fault model alone: cut anywhere, lose any of the writes since the flush, tear one of them."""
    left = set()
    for cut in range(len(trace) + 1):
        flushed = max((number + 1 for number in range(cut) if trace[number] == FLUSH), default=0)
        safe = [(event, event.length_bytes) for event in trace[:flushed] if event != FLUSH]
        for fates in itertools.product(*(range(0, event.length_bytes + 1, SECTOR) for event in trace[flushed:cut])):
            lengths = [event.length_bytes for event in trace[flushed:cut]]
            if sum(0 < fate < length for fate, length in zip(fates, lengths, strict=True)) <= 1:
                left.add(written([*safe, *zip(trace[flushed:cut], fates, strict=True)]))
    return left


def written(prefixes: list[tuple[Event, int]]) -> bytes:
    disk = bytearray(BEFORE)
    for event, length in prefixes:
        disk[event.offset_bytes : event.offset_bytes + length] = event.content[:length]
    return bytes(disk)


@given(traces())
def test_the_states_are_those_that_a_cut_can_leave(trace: list[Event]) -> None:
    parts = list(epochs(BEFORE, trace))
    states = [state_after(part, cut) for part in parts for cut in cuts(part)]
    assert len(states) == sum(map(expected_count, parts))
    assert {state.read(0, state.size_bytes) for state in states} == left_by_any_cut(trace)


@given(traces())
def test_no_state_of_an_epoch_is_counted_twice(trace: list[Event]) -> None:
    for part in epochs(BEFORE, trace):
        states = [state_after(part, cut) for cut in cuts(part)]
        assert len({state.read(0, state.size_bytes) for state in states}) == len(states)


@given(traces_that_change_little())
def test_different_disks_are_counted_by_a_closed_form(trace: list[Event]) -> None:
    parts = list(epochs(BEFORE, trace))
    left = [{state_after(part, cut).read(0, DISK_SECTORS * SECTOR) for cut in cuts(part)} for part in parts]
    assert list(map(len, left)) == list(map(disk_count, parts))
    assert len(set().union(*left)) == distinct_count(parts)


def test_the_different_disks_of_a_world_are_counted_by_a_closed_form() -> None:
    world = build_world(SCENARIOS["pages"]._replace(writes_in_flight=2))
    parts = list(epochs(world.before, world.trace))
    states = (state_after(part, cut) for part in parts for cut in cuts(part))
    assert len({blake3.blake3(state.read(0, state.size_bytes)).digest() for state in states}) == distinct_count(parts)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("writes", [1, 8])
def test_of_almost_every_sector_it_is_seen_whether_it_was_written(name: str, writes: int) -> None:
    """What stays the same are zeros that the format demands, behind headers and the last record of a table."""
    world = build_world(SCENARIOS[name]._replace(writes_in_flight=writes))
    in_frames = [range(place, place + length) for runs in world.places for place, length in runs]
    *_, filled, _, _, _ = epochs(world.before, world.trace)  # before the headers that say WRITTEN
    for write in filled.writes:
        assert changed_sectors(filled, write) > 0.8 * sectors(write)
        for start in range(write.offset_bytes, write.offset_bytes + write.length_bytes, SECTOR):
            written = write.content[start - write.offset_bytes :][:SECTOR]
            if written == world.before[start : start + SECTOR]:
                assert not any(written[CLASS_RUN.size_bytes :])
                assert any(start in frame for frame in in_frames)


def test_writes_in_flight_that_overlap_are_more_than_is_counted() -> None:
    write = Event("write", 0, SECTOR, content(1, 1))
    with pytest.raises(AssertionError, match="overlap"):
        list(map(expected_count, epochs(BEFORE, [write, write])))


def test_a_discard_is_there_or_not_or_in_part_until_the_flush() -> None:
    trace = [Event("discard", SECTOR, 2 * SECTOR, b""), FLUSH]
    (first, last) = epochs(BEFORE, trace)
    states = {state_after(first, cut).read(0, DISK_SECTORS * SECTOR) for cut in cuts(first)}
    assert states == {BEFORE[:SECTOR] + bytes(length) + BEFORE[SECTOR + length :] for length in (0, SECTOR, 2 * SECTOR)}
    assert last.base in states


contents = st.sampled_from([content(letter, sectors) for letter in (1, 2) for sectors in (2, 3)])


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    whole = draw(contents)
    start, stop = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    return Patch(draw(st.integers(0, 8)) * SECTOR, whole, start, stop)


states = st.lists(patches(), max_size=4).map(lambda drawn: DiskState(BEFORE, drawn))
ranges = st.tuples(st.integers(0, 5), st.integers(0, 6)).map(lambda drawn: Run(drawn[0] * SECTOR, drawn[1] * SECTOR))


@given(states, ranges)
def test_a_state_reads_as_if_it_had_been_written(state: DiskState, place: Run) -> None:
    disk = bytearray(BEFORE)
    for patch in state.patches:
        start, stop = patch.place_bytes + patch.start_bytes, patch.place_bytes + patch.end_bytes
        disk[start:stop] = patch.content[patch.start_bytes : patch.end_bytes]
    assert state.read(*place) == disk[place.physical_bytes : place.physical_bytes + place.length_bytes]


@given(states, ranges, st.integers(0, 5))
def test_what_is_moved_is_what_was_there(state: DiskState, place: Run, sector: int) -> None:
    moved = DiskState(BEFORE, [*state.patches, *state.moved(place, sector * SECTOR)])
    assert moved.read(sector * SECTOR, place.length_bytes) == state.read(*place)


@given(states, states, ranges)
def test_one_version_of_a_piece_has_one_content(one: DiskState, other: DiskState, place: Run) -> None:
    pieces = Pieces([[place]])
    if pieces.versions(one) == pieces.versions(other):
        assert one.read(*place) == other.read(*place)


def test_a_tear_elsewhere_changes_no_version() -> None:
    whole, pieces = content(1, 3), Pieces([[Run(0, 2 * SECTOR)], [Run(2 * SECTOR, SECTOR)]])
    states = [DiskState(BEFORE, [Patch(0, whole, 0, end)]) for end in (2 * SECTOR, 3 * SECTOR)]
    (one, here), (other, there) = map(pieces.versions, states)
    assert one == other
    assert here != there


def test_neither_what_is_hidden_nor_the_order_of_writes_elsewhere_changes_a_version() -> None:
    """A write that came in part lies below the one that was tried again."""
    (one, other), pieces = (content(1, 1), content(2, 1)), Pieces([[Run(0, SECTOR), Run(SECTOR, SECTOR)]])
    here, there = Patch(0, one, 0, SECTOR), Patch(SECTOR, other, 0, SECTOR)
    part, hidden = here._replace(end_bytes=SECTOR // 2), here._replace(content=other)
    orders = [here, there], [there, here], [part, here, there], [hidden, there, here]
    (version,) = {tuple(pieces.versions(DiskState(BEFORE, patches))) for patches in orders}
    assert tuple(pieces.versions(DiskState(BEFORE, [here, part, there]))) != version
    assert tuple(pieces.versions(DiskState(BEFORE, [here, hidden, there]))) != version


def test_what_cannot_be_read_is_another_version() -> None:
    pieces = Pieces([[Run(0, SECTOR)], [Run(SECTOR, SECTOR)]])
    (one, here), (other, there) = (pieces.versions(DiskState(BEFORE, [], bad)) for bad in ([], [Run(SECTOR, SECTOR)]))
    assert one == other
    assert here != there


def test_a_state_is_not_written_to() -> None:
    state = DiskState(BEFORE, [])
    state.flush()
    with pytest.raises(DeviceError):
        state.write_from(0, content(1, 1))
    with pytest.raises(DeviceError):
        state.discard(0, SECTOR)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("writes", [1, 4, 8, 16])
def test_a_region_in_pieces_makes_so_many_writes_in_flight(name: str, writes: int) -> None:
    world = build_world(SCENARIOS[name]._replace(writes_in_flight=writes))
    in_flight = max(len(epoch.writes) for epoch in epochs(world.before, world.trace))
    requests = len(world.frames) // 8 + len(world.parity)
    assert in_flight - writes in range(requests + 1), "a border between requests cuts a piece"


def test_chance_is_the_same_everywhere() -> None:
    chance = Chance(CaseKey("pages", 1, 2))
    assert chance.take_bytes(4).hex() == "ff4cc4b5"
    assert [chance.below(1000) for _ in range(5)] == [894, 5, 312, 996, 828]


def test_chance_is_fair_and_every_case_has_its_own() -> None:
    counts = [0] * 7
    for case in range(7000):
        counts[Chance(CaseKey("pages", 0, case)).below(7)] += 1
    assert all(900 < count < 1100 for count in counts)
    streams = {Chance(CaseKey(name, seed, case)).take_bytes(8) for name in "ab" for seed in (1, 11) for case in (1, 11)}
    assert len(streams) == 8
