"""The rules that keep the project small and readable. Each message says what to do instead.

What ruff and mypy know to check (print outside the command line, complexity, types) is left to them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sources import REPOSITORY, modules

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
TRACKED_FILE_BYTES_MAX = 256 << 10
SOURCE_SUFFIXES = {".py", ".c", ".h", ".sh"}
SAYS_NOTHING = {"util", "utils", "common", "misc", "helpers"}
SOMEBODYS_MACHINE = re.compile(rb"/(?:home|Users)/[a-z]\w*/|/(?:root|work/[a-z]+)/")  # [a-z]: not /home/$USER/

ALL = modules("vdisk", "dumpwriter", "tests")
LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))


def tracked_files() -> list[Path]:
    """What git holds. The repository may be another user's, as in a container: we only read it."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    paths = (REPOSITORY / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def shown(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def functions() -> Iterator[tuple[str, int]]:
    """Each function of the project, nested ones too, as place and number of lines."""
    for module in ALL.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_long() -> None:
    sources = [path for path in tracked_files() if path.suffix in SOURCE_SUFFIXES]
    long = [path for path in sources if len(path.read_bytes().splitlines()) > FILE_LINES_MAX]
    assert not long, f"above {FILE_LINES_MAX} lines, split by subject: {shown(long)}"


def test_no_function_is_long() -> None:
    long = [f"{place}: {lines}" for place, lines in functions() if lines > FUNCTION_LINES_MAX]
    assert not long, f"above {FUNCTION_LINES_MAX} lines, name its steps and make each a function: {long}"


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, module in ALL.items() if not ast.get_docstring(module.tree)]
    assert not silent, f"write in a docstring on top which one idea it holds: {silent}"


def test_every_module_is_named_after_its_subject() -> None:
    vague = [name for name in ALL if SAYS_NOTHING & set(name.split("."))]
    assert not vague, f"name it after what it holds, or move that to where it belongs: {vague}"


def test_no_large_file_is_in_git() -> None:
    large = [path for path in tracked_files() if path.stat().st_size > TRACKED_FILE_BYTES_MAX]
    assert not large, f"above {TRACKED_FILE_BYTES_MAX} bytes, make it from a recipe in images/: {shown(large)}"


def test_no_path_of_somebodys_machine() -> None:
    others = [path for path in tracked_files() if path != Path(__file__)]
    found = [path for path in others if SOMEBODYS_MACHINE.search(path.read_bytes())]
    assert not found, f"make the path relative, or take it from the environment: {shown(found)}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_by_name_and_version_only(lock: Path) -> None:
    odd = [line for line in lock.read_text().splitlines() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd, f"{lock.name} holds more than name==version, run make lock: {odd}"


def test_the_locks_pin_all_that_the_project_asks_for() -> None:
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = asked["project"]
    wanted = [
        *asked["build-system"]["requires"],
        *project["dependencies"],
        *(requirement for extra in project["optional-dependencies"].values() for requirement in extra),
    ]
    pinned = {line.partition("==")[0] for lock in LOCKS for line in lock.read_text().splitlines()}
    missing = [requirement for requirement in wanted if re.split(r"[<>=~! \[]", requirement)[0] not in pinned]
    assert not missing, f"not in requirements/, run make lock: {missing}"
