"""Writers of others in the laboratory: the how-to page as it is printed, and what a trial finds and refuses."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.lab.trial import Trial
from tests.sources import REPOSITORY
from vdisk.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vdisk.blockdevice import BlockDevice

PAGE = (REPOSITORY / "docs" / "own-writer.md").read_text()
STORE, TEST_STORE, REPLAY, MENDED_LINE, BUDGET, RECORDED = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(MESSAGE,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
MENDED_STORE = STORE.replace("        disk.write_from(0, encode(version))\n", MENDED_LINE)
SECTOR = 512
SIZE_BYTES = 4096


def namespace_of(*sources: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    for source in sources:
        exec(source, namespace)
    return namespace


class TestThePage:
    def pytest_says(self, directory: Path, store: str) -> tuple[int, list[str]]:
        (directory / "store.py").write_text(store)
        (directory / "test_store.py").write_text(TEST_STORE)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_store.py"]
        finished = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        return finished.returncode, [line.removeprefix("E").strip() for line in finished.stdout.splitlines()]

    def test_the_fault_of_the_example_is_found_and_told_as_printed(self, tmp_path: Path) -> None:
        code, lines = self.pytest_says(tmp_path, STORE)
        printed = [line.strip() for line in MESSAGE.splitlines()]
        assert "\n".join(["AssertionError: " + printed[0], *printed[1:]]) in "\n".join(lines)
        assert code == 1
        with pytest.raises(AssertionError) as raised:
            exec(REPLAY, namespace_of(STORE) | {"Trial": Trial})
        assert str(raised.value) == MESSAGE.rstrip()

    def test_the_mended_example_passes(self, tmp_path: Path) -> None:
        assert MENDED_STORE != STORE
        assert self.pytest_says(tmp_path, MENDED_STORE)[0] == 0

    def test_the_wider_budget_is_not_kept_by_the_mended_example(self) -> None:
        trial = namespace_of(MENDED_STORE, BUDGET)["trial"]
        with pytest.raises(AssertionError, match="late write"):
            trial.run(seed=1, cases=1000)

    def test_a_recording_of_another_language_is_played(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        content = base64.b64encode(b"x" * 2 * SECTOR).decode()
        operations = [{"write": 0, "content": content}, {"flush": True}, {"promise": 1}]
        (tmp_path / "recording.jsonl").write_text("\n".join(map(json.dumps, operations)))
        reader = tmp_path / "reader"
        reader.write_text('#!/bin/sh\n[ -z "$2" ] || [ "$(head -c 1024 "$1" | tr -d x)" = "" ]\n')
        reader.chmod(0o700)
        recorded = namespace_of(RECORDED)
        assert Trial(recorded["write"], recorded["check"], SIZE_BYTES).prove() == 4
        reader.write_text("#!/bin/sh\necho it is lost >&2; exit 1\n")
        with pytest.raises(AssertionError, match="it is lost"):
            Trial(recorded["write"], recorded["check"], SIZE_BYTES).prove()


def counts(disk: BlockDevice, promised: tuple[object, ...]) -> None:
    """Sector by sector, each full of its number from 1 on. What is anything else is not there."""
    found = [number for number in (1, 2, 3) if disk.read((number - 1) * SECTOR, SECTOR) == bytes([number]) * SECTOR]
    lost = [number for number in promised if number not in found]
    if lost:
        raise AssertionError(f"{lost} lost")


def count(disk: BlockDevice, promise: Callable[[object], None]) -> None:
    for number in (1, 2, 3):
        disk.write_from((number - 1) * SECTOR, bytes([number]) * SECTOR)
        disk.flush()
        promise(number)


def count_without_flushes(disk: BlockDevice, promise: Callable[[object], None]) -> None:
    for number in (1, 2, 3):
        disk.write_from((number - 1) * SECTOR, bytes([number]) * SECTOR)
        promise(number)


def count_and_promise_too_early(disk: BlockDevice, promise: Callable[[object], None]) -> None:
    for number in (1, 2, 3):
        disk.write_from((number - 1) * SECTOR, bytes([number]) * SECTOR)
        promise(number)
        disk.flush()


def count_and_do_not_listen(disk: BlockDevice, promise: Callable[[object], None]) -> None:
    for number in (1, 2, 3):
        with contextlib.suppress(DeviceError):
            disk.write_through((number - 1) * SECTOR, bytes([number]) * SECTOR)
        promise(number)


def discard_what_was_promised(disk: BlockDevice, promise: Callable[[object], None]) -> None:
    count(disk, promise)
    disk.discard(0, SECTOR)


def test_a_writer_that_keeps_its_promises_passes() -> None:
    trial = Trial(count, counts, 3 * SECTOR)
    assert trial.prove() == 3 * 2 + 1
    trial.run(seed=1, cases=500)


@pytest.mark.parametrize("write", [count_without_flushes, count_and_promise_too_early, discard_what_was_promised])
def test_what_a_cut_shows_is_found_by_both(write: Any) -> None:
    trial = Trial(write, counts, 3 * SECTOR)
    with pytest.raises(AssertionError, match="lost"):
        trial.prove()
    with pytest.raises(AssertionError, match="lost"):
        trial.run(seed=1, cases=500)


def test_a_writer_that_does_not_listen_to_its_disk_is_found() -> None:
    trial = Trial(count_and_do_not_listen, counts, 3 * SECTOR)
    assert trial.prove()
    with pytest.raises(AssertionError, match=r"(failed|short)") as raised:
        trial.run(seed=1, cases=500)
    assert "+" not in str(raised.value).splitlines()[-1], "one fault is enough"


def test_a_writer_that_tries_again_for_ever_is_found() -> None:
    def write(disk: BlockDevice, promise: Callable[[object], None]) -> None:
        for number in (1, 2, 3):
            while True:
                with contextlib.suppress(Exception):
                    disk.write_through((number - 1) * SECTOR, bytes([number]) * SECTOR)
                    break
            promise(number)

    with pytest.raises(AssertionError, match="tries again for ever") as raised:
        Trial(write, counts, 3 * SECTOR).run(seed=1, cases=500)
    assert "+" not in str(raised.value).splitlines()[-1], "one fault is enough"


def test_a_writer_that_tries_again_a_few_times_passes() -> None:
    def write(disk: BlockDevice, promise: Callable[[object], None]) -> None:
        for number in (1, 2, 3):
            for _ in range(10):
                with contextlib.suppress(DeviceError):
                    disk.write_through((number - 1) * SECTOR, bytes([number]) * SECTOR)
                    break
            else:
                return
            promise(number)

    Trial(write, counts, 3 * SECTOR).run(seed=1, cases=500)


def test_a_reader_that_trusts_the_disk_is_found_and_its_exception_told() -> None:
    def check(disk: BlockDevice, promised: tuple[object, ...]) -> None:
        assert {0: "none", 1: "one"}[disk.read(0, SECTOR)[0]]

    with pytest.raises(AssertionError, match=r"^KeyError: \d+\n") as raised:
        Trial(count, check, 3 * SECTOR).run(seed=1, cases=500)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_writer_that_breaks_under_a_failure_is_found() -> None:
    def write(disk: BlockDevice, promise: Callable[[object], None]) -> None:
        try:
            count(disk, promise)
        except DeviceError as failure:
            raise NotImplementedError("what now?") from failure

    with pytest.raises(AssertionError, match="NotImplementedError: what now"):
        Trial(write, counts, 3 * SECTOR).run(seed=1, cases=500)


def test_a_case_is_the_same_whenever_it_is_run() -> None:
    def message(attempt: Callable[[Trial], object]) -> str:
        with pytest.raises(AssertionError) as raised:
            attempt(Trial(count_without_flushes, counts, 3 * SECTOR))
        return str(raised.value)

    first, second = (message(lambda trial: trial.run(seed=7, cases=500)) for _ in range(2))
    line = re.search(r"replay\('(.*)'\)", first)
    assert first == second
    assert line
    assert message(lambda trial: trial.replay(line[1])) == first


def test_every_state_is_checked_once_and_on_a_disk_of_its_own() -> None:
    seen = []

    def check(disk: BlockDevice, promised: tuple[object, ...]) -> None:
        seen.append((disk.read(0, 3 * SECTOR), promised))
        disk.write_from(0, b"?" * 3 * SECTOR)

    states = Trial(count, check, 3 * SECTOR).prove()
    assert len(seen) == states
    kept = [promised for _, promised in seen]
    assert kept == sorted(kept, key=len)
    assert {content[::SECTOR] for content, _ in seen} == {b"\0\0\0", b"\1\0\0", b"\1\2\0", b"\1\2\3"}


def test_a_write_of_nothing_is_none() -> None:
    def write(disk: BlockDevice, promise: Callable[[object], None]) -> None:
        disk.write_from(0, b"")
        disk.write_from(0, b"x" * 512)
        disk.flush()
        promise(1)

    trial = Trial(write, lambda disk, promised: None, size_bytes=4096)
    assert trial.prove() == 3
    trial.run(seed=1, cases=200)


def test_what_cannot_be_tried_is_refused() -> None:
    numbers = itertools.count()

    def never_the_same(disk: BlockDevice, promise: object) -> None:
        disk.write_from(0, bytes([next(numbers)]) * SECTOR)

    def too_many_in_flight(disk: BlockDevice, promise: object) -> None:
        for number in range(24):
            disk.write_from(number * SECTOR, b"x" * SECTOR)

    with pytest.raises(UsageError, match="wrote nothing"):
        Trial(lambda disk, promise: None, counts, SIZE_BYTES)
    with pytest.raises(UsageError, match="something else"):
        Trial(never_the_same, counts, SIZE_BYTES)
    with pytest.raises(UsageError, match="24 writes in flight leave 16777216 states"):
        Trial(too_many_in_flight, counts, 24 * SECTOR).prove()
    for size_bytes, before in ((1000, b""), (0, b""), (-SECTOR, b""), (SECTOR, bytes(SECTOR + 1))):
        with pytest.raises(UsageError, match=f"size_bytes is {size_bytes}: give whole sectors"):
            Trial(count, counts, size_bytes, before)
    for cases in (0, -1):
        with pytest.raises(UsageError, match=f"run\\(\\) with {cases} cases tries nothing"):
            Trial(count, counts, SIZE_BYTES).run(seed=1, cases=cases)
    for line, reason in (
        ("nonsense", "is no KIND,OPERATION"),
        ("power-cut,1", "is no KIND,OPERATION"),
        ("bit-rot,0,512000,0,1", "leave the disk, which has 4096"),
        ("power-cut,7,0,0,0", "there is no operation 7"),
        ("failed-operation,6,0,0,0", "there is no operation 6"),
        ("torn-write,1,0,512,0", "there is no operation 1 for a fault of the kind torn write"),
        ("moved-extent,0,0,0,0", "there is no extent 0"),
    ):
        with pytest.raises(UsageError, match=f"no case of this writer: .*{reason}"):
            Trial(count, counts, SIZE_BYTES).replay(line)


def answering(answer: object) -> Callable[[BlockDevice, tuple[object, ...]], object]:
    return lambda disk, promised: answer


def test_a_check_that_returns_what_it_finds_is_understood_or_refused() -> None:
    def is_zero(disk: BlockDevice, promised: tuple[object, ...]) -> bool:
        return not any(disk.read(0, SECTOR))

    with pytest.raises(AssertionError, match=r"^check\(\) returned False\n"):
        Trial(count, is_zero, 3 * SECTOR).prove()
    assert Trial(count, answering(True), 3 * SECTOR).prove() == 7
    for answer in (["a fault"], [], 0, "wrong"):
        with pytest.raises(UsageError, match=re.escape(f"check() returned {answer!r}: let it raise")):
            Trial(count, answering(answer), 3 * SECTOR).prove()
