"""Recipes of disk images: sizes, memory, how fragmented the region is, what files are on it. TOML.

shows = "one line on what the disk is good for"
size = "256MiB"
memory = "64MiB"
level = "kernel"        # what a dump is to hold, and the region is sized for; "automatic" where it is not named

[region]
kind = "dedicated"      # or "pagefile": pages of the running machine go there too
extents = 64            # at least as many; 1 where it may be contiguous

[[files]]
path = "/etc/motd"
text = "hello"          # or: size = "1MiB", which fills it with a repeatable pattern

[disk]
fill_percent = 100      # a file that leaves no room for anything else
"""

from __future__ import annotations

import tomllib
from typing import Any, NamedTuple

from dumpwriter.crash.protection import DEFAULT_PARITY_PERCENT
from dumpwriter.formats.region import DumpLevel
from dumpwriter.levels import parse_level
from dumpwriter.sizes import format_parity, parse_parity, parse_size
from vdisk.bootarea import RegionKind
from vdisk.errors import UsageError

PATTERN_BLOCK_BYTES = 4096
RECIPE_SIZE_BYTES_MAX = 1 << 20
REGION_KINDS = {kind.name.lower(): kind for kind in RegionKind}
FILE_SIZE_BYTES_MAX = 64 << 20  # a file is made in memory


class RecipeFile(NamedTuple):
    """A file to put on the disk. `path` is absolute, without `.` and `..`."""

    path: str
    content: bytes


class Recipe(NamedTuple):
    """What a disk is to be like. Sizes in bytes."""

    size_bytes: int
    memory_size_bytes: int
    shows: str = ""
    level: DumpLevel = DumpLevel.AUTOMATIC
    parity_percent: int = DEFAULT_PARITY_PERCENT
    region_kind: RegionKind = RegionKind.DEDICATED
    region_extents: int = 1
    files: tuple[RecipeFile, ...] = ()
    fill_percent: int = 0


def read_recipe(path: str) -> Recipe:
    """Raises `UsageError` where the file cannot be read or says something that it may not."""
    try:
        with open(path, "rb") as file:
            content = file.read(RECIPE_SIZE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from None
    try:
        return parse_recipe(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def region_kind_named(name: str) -> RegionKind:
    """Raises `UsageError` where there is no such kind."""
    if name not in REGION_KINDS:
        raise UsageError(f"there is no region {name!r}: give {' or '.join(REGION_KINDS)}")
    return REGION_KINDS[name]


def parse_recipe(content: bytes) -> Recipe:
    """Raises `UsageError` where the bytes are no recipe."""
    if len(content) > RECIPE_SIZE_BYTES_MAX:
        raise UsageError("too long for a recipe")
    try:
        return _recipe(tomllib.loads(content.decode()))
    except (ValueError, RecursionError) as error:  # tomllib raises either, for numbers or brackets without end
        raise UsageError(f"not a recipe: {str(error).splitlines()[0]}") from None


def _recipe(table: dict[str, Any]) -> Recipe:
    _no_others("the recipe", table, {"shows", "size", "memory", "level", "parity", "region", "disk", "files"})
    region, disk = _table(table, "region", {"kind", "extents"}), _table(table, "disk", {"fill_percent"})
    files = table.get("files", [])
    if not isinstance(files, list):
        raise UsageError("files must be tables: [[files]]")
    return Recipe(
        size_bytes=_size(table, "size"),
        memory_size_bytes=_size(table, "memory"),
        shows=_text(table, "shows", ""),
        level=parse_level(_text(table, "level", "automatic")),
        parity_percent=parse_parity(_text(table, "parity", format_parity(DEFAULT_PARITY_PERCENT))),
        region_kind=region_kind_named(_text(region, "kind", "dedicated")),
        region_extents=_whole_number(region, "extents", 1, 1, 4096),
        files=tuple(_file(entry) for entry in files),
        fill_percent=_whole_number(disk, "fill_percent", 0, 0, 100),
    )


def _file(entry: Any) -> RecipeFile:
    if not isinstance(entry, dict):
        raise UsageError("files must be tables: [[files]]")
    _no_others("a file", entry, {"path", "text", "size"})
    path = _text(entry, "path")
    parts = path.split("/")
    if len(parts) < 2 or parts[0] or any(part in ("", ".", "..") or "\0" in part for part in parts[1:]):
        raise UsageError(f"{path!r} is no absolute path of a file")
    if ("text" in entry) == ("size" in entry):
        raise UsageError(f"{path}: give text or size")
    return RecipeFile("/".join(parts), _content(path, entry))


def _content(path: str, entry: dict[str, Any]) -> bytes:
    if "text" in entry:
        return _text(entry, "text").encode()
    size_bytes = _size(entry, "size")
    if size_bytes > FILE_SIZE_BYTES_MAX:
        raise UsageError(f"{path}: give 64MiB or less; [disk] fill_percent fills a disk")
    return pattern(size_bytes)


def pattern(size_bytes: int) -> bytes:
    """Bytes that tell where they are from: each block begins with its own number."""
    blocks = range(-(-size_bytes // PATTERN_BLOCK_BYTES))
    return b"".join(block.to_bytes(8, "little").ljust(PATTERN_BLOCK_BYTES, b"\x5a") for block in blocks)[:size_bytes]


def _table(table: dict[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{name} must be a table: [{name}]")
    _no_others(f"[{name}]", found, known)
    return found


def _no_others(where: str, table: dict[str, Any], known: set[str]) -> None:
    for name in table.keys() - known:
        raise UsageError(f"{where} has no {name!r}; it has {', '.join(sorted(known))}")


def _size(table: dict[str, Any], name: str) -> int:
    if name not in table:
        raise UsageError(f"{name} is missing")
    return parse_size(str(table[name]))


def _text(table: dict[str, Any], name: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str):
        raise UsageError(f"{name} is missing, or no text")
    return value


def _whole_number(table: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = table.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} must be a number from {least} to {most}")
    return value
