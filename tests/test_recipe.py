"""Sizes and recipes: what people write, and what they get for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.formats.region import DumpLevel
from dumpwriter.machine.recipe import RECIPE_SIZE_BYTES_MAX, Recipe, RecipeFile, parse_recipe, pattern, read_recipe
from dumpwriter.sizes import UNITS, format_size, parse_seconds, parse_size
from vdisk.bootarea import RegionKind
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

LEAST = 'size = "128MiB"\nmemory = "32MiB"\n'


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("1b", 1),
        ("1k", 1024),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("1GiB", 1 << 30),
        (" 1 GiB ", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("0.1KiB", 102),
        ("2TiB", 2 << 40),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", "0", "0GiB", "0.0001", "1e9", "1,5GiB", "1PiB", "1iB", "0x10", "1 2", "9" * 5000, "\u0663"],
)
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_size(text)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("0.5", 0.5), ("007", 7.0), ("0.000000001", 1e-9)])
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "inf", "nan", "1s", " 1", "1,5", "9" * 11, "\u0663"])
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is no time: give seconds"):
        parse_seconds(text)


@given(st.integers(1, 1 << 44))
def test_a_size_as_shown_is_near_to_what_it_is(size_bytes: int) -> None:
    shown = format_size(size_bytes)
    number, unit = shown.split()
    factor = UNITS["" if unit == "bytes" else unit[0].lower()]
    assert "e" not in number
    assert abs(float(number) * factor - size_bytes) <= size_bytes * 0.006


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), ((1 << 30) - 1, "1024 MiB")],
)
def test_sizes_are_shown_with_three_digits(size_bytes: int, shown: str) -> None:
    assert format_size(size_bytes) == shown


def test_the_least_that_a_recipe_says() -> None:
    assert parse_recipe(LEAST.encode()) == Recipe(128 << 20, 32 << 20)


def test_all_that_a_recipe_can_say(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'shows = "everything"\n'
        + LEAST
        + 'level = "active"\n[region]\nkind = "pagefile"\nextents = 64\n[disk]\nfill_percent = 100\n'
        + '[[files]]\npath = "/etc/motd"\ntext = "hell\u00f6"\n[[files]]\npath = "/a"\nsize = "5000"\n'
    )
    assert read_recipe(str(path)) == Recipe(
        size_bytes=128 << 20,
        memory_size_bytes=32 << 20,
        shows="everything",
        region_kind=RegionKind.PAGEFILE,
        region_extents=64,
        files=(RecipeFile("/etc/motd", "hell\u00f6".encode()), RecipeFile("/a", pattern(5000))),
        fill_percent=100,
        level=DumpLevel.ACTIVE,
    )


REFUSED = {
    "no memory": 'size = "1GiB"',
    "no size": 'memory = "64MiB"',
    "a word that is not known": LEAST + "sise = 1",
    "a word that its table does not know": LEAST + "[region]\nextends = 4",
    "a number for a text": LEAST + "shows = 1",
    "a size that is none": 'size = "big"\nmemory = "32MiB"',
    "a negative size": 'size = -1\nmemory = "32MiB"',
    "a number for a table": LEAST + "region = 7",
    "a table for a list": LEAST + '[files]\npath = "/a"',
    "a number for a file": LEAST + "files = [1]",
    "a kind of region that there is not": LEAST + '[region]\nkind = "swap"',
    "no extents": LEAST + "[region]\nextents = 0",
    "too many extents": LEAST + "[region]\nextents = 4097",
    "a truth for a number": LEAST + "[region]\nextents = true",
    "half an extent": LEAST + "[region]\nextents = 1.5",
    "a level that is none": LEAST + 'level = "most"',
    "more than full": LEAST + "[disk]\nfill_percent = 101",
    "a relative path": LEAST + '[[files]]\npath = "etc/motd"\ntext = ""',
    "no path": LEAST + '[[files]]\ntext = ""',
    "a path that climbs": LEAST + '[[files]]\npath = "/a/../b"\ntext = ""',
    "a path with a hole": LEAST + '[[files]]\npath = "/a//b"\ntext = ""',
    "a path with a zero byte": LEAST + '[[files]]\npath = "/a\\u0000b"\ntext = ""',
    "the root": LEAST + '[[files]]\npath = "/"\ntext = ""',
    "text and size": LEAST + '[[files]]\npath = "/a"\ntext = ""\nsize = "1KiB"',
    "neither text nor size": LEAST + '[[files]]\npath = "/a"',
    "a number for a file's text": LEAST + '[[files]]\npath = "/a"\ntext = 5',
    "a file that does not fit in memory": LEAST + '[[files]]\npath = "/a"\nsize = "1TiB"',
    "a number without end": LEAST + "[region]\nextents = " + "9" * 5000,
    "brackets without end": LEAST + "files = " + "[" * 100_000,
    "no TOML": "<html>",
    "too long": "#" * (RECIPE_SIZE_BYTES_MAX + 1),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_recipe_with_a_fault_is_refused_in_one_line(content: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_recipe(content.encode())
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot read the recipe"):
        read_recipe(str(tmp_path / name))


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError, match=r"recipe\.toml: not a recipe"):
        read_recipe(str(path))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_recipe_or_refused(content: bytes) -> None:
    with contextlib.suppress(UsageError):
        parse_recipe(content)


@given(st.integers(0, 20_000))
def test_a_pattern_tells_where_its_blocks_are_from(size_bytes: int) -> None:
    content = pattern(size_bytes)
    assert len(content) == size_bytes
    for block in range(size_bytes // 4096):
        assert int.from_bytes(content[block * 4096 : block * 4096 + 8], "little") == block
