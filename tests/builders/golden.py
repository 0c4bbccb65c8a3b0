"""Golden files from their recipes in images/golden: `python -m tests.builders.golden` writes them all anew.

It changes no recipe. A file whose digest is not that of its recipe is named, and the exit code is 1.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.builders.elf_writer import NOTE, ElfCoreBuilder, Piece, note
from tests.builders.flattened_writer import cut_up, flattened
from tests.builders.kdump_writer import RAW, KdumpBuilder
from tests.builders.lasting_streams import LZO, PAGE, ZLIB, ZSTD, lasting_stream, noise_page, text_page, zero_page
from tests.builders.lime_writer import LimeRange
from tests.builders.pagedump_writer import BITMAP, FULL, PagedumpBuilder, runs_of
from tests.builders.region_writer import RegionBuilder
from tests.builders.seal_writer import DumpSeal, private_pem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Pages = dict[int, bytes]
    Memory = list[tuple[int, int]]

DIRECTORY = Path(__file__).parents[2] / "images" / "golden"
KEY_FILE = "test-key.pem"
KEY_WORDS = "the golden dumps"
PACKED = ".xz"

CONTENTS: dict[str, Callable[[int], bytes]] = {"text": text_page, "noise": noise_page, "zeros": zero_page}
COMPRESSIONS = {"none": RAW, "zlib": ZLIB, "lzo": LZO, "zstd": ZSTD}
VMCOREINFO = b"OSRELEASE=6.1.0-golden\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
NOTES = note(b"CORE", 1, struct.pack("<32xI300x", 4711)) + note(b"VMCOREINFO", 0, VMCOREINFO)


class Recipe(NamedTuple):
    """A recipe and its file. `expected` is what a reader is to make of it."""

    name: str
    proves: str
    format: str
    file: str
    sha256: str
    pages: Pages
    memory: Memory
    options: dict[str, Any]
    expected: dict[str, Any]

    def build(self) -> bytes:
        return FORMATS[self.format](self.pages, self.memory, **self.options)

    def held(self) -> Pages:
        """The pages that a reader is to find."""
        return {page: self.pages[page] for page in numbers(self.expected["present"])}

    def stored(self, directory: Path = DIRECTORY) -> bytes:
        """What the file in the directory holds, unpacked."""
        content = (directory / self.file).read_bytes()
        return lzma.decompress(content) if self.file.endswith(PACKED) else content

    def write(self, directory: Path) -> bytes:
        content = self.build()
        packed = lzma.compress(content, preset=9) if self.file.endswith(PACKED) else content
        (directory / self.file).write_bytes(packed)
        return content


def recipes(directory: Path = DIRECTORY) -> list[Recipe]:
    return [_recipe(path) for path in sorted(directory.glob("*.toml"))]


def sha256_of_pages(pages: Pages) -> str:
    """Over each page in ascending order: its number in 8 bytes, little-endian, and its 4096 bytes."""
    digest = hashlib.sha256()
    for page in sorted(pages):
        digest.update(struct.pack("<Q", page) + pages[page])
    return digest.hexdigest()


def numbers(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [page for first, count in runs for page in range(first, first + count)]


def _recipe(path: Path) -> Recipe:
    content = tomllib.loads(path.read_text())
    pages = {page: CONTENTS[row["content"]](page) for row in content.pop("pages") for page in numbers([row["run"]])}
    memory = [(first, count) for first, count in content.pop("memory")]
    return Recipe(path.stem, **{"options": {}} | content, pages=pages, memory=memory)


def _elf(pages: Pages, memory: Memory, *, is_incomplete: bool = False) -> bytes:
    """A segment a run of present pages; the last one of a run of memory tells of the pages behind it."""
    pieces = [Piece(0, NOTES, kind=NOTE, in_memory=0)]
    for first, count in memory:
        held = runs_of(page for page in pages if first <= page < first + count)
        for start, size in held:
            end = first + count if (start, size) == held[-1] else start + size
            pieces.append(Piece(start * PAGE, _joined(pages, start, size), in_memory=(end - start) * PAGE))
    return ElfCoreBuilder(pieces, flags=int(is_incomplete)).build()


def _kdump(pages: Pages, memory: Memory, *, compression: str, split: Any = None, **options: Any) -> bytes:
    kind = COMPRESSIONS[compression]
    pack = _as_it_is if kind == RAW else lasting_stream
    part = tuple(split) if split else None
    return KdumpBuilder(pages, set(numbers(memory)), kind, notes=NOTES, split=part, pack=pack, **options).build()


def _as_it_is(page: bytes, _: int) -> bytes:
    return page


def _flattened(pages: Pages, memory: Memory, *, record_bytes: int, **options: Any) -> bytes:
    """As from makedumpfile: the header is written first as zeros and last as it is, the rest from the end."""
    records = cut_up(_kdump(pages, memory, **options), record_bytes)
    return flattened([(0, bytes(PAGE)), *reversed(records)])


def _windows(pages: Pages, memory: Memory, *, kind: str, comment: str = "") -> bytes:
    kinds = {"full": FULL, "bitmap": BITMAP}
    return PagedumpBuilder(pages, kinds[kind], memory, comment=comment.encode()).build()


def _lime(pages: Pages, _: Memory) -> bytes:
    runs = runs_of(pages)
    return b"".join(LimeRange(first * PAGE, _joined(pages, first, count)).build() for first, count in runs)


def _region(pages: Pages, memory: Memory, **options: Any) -> bytes:
    return RegionBuilder(pages, memory, notes=NOTES, **options).image()


def _sealed(pages: Pages, memory: Memory, **options: Any) -> bytes:
    return RegionBuilder(pages, memory, notes=NOTES, seal=DumpSeal(KEY_WORDS), **options).carried_out()


def _joined(pages: Pages, first: int, count: int) -> bytes:
    return b"".join(pages[page] for page in range(first, first + count))


FORMATS: dict[str, Callable[..., bytes]] = {
    "elf": _elf,
    "kdump": _kdump,
    "kdump-flattened": _flattened,
    "windows": _windows,
    "lime": _lime,
    "region": _region,
    "sealed": _sealed,
}


def rebuild(directory: Path) -> list[str]:
    """Write all files; a line for each one that is not what its recipe says."""
    (directory / KEY_FILE).write_bytes(private_pem(KEY_WORDS))
    wrong = []
    for recipe in recipes(directory):
        digest = hashlib.sha256(recipe.write(directory)).hexdigest()
        if digest != recipe.sha256:
            wrong.append(f'{recipe.name}: the recipe says sha256 = "{recipe.sha256}", the file has "{digest}"')
        pages_digest, told = sha256_of_pages(recipe.held()), recipe.expected["pages_sha256"]
        if pages_digest != told:
            wrong.append(f'{recipe.name}: the recipe says pages_sha256 = "{told}", its pages have "{pages_digest}"')
    return wrong


if __name__ == "__main__":
    lines = rebuild(DIRECTORY)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(bool(lines))
