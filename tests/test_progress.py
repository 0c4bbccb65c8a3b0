"""The progress bar: only where somebody looks, and only for what takes its time."""

from __future__ import annotations

import io
import sys

import pytest

from dumpwriter.cli import progress


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("patience_seconds", "is_shown"), [(3600.0, False), (-1.0, True)])
def test_a_bar_is_shown_for_what_takes_its_time(
    monkeypatch: pytest.MonkeyPatch, patience_seconds: float, *, is_shown: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience_seconds)
    with progress.progress_bar("convert") as show:
        show(1, 2)
        show(2, 2)
    assert ("convert" in terminal.getvalue()) == is_shown


def test_nothing_is_drawn_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1.0)
    with progress.progress_bar("convert") as show:
        show(1, 2)
    assert file.getvalue() == ""
