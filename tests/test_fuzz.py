"""Any bytes give a sound dump or one declared error: what fuzzing found, telling values in every field, and cuts.

`make fuzz` goes on from here, guided by coverage.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.edits import CUT, FLIP, PUT_TELLING, STEP, TELLING
from tests.fuzz.targets import SEEDS, TARGETS

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
FOUND = sorted(path for path in CORPUS.rglob("*") if path.is_file())
STRIDE = 5  # of the places in all but the first file of a format


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_broke_a_promise_once_does_no_more(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", SEEDS)
def test_every_file_that_is_edited_was_good(name: str) -> None:
    for number in range(len(SEEDS[name]())):
        TARGETS[name](bytes([number]))


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("edit", [FLIP, PUT_TELLING, CUT])
def test_every_field_flipped_or_telling_and_every_cut(name: str, edit: int) -> None:
    for number, seed in enumerate(SEEDS[name]()):
        for index in range(0, len(seed.places), STRIDE if number else 1):
            TARGETS[name](bytes([number]) + STEP.pack(edit, index, (index * 5 + number) % len(TELLING)))


@pytest.mark.parametrize("name", TARGETS)
def test_any_program_of_edits(name: str) -> None:
    @given(st.binary(max_size=8 * STEP.size))
    @settings(max_examples=300, deadline=None)
    def run(program: bytes) -> None:
        TARGETS[name](program)

    run()
