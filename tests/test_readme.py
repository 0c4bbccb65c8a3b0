"""What the README and the pages below docs/ point to is there."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.sources import REPOSITORY, modules

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "images" / "README.md",
]
README = (REPOSITORY / "README.md").read_text()
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#[^)]*)?\)")


def names_of_tests() -> set[str]:
    return {
        node.name
        for module in modules("tests").values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_promise_names_a_test_that_exists() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) > 10
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    assert named - names_of_tests() == set()


def test_the_picture_is_the_recording() -> None:
    recorded = (REPOSITORY / "docs" / "demo.txt").read_text().rstrip()
    shown = README.split("<!-- demo -->\n```text\n")[1].split("\n```\n<!-- end of demo -->")[0]
    assert shown == recorded
    assert "COMPLETE" in recorded
