"""One case: replayed from its line, told operation by operation, made as simple as it can be and still go wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dumpwriter import cli
from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.case import describe_case, open_case
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.faults import Fault, FaultKind, draw_faults
from dumpwriter.lab.faulttext import describe_faults, parse_faults
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.replay import Laboratory
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.shrinking import shrink
from dumpwriter.lab.world import build_world, recording_of
from dumpwriter.recovery import slots
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from dumpwriter.lab.world import World

SEED = 5


def laboratory_of(world: World) -> Laboratory:
    return Laboratory(world, [Recovery(world)])


def test_a_case_replayed_from_the_text_of_its_faults_is_the_same() -> None:
    for number in range(40):
        world, faults = open_case(f"zeros:{SEED}:{number}")
        again_world, again = open_case(describe_case(world, faults))
        assert again == faults
        assert laboratory_of(again_world).replay(again)[1:] == laboratory_of(world).replay(faults)[1:]


def test_a_replay_finds_what_the_campaign_found() -> None:
    world, _ = open_case(f"zeros:{SEED}:0")
    laboratory = laboratory_of(world)
    for number in range(20):
        verdicts = run_cases(world, [Recovery(world)], SEED, [number]).verdicts
        _, faults = open_case(f"zeros:{SEED}:{number}")
        assert verdicts[laboratory.replay(faults).expected.verdict] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "the scenario one of pages, zeros, short, requests, parity"),
        ("zeros", "give it as SCENARIO:SEED:NUMBER"),
        ("zeros:1:2:3", "give it as SCENARIO:SEED:NUMBER"),
        ("elsewhere:1:2", "the scenario one of pages"),
        ("zeros:1", "'1' is no KIND,OPERATION,PLACE,LENGTH,BITS"),
        ("zeros:a:b", "'a' is not a number from 0 on"),
        ("zeros:-1:0", "'-1' is not a number from 0 on"),
        ("zeros:0:-1", "'-1' is not a number from 0 on"),
        ("zeros:0:1_0", "'1_0' is not a number from 0 on"),
        ("zeros:0:9223372036854775808", "9223372036854775808 is more than 9223372036854775807"),
        ("zeros:bit-rot", "'bit-rot' is no KIND,OPERATION,PLACE,LENGTH,BITS"),
        ("zeros:bit-rot,0,0,0", "'bit-rot,0,0,0' is no KIND"),
        ("zeros:bit-rot,0,0,0,0,0", "'bit-rot,0,0,0,0,0' is no KIND"),
        ("zeros:rust,0,0,0,0", "the kind one of power-cut, lying-flush"),
        ("zeros:bit-rot,0,0,0,0+", "'' is no KIND"),
        ("zeros:bit-rot,0,100,0,0", "place 100 is no multiple of 512"),
        ("zeros:bit-rot,0,-512,0,0", "'-512' is not a number from 0 on"),
        ("zeros:bit-rot,0,0,0,4096", "a sector has no bit 4096"),
        ("zeros:bit-rot,0,0,0,5000", "a sector has no bit 5000"),
        ("zeros:power-cut,0,0,0,-1", "'-1' is no number of up to 17 bits"),
        ("zeros:power-cut,0,0,0,131072", "'131072' is no number of up to 17 bits"),
        ("zeros:bit-rot,0,99999999488,0,0", "512 bytes from place 99999999488 on leave the disk"),
        ("zeros:unreadable-sectors,0,0,99999999488,0", "99999999488 bytes from place 0 on leave the disk"),
        ("zeros:misdirected-write,4,{end},0,0", "from place {end} on leave the disk"),
        ("zeros:moved-extent,0,{end},0,0", "from place {end} on leave the disk"),
        ("zeros:moved-extent,8,0,0,0", "there is no extent 8 for a fault of the kind moved extent"),
        ("zeros:dropped-write,17,0,0,0", "there is no operation 17 for a fault of the kind dropped write"),
        ("zeros:dropped-write,3,0,0,0", "there is no operation 3 for"),
        ("zeros:lying-flush,4,0,0,0", "there is no operation 4 for"),
        ("zeros:power-cut,99,0,0,0", "there is no operation 99 for"),
        ("zeros:disk-gone,17,0,0,0", "there is no operation 17 for"),
        ("zeros:torn-write,4,0,99840,0", "operation 4 has no 99840 bytes, but "),
        ("zeros:short-write,4,0,100,0", "length 100 is no multiple of 512"),
    ],
)
def test_what_is_no_case_is_told_with_the_reason(line: str, reason: str) -> None:
    """`end` is where the disk has one sector left."""
    end_bytes = len(build_world(SCENARIOS["zeros"]).before) - 512
    with pytest.raises(UsageError, match=re.escape(reason.format(end=end_bytes))) as raised:
        open_case(line.format(end=end_bytes))
    assert "is not a case: " in str(raised.value)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_fault_that_is_drawn_comes_back_from_its_text(scenario: str) -> None:
    world = build_world(SCENARIOS[scenario])
    recording = recording_of(world)
    for number in range(500):
        faults = draw_faults(Chance(CaseKey(scenario, SEED, number)), recording)
        assert parse_faults(describe_faults(faults), recording) == faults


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "nope"), "argument SCENARIO: 'nope' is none of pages, zeros, short, requests, parity"),
        (("prove", "--writes", "17"), "argument --writes: 17 are too many: the states double with each, so 16 is the"),
        (("prove", "--writes", "0"), "argument --writes: '0' is not a number from 1 on"),
        (("recovery", "nope"), "argument PROCEDURE: 'nope' is none of boot, partial, several, image"),
        (("recovery", "--case", "nope:0:0"), "a case begins with one of boot, partial, several, image"),
        (("filesystem", "--exhaustive", "-1"), "argument --exhaustive: '-1' is not a number from 0 on"),
    ],
)
def test_bad_arguments_are_told_in_words(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_timeline_tells_what_became_of_each_operation(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [
        Fault(FaultKind.POWER_CUT, 12, bits=0b111011111),
        Fault(FaultKind.LYING_FLUSH, 3),
        Fault(FaultKind.TORN_WRITE, 5, length_bytes=700),
        Fault(FaultKind.DROPPED_WRITE, 6),
        Fault(FaultKind.MISDIRECTED, 7, place_bytes=8192),
    ]
    world, _ = open_case("zeros:0:0")
    assert cli.main(["lab", "replay", describe_case(world, faults)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {int(line.split()[0]): line[37:] for line in lines if line.strip()[:1].isdigit()}
    assert told[3] == "lied"
    assert told[5] == "torn after 700 bytes"
    assert told[6] == "dropped"
    assert told[7] == "went to 8192"
    assert told[8] == "lost in flight"
    assert [number for number, fate in told.items() if not fate] == [0, 1, 2, 4, 9, 10, 11]
    assert any(line.startswith("recovery: ") for line in lines)


@pytest.fixture
def _believes_any_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "payload_is_true", lambda slot, frame: True)


@pytest.mark.usefixtures("_believes_any_payload")
def test_a_case_that_goes_wrong_shrinks_to_one_line_that_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    world, _ = open_case(f"zeros:{SEED}:0")
    wrong = run_cases(world, [Recovery(world)], SEED, range(200)).examples
    drawn = {line: open_case(line)[1] for line in (example.split()[-1] for example in wrong)}
    case = next(line for line, faults in drawn.items() if len(faults) == 2)
    assert cli.main(["lab", "replay", case]) == 1
    capsys.readouterr()
    assert cli.main(["lab", "shrink", case]) == 0
    ghostdump, *words = capsys.readouterr().out.split()
    assert (ghostdump, len(open_case(words[-1])[1])) == ("ghostdump", 1)
    assert cli.main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["wrong_bytes"] > 0


DRIFTING = """
from dumpwriter.lab.planted import FAULTS
from dumpwriter.lab.planting import plant
plant(FAULTS["any-dump-id"])
from dumpwriter.lab.case import open_case
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.replay import Laboratory
from dumpwriter import cli
import contextlib, io
line, out = "zeros:3:18", io.StringIO()
with contextlib.redirect_stdout(out):
    assert cli.main(["lab", "shrink", line]) == 0
for case in (line, out.getvalue().split()[-1].strip("'")):
    world, faults = open_case(case)
    print(len(faults), Laboratory(world, [Recovery(world)]).replay(faults).failure)
"""


def test_a_case_shrinks_to_one_that_goes_wrong_in_the_same_way() -> None:
    """Here a cut alone would have older frames believed, with wrong bytes; the case that is given has none."""
    told = subprocess.run([sys.executable, "-c", DRIFTING], check=True, capture_output=True, text=True).stdout
    (many, given), (fewer, left) = (line.split(" ", 1) for line in told.splitlines())
    assert left == given
    assert int(fewer) <= int(many)
    for words in ("expected=<Verdict.NONE: 'NONE'>", "found=<Verdict.PARTIAL: 'PARTIAL'>", "has_wrong_bytes=False"):
        assert words in left


def test_what_holds_is_not_shrunk(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "shrink", "zeros:5:7"]) == 2
    assert "zeros:5:7 holds" in capsys.readouterr().err


def test_shrinking_ends_where_no_fault_can_be_spared_and_none_be_smaller() -> None:
    """Bad is here: the sector at 4096 is stale, and the third write in flight is kept at a cut."""
    stale = Fault(FaultKind.STALE_SECTORS, place_bytes=2048, length_bytes=4096)
    cut = Fault(FaultKind.POWER_CUT, 9, bits=0b10111)

    def is_bad(faults: object) -> bool:
        assert isinstance(faults, tuple)
        return any(
            fault.kind == FaultKind.STALE_SECTORS and fault.place_bytes <= 4096 < fault.place_bytes + fault.length_bytes
            for fault in faults
        ) and any(fault.kind == FaultKind.POWER_CUT and fault.bits & 4 for fault in faults)

    smallest = shrink((Fault(FaultKind.BIT_ROT), stale, cut), is_bad)
    late = Fault(FaultKind.LATE_WRITE, 4, bits=7)
    assert shrink([late], lambda some: some[0].bits > 2) == (late._replace(bits=3),)
    assert smallest == (stale._replace(place_bytes=4096, length_bytes=512), cut._replace(bits=4))
