"""Campaigns in shards: however they are cut, by whomever and how often they are judged, the whole is the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter import cli
from dumpwriter.campaign.build import ROOT, SOURCES, build_digest
from dumpwriter.campaign.document import decode, encode
from dumpwriter.campaign.jobs import bench_of
from dumpwriter.campaign.store import Store
from dumpwriter.cli import campaign as command
from dumpwriter.lab import shard as shards
from dumpwriter.lab.campaign import Counts, run_cases
from dumpwriter.lab.faults import FaultKind
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.shard import Campaign, Judged, Part, Shard, apart, cut, judge, left_of, together
from dumpwriter.lab.world import build_world
from dumpwriter.verdict import Verdict
from tests.machines import COMMAND
from tests.mounting import wait_until
from vdisk.errors import CampaignError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Campaign("b" * 64, "zeros", 5)
THIRDS = [Part(0, 120), Part(120, 200), Part(200, 300)]
NOTHING = Counts((), 0, 0, 0, {}, {}, (), "00" * 32)


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def judged() -> dict[Part, Judged]:
    """Some parts of one campaign, each judged for itself."""
    bench = bench_of("zeros")
    parts = [Part(0, 300), Part(0, 120), Part(120, 200), Part(200, 300), Part(40, 80), Part(100, 130)]
    found = {part: judge(bench, Shard(HERE, part), never) for part in parts}
    return {part: one for part, one in found.items() if one is not None}


parts = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda drawn: Part(drawn[0], sum(drawn))))


@given(parts, st.integers(0, 60), st.integers(0, 60))
def test_what_is_left_is_what_nobody_judged(done: list[Part], first: int, cases: int) -> None:
    wanted = Part(first, first + cases)
    left = [number for part in left_of(wanted, done) for number in range(*part)]
    assert left == [number for number in range(*wanted) if not any(number in range(*part) for part in done)]


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)).map(lambda drawn: Part(*drawn)), max_size=3))
def test_shards_are_cut_where_every_command_cuts(wanted: list[Part]) -> None:
    pieces = list(cut(wanted))
    assert [number for part in pieces for number in range(*part)] == [n for part in wanted for n in range(*part)]
    inner = {part.end for part in pieces} - {part.end for part in wanted}
    assert all(border % shards.SHARD_CASES == 0 for border in inner)
    assert all(0 < part.end - part.first <= shards.SHARD_CASES for part in pieces)


def test_the_shards_find_together_what_one_run_finds(judged: dict[Part, Judged]) -> None:
    world = build_world(SCENARIOS["zeros"])
    whole = run_cases(world, [Recovery(world)], HERE.seed, range(300))
    for chosen in (
        [(0, 300)],
        [(200, 300), (0, 120), (120, 200)],
        [(0, 120), (0, 300), (40, 80), (0, 120)],
        [(100, 130), (0, 120), (120, 200), (200, 300)],
        [(0, 120), (100, 130), (200, 300), (0, 300)],
    ):
        total = together(HERE, [judged[Part(*part)] for part in chosen])
        assert (total.parts, total.counts.cases) == ((Part(0, 300),), 300)
        assert total.counts.verdict_digest == whole.verdict_digest
        assert total.counts.verdicts == whole.verdicts
        assert total.counts.faults == whole.faults


def test_parts_with_a_gap_between_them_stay_apart(judged: dict[Part, Judged]) -> None:
    total = together(HERE, [judged[Part(200, 300)], judged[Part(0, 120)]])
    assert total.parts == (Part(0, 120), Part(200, 300))
    assert together(HERE, []).parts == ()


def test_what_cannot_be_put_together_is_told(judged: dict[Part, Judged]) -> None:
    one = judged[Part(0, 120)]
    with pytest.raises(CampaignError, match=r"120 to 129 stand only in zeros-5-100-130-b.*--first 120 --cases 10"):
        together(HERE, [one, judged[Part(100, 130)]])


def failing(one: Judged) -> Judged:
    return one._replace(counts=one.counts._replace(wrong_bytes=4096, disagreements=3))


CONTRADICTIONS: dict[str, tuple[Part, dict[str, Any], list[Part]]] = {
    "another digest": (Part(0, 120), {"verdict_digest": "0" * 64}, [Part(0, 120)]),
    "another digest than its pieces": (Part(0, 300), {"verdict_digest": "0" * 64}, [Part(0, 120), *THIRDS[1:]]),
    "wrong bytes that are not in all of it": (Part(40, 80), {"wrong_bytes": 1}, [Part(0, 300)]),
    "strays that are in none of two": (Part(100, 130), {"strays": 1}, THIRDS),
    "disagreements that are not in its pieces": (Part(0, 300), {"disagreements": 1}, THIRDS),
    "fewer faults than in a piece of it": (Part(0, 120), {"faults": dict.fromkeys(FaultKind, 0)}, [Part(40, 80)]),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_shards_that_contradict_each_other_are_told_with_their_files(judged: dict[Part, Judged], case: str) -> None:
    part, change, others = CONTRADICTIONS[case]
    odd = judged[part]._replace(path="odd", counts=judged[part].counts._replace(**change))
    rest = [judged[other]._replace(path=f"other-{other.first}") for other in others]
    for some in itertools.permutations([odd, *rest]):
        with pytest.raises(CampaignError, match=r"other-\d+ .*tell of the same cases otherwise") as raised:
            together(HERE, some)
        assert "odd " in str(raised.value)


def test_what_fails_is_never_lost_in_what_holds(judged: dict[Part, Judged]) -> None:
    """Whichever of the shards failed, and whichever others there are: no whole of them holds."""
    for count in (1, 2, 3):
        for some in itertools.combinations(judged, count):
            for bad in some:
                with contextlib.suppress(CampaignError):
                    total = together(HERE, [failing(judged[part]) if part == bad else judged[part] for part in some])
                    assert not total.counts.holds, (some, bad)


def test_a_failing_shard_within_a_passing_one_is_told_with_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged: dict[Part, Judged]
) -> None:
    here = HERE._replace(build=build_digest())
    for name, one in (("there", judged[Part(0, 300)]), ("here", failing(judged[Part(0, 120)]))):
        (tmp_path / name).mkdir()
        Store(str(tmp_path / name)).save(one._replace(shard=Shard(here, one.shard.part)))
    assert cli.main(["lab", "merge", *map(str, tmp_path.iterdir())]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for path in tmp_path.glob("*/*.json"):
        assert str(path) in told
        path.rename(tmp_path / path.name)
    assert cli.main(["lab", *RUN, "--cases", "300", "--state", str(tmp_path)]) == 1
    assert "tell of the same cases otherwise" in capsys.readouterr().err


@given(parts)
def test_what_is_counted_is_apart_and_as_much_as_can_be(drawn: list[Part]) -> None:
    counted = [found.shard.part for found in apart([Judged(Shard(HERE, part), NOTHING) for part in drawn])]
    assert all(one.end <= other.first for one, other in itertools.pairwise(counted))
    assert set(counted) <= set(drawn)
    most = [0] * (max((part.end for part in drawn), default=0) + 1)  # cases up to each number
    for end in range(1, len(most)):
        most[end] = max(most[end - 1], *(most[part.first] + end - part.first for part in drawn if part.end == end), 0)
    assert sum(part.end - part.first for part in counted) == most[-1]


def test_a_shard_that_is_interrupted_is_a_smaller_one() -> None:
    asked = iter(range(100))
    part = judge(bench_of("zeros"), Shard(HERE, Part(10, 50)), lambda: next(asked) == 7)
    assert part is not None
    assert part.shard == Shard(HERE, Part(10, 17))
    assert judge(bench_of("zeros"), Shard(HERE, Part(10, 50)), lambda: True) is None


def test_a_shard_comes_back_from_its_document(judged: dict[Part, Judged]) -> None:
    for one in judged.values():
        assert decode(encode(one)) == one


def test_no_damage_to_a_document_passes(judged: dict[Part, Judged]) -> None:
    content = encode(judged[Part(40, 80)])
    for place in range(len(content)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
            with contextlib.suppress(FormatError):
                assert decode(damaged) == judged[Part(40, 80)], place  # a blank, perhaps


@pytest.mark.parametrize(
    "change", [{"first": -1}, {"end": 5}, {"verdicts": {}}, {"version": 2}, {"verdict_digest": "x"}, {"readers": 3}]
)
def test_what_only_looks_like_a_shard_is_none(judged: dict[Part, Judged], change: dict[str, Any]) -> None:
    from dumpwriter.campaign.document import _checksum

    document = json.loads(encode(judged[Part(40, 80)])) | change
    del document["checksum"]
    with pytest.raises(FormatError):
        decode(json.dumps(document | {"checksum": _checksum(document)}).encode())


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_no_content_of_a_file_does_more_than_be_refused(content: bytes) -> None:
    with pytest.raises(FormatError):
        decode(content)


def test_the_build_is_told_by_all_sources_that_decide_what_is_found() -> None:
    """By what a process that judges has loaded; the command line is none of it."""
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True, cwd="/"
    ).stdout.split()
    covered = {str(path) for pattern in SOURCES for path in ROOT.glob(pattern)}
    assert len(loaded) > 50
    assert {name for name in loaded if not name.endswith("__init__.py")} <= covered
    assert build_digest() == build_digest()


LOADED = """
import sys, dumpwriter.campaign.jobs
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ("dumpwriter", "vdisk")))
"""


def test_jobs_find_the_same_as_one_process() -> None:
    alone, side_by_side = (json.loads(run_alone("--cases", "7000", "--jobs", jobs, "--json")) for jobs in ("1", "4"))
    for document in (alone, side_by_side):
        del document["seconds"]
    assert alone == side_by_side
    assert alone["cases"] == alone["judged_now"] == 7000


def run_alone(*arguments: str) -> str:
    return subprocess.run([COMMAND, "lab", *RUN, *arguments], check=True, capture_output=True, text=True).stdout


def lab(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert cli.main(["lab", *arguments, "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.fixture
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_CASES", 100)


RUN = ("run", "zeros", "--seed", "5")


@pytest.mark.usefixtures("_small_shards")
def test_what_was_judged_is_not_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "campaign"
    kept = ("--state", str(state))
    whole = lab(capsys, *RUN, "--cases", "450")
    assert lab(capsys, *RUN, "--cases", "130", *kept)["judged_now"] == 130
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}
    resumed = lab(capsys, *RUN, "--cases", "450", *kept)
    assert resumed["judged_now"] == 320
    assert resumed["verdict_digest"] == whole["verdict_digest"]
    assert lab(capsys, *RUN, "--cases", "450", *kept)["judged_now"] == 0
    merged = lab(capsys, "merge", str(state))
    assert (merged["cases"], merged["campaigns"][0]["verdict_digest"]) == (450, whole["verdict_digest"])


@pytest.mark.usefixtures("_small_shards")
def test_only_what_is_missing_is_judged_however_it_was_cut_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("--state", str(tmp_path))
    assert lab(capsys, *RUN, "--first", "150", "--cases", "200", *kept)["judged_now"] == 200
    monkeypatch.setattr(shards, "SHARD_CASES", 70)
    within = lab(capsys, *RUN, "--first", "160", "--cases", "20", *kept)
    assert (within["judged_now"], within["parts"]) == (0, [{"first": 150, "end": 200}])
    wider = lab(capsys, *RUN, "--first", "50", "--cases", "275", *kept)
    assert (wider["judged_now"], wider["parts"]) == (100, [{"first": 50, "end": 350}])
    assert wider["verdict_digest"] == lab(capsys, *RUN, "--first", "50", "--cases", "300")["verdict_digest"]
    assert lab(capsys, "merge", str(tmp_path))["cases"] == 300


@pytest.mark.usefixtures("_small_shards")
def test_cases_that_only_an_overlapping_shard_has_are_judged_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged: dict[Part, Judged]
) -> None:
    store, here = Store(str(tmp_path)), HERE._replace(build=build_digest())
    for part in (Part(0, 120), Part(100, 130)):
        store.save(Judged(Shard(here, part), judged[part].counts))
    assert cli.main(["lab", "merge", str(tmp_path)]) == 1
    assert "--first 120 --cases 10" in capsys.readouterr().err
    assert lab(capsys, *RUN, "--cases", "130", "--state", str(tmp_path))["judged_now"] == 10
    assert lab(capsys, "merge", str(tmp_path))["cases"] == 130


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--state", ""), 2, "--state is empty"),
        (("--state", "{tmp}/none/campaign"), 1, "{tmp}/none/campaign cannot be made: make {tmp}/none first"),
        (("--state", "{tmp}/file"), 1, "{tmp}/file is no directory"),
        (("--first", str((1 << 63) - 1), "--cases", "2"), 2, "up to 9223372036854775807"),
        (("--first", str(1 << 63)), 2, "9223372036854775808 is more than 9223372036854775807"),
        (("--seed", "-1"), 2, "'-1' is not a number from 0 on"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["lab", *RUN, *(word.format(tmp=tmp_path) for word in arguments)]) == code
    err = capsys.readouterr().err
    assert told.format(tmp=tmp_path) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_shard_that_cannot_be_kept_is_told_with_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The host refuses to write it; or something stands under its name that no file replaces."""
    kept = [COMMAND, "lab", *RUN, "--cases", "1", "--state", str(tmp_path)]
    refused = subprocess.run(["prlimit", "--fsize=100", *kept], capture_output=True, text=True, check=False)
    path = tmp_path / Shard(HERE._replace(build=build_digest()), Part(0, 1)).file_name
    assert (refused.returncode, refused.stderr.count("\n"), os.listdir(tmp_path)) == (1, 1, [])
    assert f"{path} cannot be kept: File too large: " in refused.stderr
    found = judge(bench_of("zeros"), Shard(HERE._replace(build=build_digest()), Part(0, 1)), never)
    assert found is not None
    (path / "in").mkdir(parents=True)
    with pytest.raises(CampaignError, match=rf"{path} cannot be kept: Is a directory"):
        Store(str(tmp_path)).save(found)
    assert os.listdir(tmp_path) == [path.name]
    assert cli.main(["lab", "merge", str(tmp_path)]) == 1
    assert f"{path} is no file" in capsys.readouterr().err


@pytest.mark.usefixtures("_small_shards")
def test_another_build_judges_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (*RUN, "--cases", "100", "--state", str(tmp_path))
    lab(capsys, *kept)
    monkeypatch.setattr(command, "build_digest", lambda: "f" * 64)
    assert lab(capsys, *kept)["judged_now"] == 100
    assert [found["cases"] for found in lab(capsys, "merge", str(tmp_path))["campaigns"]] == [100, 100]


@pytest.mark.usefixtures("_small_shards")
def test_a_damaged_file_is_told_of_and_its_cases_are_judged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (*RUN, "--cases", "200", "--state", str(tmp_path))
    whole = lab(capsys, *kept)
    first, second = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes().replace(b'"wrong_bytes": 0', b'"wrong_bytes": 1'))
    second.unlink()
    os.mkfifo(second)
    assert cli.main(["lab", "merge", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{first} is no shard of a campaign, or was damaged: judge it again" in told
    assert cli.main(["lab", *kept]) == 0
    told = capsys.readouterr().err
    assert told.count("set aside as") == told.count("\n") == 2
    assert lab(capsys, *kept)["verdict_digest"] == whole["verdict_digest"]
    assert lab(capsys, "merge", str(tmp_path))["cases"] == 200


def test_a_directory_without_shards_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for directory in (tmp_path, tmp_path / "elsewhere"):
        assert cli.main(["lab", "merge", str(directory)]) == 1
        assert str(directory) in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    assert cli.main(["lab", "merge", str(tmp_path)]) == 1
    assert "a.json is no shard" in capsys.readouterr().err


def interrupting_at(cases: int) -> Callable[[str], object]:
    """Stands for the progress bar, and for somebody who presses Ctrl-C."""

    @contextlib.contextmanager
    def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
        yield lambda done, total, said: signal.raise_signal(signal.SIGINT) if done >= cases else None

    return progress_bar


@pytest.mark.usefixtures("_small_shards")
def test_an_interrupted_campaign_tells_what_it_has_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lab(capsys, *RUN, "--cases", "800")
    with monkeypatch.context() as patch:
        patch.setattr(command, "progress_bar", interrupting_at(200))
        begun = lab(capsys, *RUN, "--cases", "800", code=130)
    assert 200 <= begun["cases"] < 800
    assert begun["left"]
    rest = [lab(capsys, *RUN, *(f"--{name}={value}" for name, value in left.items())) for left in begun["left"]]
    assert sum(part["cases"] for part in (begun, *rest)) == 800
    for verdict in Verdict:
        assert sum(part["verdicts"][verdict] for part in (begun, *rest)) == whole["verdicts"][verdict]


def started(state: Path) -> subprocess.Popen[str]:
    """A campaign of two jobs that nobody would wait for, when it has kept something."""
    words = [*RUN, "--cases", "100000000", "--jobs", "2", "--state", str(state)]
    process = subprocess.Popen(
        [COMMAND, "lab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: any(state.glob("*.json")), "the first shard is kept")
    return process


@pytest.mark.parametrize(
    ("tell", "ending"), [(os.killpg, signal.SIGINT), (os.killpg, signal.SIGTERM), (os.kill, signal.SIGTERM)]
)
def test_who_ends_it_ends_all_jobs_and_keeps_what_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tell: Callable[[int, int], None], ending: int
) -> None:
    """At a terminal Ctrl-C reaches every process; who runs it as a batch may tell all of them, or the first alone."""
    state = tmp_path / "campaign"
    process = started(state)
    tell(process.pid, ending)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "left: --first" in out
    merged = lab(capsys, "merge", str(state))
    (found,) = merged["campaigns"]
    assert found["verdict_digest"] in out
    assert not list(state.glob(".*")), "no file is left half-written"


def jobs_of(process: subprocess.Popen[str]) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return []


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_while_jobs_are_being_started_is_an_interrupt_too(jobs: int) -> None:
    words = [COMMAND, "lab", *RUN, "--cases", "100000000", "--jobs", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            wait_until(lambda: len(jobs_of(process)) >= jobs, "the job is started")
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "")
    assert "left: --first" in out


def test_a_job_that_is_killed_ends_it_in_one_line(tmp_path: Path) -> None:
    process = started(tmp_path / "campaign")
    os.kill(jobs_of(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "a job came to a sudden end" in err


def test_a_program_is_told_what_the_host_refused(tmp_path: Path) -> None:
    arguments = [COMMAND, "lab", "merge", str(tmp_path / "nothing"), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    assert (done.returncode, said["exit_code"]) == (1, 1)
    assert said["error"].endswith("nothing: No such file or directory")
