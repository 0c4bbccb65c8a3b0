"""docs/reference.md describes every command, every argument, every field of the JSON documents, and nothing else."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter import cli
from dumpwriter.cli import arguments
from dumpwriter.machine.causes import CAUSES
from dumpwriter.verdict import Reason
from tests.sources import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machines import Machine

RUNS = [{"first_page": 0, "page_count": 1}]
PARTIAL_DUMP = {"absent": RUNS, "problems": ["a page is missing"]}
DIFFERENT_DUMPS = {"differing": RUNS, "only_first": RUNS, "only_second": RUNS}
DOCUMENT = (REPOSITORY / "docs" / "reference.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    return dict(commands_of(arguments._parser()))


def commands_of(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """By what one types to get there; what only leads to commands is none itself."""
    (action,) = subparsers_of(parser)
    for name, command in action.choices.items():
        if subparsers_of(command):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def subparsers_of(parser: argparse.ArgumentParser) -> list[Any]:
    return [found for found in parser._actions if isinstance(found, argparse._SubParsersAction)]


def section(heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference.md has no section {heading}"
    return found[1]


def documented_fields(heading: str) -> set[str]:
    """The paths in the first column of the tables below `| Field |`."""
    tables = re.findall(r"\| Field \|.*?(?=\n\n|\Z)", section(heading), re.DOTALL)
    cells = [line.split(" | ")[0] for table in tables for line in table.splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """`region.extents[].length_bytes` for each value in a JSON document; an empty list or object is itself a leaf."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path


def is_told_by(leaf: str, field: str) -> bool:
    """A field tells of itself and of what is below it; a null object stands for the fields that it would have."""
    return leaf == field or leaf.startswith((field + ".", field + "[")) or field.startswith((leaf + ".", leaf + "["))


def must_match(heading: str, *documents: Any) -> None:
    fields, found = documented_fields(heading), {leaf for document in documents for leaf in leaves(document)}
    assert fields
    assert {leaf for leaf in found if not any(is_told_by(leaf, field) for field in fields)} == set(), heading
    assert {field for field in fields if not any(is_told_by(leaf, field) for leaf in found)} == set(), heading


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert set(re.findall(r"^## ghostdump (\w+(?: \w+)?)$", DOCUMENT, re.MULTILINE)) == set(commands())


@pytest.mark.parametrize("name", commands())
def test_every_argument_is_described(name: str) -> None:
    text = section(f"ghostdump {name}")
    known = {
        word
        for action in commands()[name]._actions
        for word in (action.option_strings or [action.dest])
        if word not in ("-h", "--help")
    }
    missing = {word for word in known if f"`{word}`" not in text}
    assert not missing, f"docs/reference.md does not describe {missing} of {name}"
    options = set(re.findall(r"(?<![\w-])--\w[\w-]*", re.sub(r"`status --json`|`recover`", "", text)))
    assert options - known == set(), f"docs/reference.md describes options that {name} does not have"


def test_every_cause_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("ghostdump crash").split("### Causes")[1], re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`([^`]+)`", row)] == [cause.name for cause in CAUSES]


def test_every_reason_is_listed() -> None:
    listed = re.findall(r"^\| (?:COMPLETE|PARTIAL|NONE) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert listed == [reason.value or "(empty)" for reason in Reason]


def test_json_documents_have_the_fields_that_are_listed(machine: Machine) -> None:
    made = machine.facts("create", machine.image, "--size", "128MiB", "--memory", "16MiB")
    must_match("ghostdump create", made)
    unused = machine.facts("inspect", machine.image)
    armed = machine.facts("mount", machine.image, machine.mountpoint)
    must_match("ghostdump extents", machine.facts("extents", machine.mountpoint))
    must_match("ghostdump drivers", machine.facts("drivers", machine.mountpoint))
    must_match("ghostdump crash", machine.crash("--bugcheck", "0xD1"), machine.facts("crash", "--list"))
    dumped = machine.status()
    used = machine.facts("inspect", machine.image)
    verified = machine.facts("verify", machine.image)
    again = machine.facts("mount", machine.image, machine.mountpoint)
    must_match("ghostdump status", armed, dumped, again)
    report = json.loads((machine.crash_directory() / "report.json").read_bytes())
    must_match(r"report\.json", report)
    assert set(leaves(verified)) <= set(leaves(report))
    core = machine.crash_directory() / "vmcore"
    must_match("ghostdump convert", machine.facts("convert", core, "--to", "kdump", "-o", "converted"))
    must_match("ghostdump inspect", unused, used, machine.facts("inspect", core), PARTIAL_DUMP)
    must_match("ghostdump log", machine.facts("log", core))
    must_match("ghostdump read", machine.facts("read", core, 0, 16))
    must_match("ghostdump diff", machine.facts("diff", core, "converted"), DIFFERENT_DUMPS)
    machine.crash()
    assert set(leaves(machine.facts("recover", machine.image, "--output", machine.directory / "out"))) == set(
        leaves(report)
    )


def test_a_certificate_has_the_fields_that_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "prove", "--writes", "1", "--json"]) == 0
    must_match("ghostdump lab prove", json.loads(capsys.readouterr().out))
    assert cli.main(["lab", "run", "--cases", "1", "--json", "--state", str(tmp_path / "campaign")]) == 0
    must_match("ghostdump lab run", json.loads(capsys.readouterr().out))
    assert cli.main(["lab", "merge", str(tmp_path / "campaign"), "--json"]) == 0
    must_match("ghostdump lab merge", json.loads(capsys.readouterr().out))
    assert cli.main(["lab", "replay", "zeros:0:0", "--json"]) == 0
    must_match("ghostdump lab replay", json.loads(capsys.readouterr().out))
    assert cli.main(["lab", "mutate", "any-dump-id", "--json"]) == 0
    must_match("ghostdump lab mutate", json.loads(capsys.readouterr().out))
    assert cli.main(["lab", "filesystem", "create a; sync", "--exhaustive", "2", "--json"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert cli.main(["lab", "filesystem", "--case", "create a; sync:0:0", "--json"]) == 0
    must_match("ghostdump lab filesystem", proof, json.loads(capsys.readouterr().out))


def test_the_fields_that_other_programs_use_are_there() -> None:
    status = {
        "state",
        "pid",
        "memory_bytes",
        "region.path",
        "region.size_bytes",
        "region.extents[].logical_bytes",
        "region.extents[].physical_bytes",
        "region.extents[].length_bytes",
        "standbys[].pid",
    }
    assert status <= documented_fields("ghostdump status")
    dump = {"verdict", "reason", "pages_total", "pages_present"}
    assert dump | {"bytes_written"} <= documented_fields("ghostdump crash")
    assert dump | {"path"} <= documented_fields(r"report\.json")
