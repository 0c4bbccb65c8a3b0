"""The filesystem under the laboratory: every write cut, reordered and torn, within bounds, and judged by e2fsck."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter import cli
from dumpwriter.lab.bounds import Bounds
from dumpwriter.lab.exploration import Certificate, explore
from dumpwriter.lab.filesystem import read_tree, record, used_disk
from dumpwriter.lab.filesystemproof import FilesystemExperiment, by_e2fsck, shrunk
from dumpwriter.lab.script import PATHS, SCRIPTS, SIZES, VERBS, Operation, describe, parse
from dumpwriter.machine.replay import replay
from vdisk.blockdevice import Layer
from vdisk.errors import GhostdumpError
from vdisk.ext4 import journal
from vdisk.ext4.committer import Committer
from vdisk.ext4.filesystem import needs_check
from vdisk.ext4.journal import TransactionEncoder
from vdisk.ext4.log import Log
from vdisk.ext4.superblock import Superblock
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.lab.tree import Tree

SMALL = Bounds(exhaustive=4, tears=2, random=1)
LARGE = Bounds(exhaustive=2048, tears=64, random=64)


@pytest.fixture(autouse=True, scope="module")
def _disk_is_made_before_a_fault_is_planted() -> None:
    used_disk()


def explored(script: str, bounds: Bounds, seed: int = 0) -> Certificate:
    return explore(FilesystemExperiment(script), seed, bounds, lambda done, total: None)


@pytest.mark.parametrize("script", ["files", "names", "orphans", "decoys"])
def test_a_cut_at_any_write_of_a_script_leaves_what_was_synced(script: str) -> None:
    certificate = explored(script, SMALL)
    assert certificate.holds, certificate.examples
    assert certificate.states == certificate.states_expected > 40
    assert certificate.verdicts["as synced"] > certificate.verdicts["further than synced"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_within_large_bounds(script: str) -> None:
    certificate = explored(script, LARGE)
    assert certificate.holds, certificate.examples
    assert certificate.states > 300


operations = st.sampled_from(sorted(VERBS)).flatmap(
    lambda verb: st.builds(
        Operation,
        st.just(verb),
        st.tuples(*[st.sampled_from(PATHS)] * VERBS[verb].paths),
        st.tuples(*[st.sampled_from(SIZES)] * VERBS[verb].numbers),
    )
)
FIRST = parse("mkdir d; mkdir d/e; write d/a 0 5000")
scripts = st.lists(operations, min_size=3, max_size=12).map(lambda made: describe((*FIRST, *made, Operation("sync"))))


@settings(max_examples=8, derandomize=True, deadline=None, database=None)
@given(scripts)
def test_no_script_is_left_in_a_state_that_was_not_promised(script: str) -> None:
    certificate = explored(script, Bounds(exhaustive=0, tears=0, random=1))
    assert certificate.holds, certificate.examples


@pytest.mark.slow
@settings(max_examples=300, deadline=None, database=None)
@given(scripts)
def test_many_scripts(script: str) -> None:
    certificate = explored(script, SMALL)
    assert certificate.holds, certificate.examples


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(scripts)
def test_the_tree_is_what_the_filesystem_holds_when_nothing_goes_wrong(script: str) -> None:
    history = record(parse(script + "; reopen"))
    disk = bytearray(history.before)
    for event in history.trace:
        disk[event.offset_bytes : event.offset_bytes + event.length_bytes] = event.content
    found, expected = read_tree(bytes(disk)), history.moments[-1]
    assert found.shape() == expected.shape()
    assert {path: found.node(path) for path in found.names} == {path: expected.node(path) for path in found.names}


def commit_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Committer, "sync", lambda self: None)
    patch.setattr("vdisk.ext4.filesystem.Ext4Filesystem.commit", lambda self: None)


def empty_the_journal_before_its_blocks_are_home(patch: pytest.MonkeyPatch) -> None:
    checkpoint = Committer.checkpoint

    def early(self: Committer) -> None:
        if self._log.is_open:
            self._log.empty()
        checkpoint(self)

    patch.setattr(Committer, "checkpoint", early)


def forget_to_say_that_there_is_a_journal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Superblock, "write_recover_flag", lambda self, recover: None)


class Unflushed(Layer):
    def flush(self) -> None:
        pass


def commit_without_a_flush_before_the_commit_block(patch: pytest.MonkeyPatch) -> None:
    append = Log.append

    def in_one(self: Log, numbers: list[int], content: bytearray) -> None:
        device = self._device
        self._device = Unflushed(device)
        append(self, numbers, content)
        self._device = device
        device.flush()

    patch.setattr(Log, "append", in_one)


def empty_the_journal_without_a_flush_before(patch: pytest.MonkeyPatch) -> None:
    checkpoint = Committer.checkpoint

    def unflushed(self: Committer) -> None:
        device = self._volume.device
        self._volume.device = Unflushed(device)
        checkpoint(self)
        self._volume.device = device

    patch.setattr(Committer, "checkpoint", unflushed)


def tell_e2fsck_of_other_blocks(patch: pytest.MonkeyPatch) -> None:
    body = TransactionEncoder.body

    def shifted(self: TransactionEncoder, numbers: list[int], content: memoryview) -> bytearray:
        return body(self, [*numbers[1:], numbers[0]], content)

    patch.setattr(TransactionEncoder, "body", shifted)


def leave_out_that_a_block_is_escaped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "TAG_ESCAPED", 0)


SYNCED_TWICE = "write a 0 5000; sync; mkdir d; rename a d/a; sync"


@pytest.mark.parametrize(
    ("plant", "script", "verdict"),
    [
        (commit_nothing, SYNCED_TWICE, "lost"),
        (empty_the_journal_before_its_blocks_are_home, f"{SYNCED_TWICE}; reopen", "broken"),
        (forget_to_say_that_there_is_a_journal, SYNCED_TWICE, "broken"),
        (commit_without_a_flush_before_the_commit_block, SYNCED_TWICE, "mixed"),
        (tell_e2fsck_of_other_blocks, SYNCED_TWICE, "broken"),
        (leave_out_that_a_block_is_escaped, "decoys", "broken"),
        (empty_the_journal_without_a_flush_before, "files", "broken"),  # the script that is the default
    ],
)
def test_a_fault_in_the_filesystem_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], script: str, verdict: str
) -> None:
    plant(monkeypatch)
    certificate = explored(script, SMALL)
    assert not certificate.holds
    assert certificate.verdicts[verdict], certificate.verdicts


def by_a_boot(content: bytearray) -> Tree | str:
    """As a machine does it: e2fsck through the drivers, its repairs as one transaction."""
    disk = MemoryDisk(len(content), bytes(content))
    try:
        trio.run(replay, disk, lambda *_: None)
        assert not needs_check(disk)
    except GhostdumpError as refusal:
        return str(refusal)
    return by_e2fsck(disk.content)


def judged_by_a_boot(script: str, bounds: Bounds) -> Certificate:
    return explore(FilesystemExperiment(script, by_a_boot), 0, bounds, lambda done, total: None)


def test_a_boot_repairs_what_is_left_as_e2fsck_does() -> None:
    script = "write a 0 9000; sync; rename a b; hold b; unlink b; sync"
    certificate = judged_by_a_boot(script, Bounds(exhaustive=0, tears=0, random=0))
    assert certificate.holds, certificate.examples
    assert certificate.verdict_digest == explored(script, Bounds(exhaustive=0, tears=0, random=0)).verdict_digest


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_boot_repairs_what_is_left_of_every_script(script: str) -> None:
    certificate = judged_by_a_boot(script, SMALL)
    assert certificate.holds, certificate.examples


def test_the_command_prints_a_certificate_that_is_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "lab",
        "filesystem",
        "drawn",
        "--seed",
        "7",
        "--exhaustive",
        "2",
        "--tears",
        "0",
        "--random",
        "1",
        "--json",
    ]
    told = []
    for _ in range(2):
        assert cli.main(arguments) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert told[0]["count"] == told[0]["expected_count"]


def test_a_state_that_fails_is_replayed_by_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit_nothing(monkeypatch)
    script = "write a 0 5000; sync"
    assert cli.main(["lab", "filesystem", script, "--tears", "0", "--random", "0"]) == 1
    told = capsys.readouterr().out
    assert "lost: a is gone, and it was synced" in told
    assert f"ghostdump lab filesystem --case '{script}:0:0'" in told
    assert cli.main(["lab", "filesystem", "--case", f"{script}:0:0"]) == 1
    assert "lost: a is gone" in capsys.readouterr().out
    monkeypatch.undo()
    assert cli.main(["lab", "filesystem", "--case", f"{script}:0:0"]) == 0
    assert "as synced" in capsys.readouterr().out


def test_shrinking_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    commit_nothing(monkeypatch)
    told: list[tuple[int, int]] = []
    assert shrunk("mkdir d; sync; rmdir d", 0, Bounds(0, 0, 0), lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert {(0, 3), (1, 3), (2, 3)} == set(told)


@pytest.mark.parametrize("script", ["", " "])
def test_an_empty_script_is_refused(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "filesystem", script]) == 2
    assert "the script is empty" in capsys.readouterr().err


def test_a_name_that_is_mistyped_is_answered_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "filesystem", "nmaes"]) == 2
    assert "files, names, directories" in capsys.readouterr().err


def test_a_script_that_fails_is_shrunk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commit_nothing(monkeypatch)
    script = "mkdir d; create d/a; link d/a b; sync; unlink b"
    bounds = ["--exhaustive", "0", "--tears", "0", "--random", "0"]
    assert cli.main(["lab", "filesystem", script, "--shrink", *bounds]) == 0
    assert capsys.readouterr().out == "ghostdump lab filesystem --case 'mkdir d; sync:0:0'\n"
    monkeypatch.undo()
    assert cli.main(["lab", "filesystem", script, "--shrink", *bounds]) == 2
    assert "nothing to shrink" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["write a"], "'write a' is not an operation"),
        (["write a 0 x"], "'x' is not a number"),
        (["create ../a"], "'../a' is not a path for a script"),
        (["--case", "files:0"], "is not a case"),
        (["--case", "files:0:ffff"], "no such writes in flight"),
        (["--case", "files:0:1:1:1"], "no such writes in flight"),
    ],
)
def test_what_a_user_gets_wrong_is_told_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lab", "filesystem", *arguments]) == 2
    assert said in capsys.readouterr().err
