"""docs/FORMAT.md says what the code does: every record, every field at its offset, every number and magic."""

from __future__ import annotations

import ast
import inspect
import re
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.formats import controlblock, region
from tests.sources import REPOSITORY
from vdisk import bootarea, keyslot
from vdisk.layout import Layout

if TYPE_CHECKING:
    from types import ModuleType

DOCUMENT = (REPOSITORY / "docs" / "FORMAT.md").read_text()
MODULES = (bootarea, keyslot, region, controlblock)


def defined_in(module: ModuleType) -> dict[str, Any]:
    """What a module defines itself, by name; what it imports is somebody else's."""
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ClassDef):
            names.append(node.name)
    return {name: getattr(module, name) for name in names}


@cache
def layouts() -> dict[str, Layout[Any]]:
    found = [value for module in MODULES for value in defined_in(module).values() if isinstance(value, Layout)]
    return {layout.record.__name__: layout for layout in found}


@cache
def enumerations() -> dict[str, type[Enum]]:
    found = [value for module in MODULES for value in defined_in(module).values() if inspect.isclass(value)]
    return {kind.__name__: kind for kind in found if issubclass(kind, Enum)}


@cache
def constants() -> dict[str, str]:
    """Each number and magic of the formats, as the document writes it."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": shown(value)
        for module in MODULES
        for name, value in defined_in(module).items()
        if isinstance(value, int | bytes | tuple)
    }


def shown(value: int | bytes | tuple[int, ...]) -> str:
    if isinstance(value, bytes):
        return "`" + value.decode().replace("\0", "\\0") + "`"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def section(document: str, name: str) -> str:
    """From the heading of a record to the next heading; empty where there is none."""
    found = re.search(rf"^### {name}\n(.*?)(?=^#|\Z)", document, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its two lines of head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def differences(document: str) -> list[str]:
    """What the document says otherwise than the code, or not at all."""
    found = []
    for name, layout in layouts().items():
        written = [tuple(row[:3]) for row in rows(section(document, name))]
        declared = [(str(field.offset_bytes), str(field.size_bytes), f"`{field.name}`") for field in layout.fields]
        if written != declared or f"\n{layout.size_bytes} bytes.\n" not in section(document, name):
            found.append(name)
    for name, kind in enumerations().items():
        written = [tuple(row[:2]) for row in rows(section(document, name))]
        if written != [(str(member.value), f"`{member.name}`") for member in kind]:
            found.append(name)
    stated = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \|", document, re.MULTILINE))
    return found + sorted(name for name, _ in stated.items() ^ constants().items())


def test_the_document_says_what_the_code_does() -> None:
    assert differences(DOCUMENT) == []


def test_every_field_has_a_meaning() -> None:
    for name in (*layouts(), *enumerations()):
        assert all(len(row[-1]) > 0 for row in rows(section(DOCUMENT, name))), name


def test_magics_are_written_into_their_tables() -> None:
    for name, layout in layouts().items():
        if layout.fields[0].name == "magic":
            assert rows(section(DOCUMENT, name))[0][3] in constants().values(), name


@pytest.mark.parametrize("name", [*layouts(), *enumerations()])
def test_a_missing_table_is_noticed(name: str) -> None:
    assert differences(DOCUMENT.replace(section(DOCUMENT, name), "\n")) == [name]


@pytest.mark.parametrize("name", layouts())
def test_a_missing_row_and_a_slip_in_any_cell_are_noticed(name: str) -> None:
    text = section(DOCUMENT, name)
    for line in text.splitlines():
        if not re.match(r"\| \d", line):
            continue
        offset, size, field = line.strip("| ").split(" | ")[:3]
        slips = ["", f"| {int(offset) + 1} | {size} | {field} | |", f"| {offset} | {size}0 | {field} | |"]
        slips.append(f"| {offset} | {size} | `other` | |")
        for slip in slips:
            assert differences(DOCUMENT.replace(text, text.replace(line + "\n", slip))) == [name], (line, slip)


@pytest.mark.parametrize("name", constants())
def test_a_missing_or_wrong_constant_is_noticed(name: str) -> None:
    (line,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |")]
    assert set(differences(DOCUMENT.replace(line, ""))) == {name}
    assert set(differences(DOCUMENT.replace(line, f"| `{name}` | 7 | |"))) == {name}
