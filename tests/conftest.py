"""What holds for every test: its files stand in one place, and nothing of it is left when it ends."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests import leaks
from tests.machines import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def run_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[leaks.Home]:
    """The run's own directory. Temporary and runtime files of every process that the tests start stand in it."""
    home = leaks.Home.settle_in(tmp_path_factory.getbasetemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(home.temporary))
        patch.setenv("XDG_RUNTIME_DIR", str(home.runtime))
        patch.setattr(tempfile, "tempdir", None)
        yield home
    _refuse(leaks.wait_for_new(home, set()), "a module or the session")


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """A shell ignores SIGINT for what it starts in the background, and what the tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """The command line takes signals for itself, as a process may; some tests call it in theirs."""
    before = {order: signal.getsignal(order) for order in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for order, handler in before.items():
        signal.signal(order, handler)


@pytest.fixture(autouse=True)
def nothing_left_behind(run_home: leaks.Home, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before every other fixture of the test, so that it looks after all of them are torn down.

    Only tmp_path goes later: pytest deletes what is below it, and must not walk into a mount that was left there.
    What wider fixtures hold is there before the test, and is theirs to take away.
    """
    before = leaks.find(run_home)
    yield
    _refuse(leaks.wait_for_new(run_home, before), request.node.name)


def _refuse(left: set[leaks.Leak], culprit: str) -> None:
    """Take away what was left, so that the next test starts clean, and fail."""
    leaks.clear(left)
    if left:
        things = "\n  ".join(sorted(map(str, left)))
        pytest.fail(f"{culprit} left this behind; release it in a fixture's finaliser:\n  {things}", pytrace=False)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine without a disk yet."""
    made = Machine(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="session")
def crashed_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The disk of a machine that crashed, with its dump. Nobody writes to it: most of a short test is the boot."""
    made = Machine(tmp_path_factory.mktemp("crashed"))
    try:
        made.create()
        made.mount()
        made.crash()
    finally:
        made.end()
    yield made.image
    made.image.unlink()


@pytest.fixture
def crashed(machine: Machine, crashed_image: Path) -> Machine:
    """A machine that is off, with a copy of that disk, as if it had been carried here from another host."""
    subprocess.run(["cp", "--sparse=always", crashed_image, machine.image], check=True)
    return machine
