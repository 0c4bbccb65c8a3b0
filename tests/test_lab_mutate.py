"""Who tests the tester: planted faults are found, each in a process of its own, and nothing is found without one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from dumpwriter import cli
from dumpwriter.lab.planted import CONTROL, FAULTS
from dumpwriter.lab.planting import PlantedFault, PlantingError, planted_source, source_of
from tests.sources import REPOSITORY

COMMAND = [sys.executable, "-c", "import sys; from dumpwriter import cli; sys.exit(cli.main(sys.argv[1:]))"]
SECONDS = 60
SAMPLE = (
    "digest-unchecked",
    "any-dump-id",
    "class-order-inverted",
    "zeros-forgotten",
    "no-flush-before-written",
    "retry-forgotten",
    "a-part-is-the-whole",
    "missing-begins-late",
)


def mutated(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode == code, (done.stdout, done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("fault", [CONTROL, *FAULTS.values()], ids=lambda fault: fault.name)
def test_each_fault_can_be_planted(fault: PlantedFault) -> None:
    """The message says what to do where the text has changed."""
    source = source_of(fault.module)
    planted = planted_source(fault, source)
    assert (planted == source) == (fault is CONTROL)
    compile(planted, fault.module, "exec")


def test_every_fault_says_what_it_breaks() -> None:
    assert len(FAULTS) >= 100
    for fault in FAULTS.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fault.name)
        assert re.fullmatch(r"[A-Z].*\.", fault.breaks), fault.name


def test_a_fault_whose_text_is_gone_is_refused_and_says_what_to_do() -> None:
    fault = PlantedFault("gone", "dumpwriter.verdict", "no such text", "", "Nothing.")
    with pytest.raises(PlantingError, match="copy what the text has become into its row"):
        planted_source(fault, source_of(fault.module))


def test_faults_of_every_kind_are_found() -> None:
    document = mutated("lab", "mutate", *SAMPLE, "--jobs", 2)
    assert (document["planted"], document["found"], document["holds"]) == (len(SAMPLE), len(SAMPLE), True)
    for fault in document["faults"]:
        assert fault["cpu_seconds"] < SECONDS
        assert fault["what"]
        assert fault["replay"] == f"ghostdump lab mutate {fault['name']}"


def test_where_nothing_is_planted_nothing_is_found() -> None:
    document = mutated("lab", "mutate", CONTROL.name)
    (control,) = document["faults"]
    assert control["experiment"] is None
    assert document["holds"]


def test_a_fault_that_is_not_found_in_time_survives_and_fails_the_command() -> None:
    document = mutated("lab", "mutate", "last-slot-not-read", "--seconds", 1, code=1)
    assert (document["found"], document["score_percent"], document["holds"]) == (0, 0, False)


def test_ctrl_c_ends_it_with_what_there_is_and_leaves_no_process() -> None:
    names = ["any-dump-id", CONTROL.name]
    with subprocess.Popen([*COMMAND, "lab", "mutate", *names], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("any-dump-id")
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert running.returncode == cli.INTERRUPTED_EXIT_CODE
    assert "1 of 1 planted faults found" in rest


def test_no_score_is_made_of_nothing() -> None:
    words = [*COMMAND, "lab", "mutate", CONTROL.name, "--seconds", "1"]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert "no planted fault was hunted to its end" in told
    assert "%" not in told


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "mutate", "no-such-fault"]) == 2
    assert "ghostdump lab mutate --list names them" in capsys.readouterr().err


def test_the_list_has_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "mutate", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["name"] for fault in listed] == [CONTROL.name, *FAULTS]


def test_the_page_lists_every_fault() -> None:
    page = (REPOSITORY / "docs" / "planted-faults.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| `([a-z._]+)` \| (.*?) \|", page, re.MULTILINE)
    assert rows == [(fault.name, fault.module, fault.breaks) for fault in FAULTS.values()], "run make mutants"


def test_a_control_that_is_not_through_proves_nothing() -> None:
    assert not mutated("lab", "mutate", CONTROL.name, "--seconds", 1, code=1)["holds"]


@pytest.mark.slow
def test_every_planted_fault_is_found() -> None:
    document = mutated("lab", "mutate", "--jobs", os.cpu_count() or 1)
    survivors = [fault["name"] for fault in document["faults"] if not fault["experiment"]]
    assert survivors == [CONTROL.name]
