"""The proof: in every state recovery finds just what the disk holds, an independent reader too; faults are found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import cli, frames
from dumpwriter.crash import dump
from dumpwriter.crash.plan import MemoryPart, memory_parts
from dumpwriter.formats.region import FRAME_PAGES_MAX, DumpState
from dumpwriter.lab import world as laboratory
from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.diskstate import DiskState, Patch
from dumpwriter.lab.judging import Reader, Recovery
from dumpwriter.lab.proof import Certificate, prove
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.world import CLASS_PAGES, CLASSES, World, build_world
from dumpwriter.recovery import judgement, scan, slots
from dumpwriter.verdict import Reason, Verdict
from tests.second_reader import SecondReader
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from dumpwriter.crash.dump import DumpJob, Progress


def world_of(name: str, writes_in_flight: int) -> World:
    return build_world(SCENARIOS[name]._replace(writes_in_flight=writes_in_flight))


def proved(world: World, *readers: Callable[[World], Reader]) -> Certificate:
    return prove(world, [make(world) for make in readers], lambda done, total: None)


@pytest.mark.parametrize(("name", "writes"), [("pages", 5), ("zeros", 4), ("short", 3)])
def test_every_state_is_judged_alike_by_recovery_and_by_a_reader_that_shares_no_code(name: str, writes: int) -> None:
    certificate = proved(world_of(name, writes), Recovery, SecondReader)
    assert certificate.holds, certificate.examples
    assert (certificate.states, certificate.wrong_bytes) == (certificate.states_expected, 0)
    possible = {Verdict.PARTIAL, Verdict.NONE} | {certificate.planned}
    assert {verdict for verdict, states in certificate.verdicts.items() if states} == possible
    assert certificate.readers == ("recovery", "second reader")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "writes"), [("pages", 8), ("zeros", 8), ("short", 8), ("requests", 5)])
def test_every_state_of_many_writes_in_flight(name: str, writes: int) -> None:
    """Eight of `requests` would have 1.2 million states of four times the size."""
    certificate = proved(world_of(name, writes), Recovery, SecondReader)
    assert certificate.holds, certificate.examples
    assert certificate.states > certificate.distinct > 130_000


def test_the_command_proves_what_eight_writes_in_flight_can_leave(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "prove", "pages", "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    in_flight = 2**8 + (1056 - 8) * 2**7  # 1056 sectors from the first frame to the end of the last
    assert certificate["count"] == certificate["expected_count"] == in_flight + 4 * 9 + 1
    in_other_bytes = 2**8 + (1056 - 32 - 8) * 2**7  # 32 are zeros in each dump, behind its headers and records
    assert certificate["distinct_count"] == in_other_bytes + 4
    assert certificate["epochs"][2]["disks"] == in_other_bytes
    assert certificate["wrong_bytes"] == 0
    assert sum(certificate["verdicts"].values()) == certificate["count"]


def test_a_certificate_is_the_same_everywhere() -> None:
    """What is pinned here changes with the format, the plan or the order of the states, and with nothing else."""
    first, second = (proved(world_of("zeros", 2), Recovery) for _ in range(2))
    assert first == second
    assert first.trace_digest == "5080d783727f6d6cfbd2317588b552d4d084fa7e31fda0a01f0a34dfc53ee6ce"
    assert first.verdict_digest == "a36ecd7907efb41f9b5acd4a08fae6bbd1e8d4be05859652e02de5d4a7a95439"


def believe_any_payload(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "payload_is_true", lambda slot, frame: True)


def believe_an_older_dump(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "decode_header", lambda block, identity: frames.decode_header(block, None))


def give_up_what_a_first_frame_does_not_explain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scan, "_slots_to_read", lambda slots, header: 2)


def call_a_part_the_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judgement, "_verdict", lambda evidence, wanted, is_whole: (Verdict.COMPLETE, Reason.WHOLE))


def forget_what_is_missing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scan, "judge", lambda evidence: judgement.judge(evidence)._replace(missing=()))


@pytest.mark.parametrize(
    ("break_recovery", "gives_wrong_bytes"),
    [
        (believe_any_payload, True),
        (believe_an_older_dump, True),
        (give_up_what_a_first_frame_does_not_explain, False),
        (call_a_part_the_whole, False),
        (forget_what_is_missing, False),
    ],
)
def test_a_fault_in_recovery_is_found(
    monkeypatch: pytest.MonkeyPatch, break_recovery: Callable[[pytest.MonkeyPatch], None], *, gives_wrong_bytes: bool
) -> None:
    world = world_of("pages", 2)
    break_recovery(monkeypatch)
    certificate = proved(world, Recovery, SecondReader)
    assert not certificate.holds
    assert (certificate.wrong_bytes > 0) == gives_wrong_bytes
    assert {str(example).split()[0] for example in certificate.examples} == {"recovery"}
    assert "recovery found" in str(certificate.examples[0])


def test_a_dump_that_never_writes_a_page_is_no_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery gives all that is there, and the fault is the writer's."""

    def forget_the_last(*arguments: Any) -> list[MemoryPart]:
        return list(memory_parts(*arguments))[:-1]

    monkeypatch.setattr("dumpwriter.lab.world.memory_parts", forget_the_last)
    certificate = proved(world_of("zeros", 1), Recovery, SecondReader)
    assert (certificate.wrong_bytes, certificate.disagreements) == (0, 0)
    assert certificate.undisturbed == Verdict.PARTIAL
    assert not certificate.holds


def test_a_region_that_is_too_small_holds_just_the_pages_that_are_worth_most() -> None:
    """All zeros, which take one frame, and as many pages of data as another one takes."""
    world = world_of("short", 1)
    state = DiskState(
        world.before, [Patch(event.offset_bytes, event.content, 0, event.length_bytes) for event in world.trace]
    )
    worth = sorted(range(world.scenario.data_pages), key=lambda page: CLASSES[page // CLASS_PAGES % len(CLASSES)])
    held = {*worth[:FRAME_PAGES_MAX], *range(world.scenario.data_pages, world.scenario.pages)}
    for reader in (Recovery(world), SecondReader(world)):
        found = reader.read(state)
        assert {page for first, count in found.present for page in range(first, first + count)} == held
        assert (found.verdict, found.wrong_bytes) == (Verdict.PARTIAL, 0)


def test_a_dump_that_leaves_the_region_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the trace alone: recovery finds what it must. The guard is away, which would have let nothing through."""

    class Wide(Mapped):
        def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
            super().write_from(offset_bytes, buffer)
            self.lower.write_from(0, bytes(512))

    monkeypatch.setattr(laboratory, "WriteGuard", lambda disk, permitted: disk)
    world = world_of("pages", 1)
    assert proved(world, Recovery).holds
    monkeypatch.setattr(laboratory, "Mapped", Wide)
    world = world_of("pages", 1)
    certificate = proved(world, Recovery)
    assert not certificate.holds
    assert certificate.strays == sum(event.kind == "write" for event in world.trace) / 2
    outcome = run_cases(world, [Recovery(world)], 1, range(5))
    assert not outcome.holds
    assert outcome.strays == len(outcome.examples) > 2, "all but those of which nothing comes to the disk"
    assert outcome.examples[0].startswith("the writer left the region's extents: pages:1:")


def test_a_flush_that_the_writer_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_at_once(job: DumpJob, progress: Progress, end_time_ns: int) -> None:
        dump._write_headers(job, progress, DumpState.WRITTEN, end_time_ns)

    monkeypatch.setattr(dump, "end", end_at_once)
    certificate = proved(world_of("zeros", 1), Recovery, SecondReader)
    assert (certificate.wrong_bytes, certificate.disagreements) == (0, 0)
    assert certificate.premature > 0
    assert not certificate.holds


def test_a_proof_that_fails_says_where_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call_a_part_the_whole(monkeypatch)
    assert cli.main(["lab", "prove", "pages", "--writes", "1"]) == 1
    told = capsys.readouterr().out
    assert "disagreements in all" in told
    assert "instead of NONE: 0 flushes, then writes [] of those in flight" in told
