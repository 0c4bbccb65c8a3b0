"""Recovery cut at each of its writes, and run again: the dump comes out whole, once, and the filesystem is clean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from dumpwriter import cli
from dumpwriter.cli.labarguments import RECOVERIES
from dumpwriter.lab.bounds import Bounds, bounded_cuts
from dumpwriter.lab.chance import CaseKey
from dumpwriter.lab.crasheddisk import FILESYSTEM_SIZE_BYTES, memory_of
from dumpwriter.lab.exploration import explore, spans, state_of
from dumpwriter.lab.interruption import PROCEDURES, RecoveryExperiment, replay_by_e2fsck
from dumpwriter.machine import replay as machine_replay
from dumpwriter.machine.lastdump import LastDumps
from dumpwriter.recovery import extraction
from dumpwriter.recovery.diskstore import DiskStore
from tests.builders.elf_reader import ElfCoreFile
from vdisk.bootarea import RegionState
from vdisk.ext4.filesystem import Ext4Filesystem
from vdisk.ext4.mkfs import check_filesystem
from vdisk.mount.export import exported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.lab.exploration import Certificate
    from dumpwriter.recovery.places import Place
    from dumpwriter.recovery.retention import Retention
    from vdisk.blockdevice import BlockDevice

SMALL = Bounds(exhaustive=0, tears=0, random=0)
KEY = CaseKey("recovery", 0, 0)
LARGE = Bounds(exhaustive=128, tears=24, random=48)


def explored(experiment: RecoveryExperiment, bounds: Bounds) -> Certificate:
    return explore(experiment, 0, bounds, lambda done, total: None)


def outcomes(experiment: RecoveryExperiment) -> Iterator[str]:
    """One after the other: whoever waits for a certain one need not wait for all."""
    for span in spans(experiment):
        for cut in bounded_cuts(span.epoch, SMALL, KEY):
            yield experiment.judge(span, state_of(span, cut)).verdict


def fail(request: str, failure: Exception) -> None:
    raise AssertionError(f"{request}: {failure!r}")


def replay(device: BlockDevice) -> None:
    """As a machine does it at its boot: e2fsck through the drivers."""
    trio.run(machine_replay.replay, device, fail)


def loads_of(vmcore: bytes) -> Iterator[tuple[int, bytes]]:
    for load in ElfCoreFile(vmcore).loads:
        yield load.physical, vmcore[load.offset : load.offset + load.in_file]


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_the_undisturbed_copies_are_of_the_memory(procedure: str) -> None:
    copies = RecoveryExperiment(procedure, replay_by_e2fsck).copies
    assert len(copies) == 1 + (procedure == "several")
    for generation, vmcore in enumerate(copies, start=1):
        memory, loads = memory_of(generation), list(loads_of(vmcore))
        assert all(memory[place:].startswith(content) for place, content in loads)
        is_whole = sum(len(content) for _, content in loads) == len(memory)
        assert is_whole == (procedure != "partial")


@pytest.mark.parametrize("procedure", ["boot", pytest.param("image", marks=pytest.mark.slow)])
def test_a_recovery_that_is_cut_at_any_write_is_made_up_for_by_the_next(procedure: str) -> None:
    certificate = explored(RecoveryExperiment(procedure, replay), SMALL)
    assert certificate.holds, certificate.examples
    for way in ("copied out", "found a whole copy", "was told that it is taken"):
        assert certificate.verdicts[way] > 2
    assert certificate.states == certificate.states_expected > 150


@pytest.mark.slow
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_cut_recovery_within_large_bounds(procedure: str) -> None:
    certificate = explored(RecoveryExperiment(procedure, replay), LARGE)
    assert certificate.holds, certificate.examples
    assert certificate.states > 800


def test_the_boot_record_is_written_alone() -> None:
    """So it does not matter that a write through is taken for a write and a flush of all."""
    for span in spans(RecoveryExperiment("boot", replay_by_e2fsck)):
        if any(write.offset_bytes >= FILESYSTEM_SIZE_BYTES for write in span.epoch.writes):
            assert len(span.epoch.writes) == 1


def test_the_commands_know_every_procedure() -> None:
    assert tuple(PROCEDURES) == RECOVERIES


def mark_before_the_copy(patch: pytest.MonkeyPatch) -> None:
    take_out = LastDumps._take_out

    def early(self: LastDumps, place: Place, retention: Retention, progress: Callable[[int, int], None]) -> None:
        self._mark(place, RegionState.TAKEN)
        take_out(self, place, retention, progress)

    patch.setattr(LastDumps, "_take_out", early)


def mark_before_the_copy_is_durable(patch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "commit"):
        patch.setattr(Ext4Filesystem, name, lambda *_: None)


def copy_what_is_there_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(extraction, "_already_there", lambda *_: None)


def leave_what_was_not_finished(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DiskStore, "abandon", lambda self: self._files.clear())


@pytest.mark.parametrize(
    ("plant", "outcome"),
    [
        (mark_before_the_copy, "lost"),
        (mark_before_the_copy_is_durable, "lost"),
        (copy_what_is_there_again, "twice"),
        pytest.param(leave_what_was_not_finished, "broken", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_recovery_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], outcome: str
) -> None:
    plant(monkeypatch)
    assert outcome in outcomes(RecoveryExperiment("boot", replay_by_e2fsck))


def test_a_replay_without_its_layer_is_found() -> None:
    """e2fsck writes the superblock in pieces, and orphans one by one."""

    async def bare(device: BlockDevice) -> None:
        async with exported(device, fail) as path:
            await trio.to_thread.run_sync(check_filesystem, path)

    assert "broken" in outcomes(RecoveryExperiment("boot", lambda device: trio.run(bare, device)))


def test_the_command_says_what_was_cut_and_replays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "recovery", "--case", "boot:2:0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "copied out"
    assert cli.main(["lab", "recovery", "--case", "files:2:0"]) == 2
    assert "begins with one of" in capsys.readouterr().err
