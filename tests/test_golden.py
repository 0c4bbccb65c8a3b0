"""Golden files: each is what its recipe makes, on any machine and with nothing of the product, and the product reads it
as the recipe says."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dumpwriter.dumpfile.opening import open_dump
from tests import dumpreaders
from tests.builders import golden
from tests.builders.elf_reader import ElfCoreFile
from tests.builders.kdump_reader import DECOMPRESS, KdumpFile, rearranged
from tests.builders.lasting_streams import LZO, PAGE, ZLIB, ZSTD, lasting_stream, noise_page, text_page, zero_page
from tests.builders.lime_reader import lime_pages
from tests.builders.pagedump_reader import PageDumpFile
from tests.builders.pagedump_writer import runs_of
from tests.builders.region_reader import find_region, read_dump
from tests.builders.seal_reader import SealReader
from tests.builders.seal_writer import private_key, private_pem
from tests.dumpreaders import Sample
from tests.dumpreading import BytesFile, all_pages, must_be_sound
from tests.sources import REPOSITORY
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.builders.golden import Pages, Recipe
    from tests.machines import Machine

FILE_BYTES_MAX, ALL_BYTES_MAX = 64 << 10, 500 << 10
RECIPES = {recipe.name: recipe for recipe in golden.recipes()}
ON_OUR_DISKS = {name: recipe for name, recipe in RECIPES.items() if recipe.format in ("region", "sealed")}
DUMP_FILES = {name: recipe for name, recipe in RECIPES.items() if name not in ON_OUR_DISKS}

STREAMED = {
    "zeros": zero_page(0),
    "text": text_page(1),
    "longer text": text_page(1_050_000),
    "one byte": b"\xff" * PAGE,
    "bytes of nine bits": (b"\x8f\x90" + bytes(range(200, 256))).ljust(PAGE, b"\xc8"),
}
STREAMS = {"zlib": ZLIB, "lzo": LZO, "zstd": ZSTD}
# Readers that ask for no kernel in a dump. volatility3 passes over a segment that has more memory than bytes, and so
# over all of elf-partial.
OTHERS_READ = [
    *((name, "libkdumpfile") for name in ("elf-whole", "elf-partial", "kdump-zlib", "kdump-lzo", "kdump-split")),
    *((name, "volatility3") for name in ("elf-whole", "lime", "windows-full", "windows-bitmap")),
    *((name, "kdmp-parser") for name in ("windows-full", "windows-bitmap")),
]

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def elf_pages(content: bytes) -> Pages:
    core = ElfCoreFile(content)
    return {page: core.read(page * PAGE, PAGE) for page in core.pages()}


def kdump_pages(content: bytes) -> Pages:
    file = KdumpFile(content)
    return {page: file.page(page) for page in file.described if file.descriptor(page).offset}


def flattened_pages(content: bytes) -> Pages:
    return kdump_pages(rearranged(content))


def pagedump_pages(content: bytes) -> Pages:
    file = PageDumpFile(content)
    return {page: file.page(page) for page in file.pages()}


def region_pages(content: bytes) -> Pages:
    region = find_region(content)
    assert region is not None
    return read_dump(content, region).pages


def sealed_pages(content: bytes) -> Pages:
    return SealReader(private_key(golden.KEY_WORDS)).pages_of_file(content)


INDEPENDENT_READERS: dict[str, Callable[[bytes], Pages]] = {
    "elf": elf_pages,
    "kdump": kdump_pages,
    "kdump-flattened": flattened_pages,
    "windows": pagedump_pages,
    "lime": lime_pages,
    "region": region_pages,
    "sealed": sealed_pages,
}


def must_be_as_expected(recipe: Recipe, verdict: str, pages: Pages, absent: list[tuple[int, int]]) -> None:
    expected = recipe.expected
    assert verdict == expected["verdict"]
    assert [list(run) for run in runs_of(sorted(pages))] == expected["present"]
    assert [list(run) for run in absent] == expected["absent"]
    assert golden.sha256_of_pages(pages) == expected["pages_sha256"]


def test_recipes_and_files_match_one_to_one() -> None:
    found = {path.name for path in golden.DIRECTORY.iterdir()}
    told = [*(recipe.file for recipe in RECIPES.values()), *(f"{name}.toml" for name in RECIPES), golden.KEY_FILE]
    assert sorted(told) == sorted(found)


def test_each_recipe_is_in_the_table_with_what_it_proves() -> None:
    table = (REPOSITORY / "images" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `golden/(\w[\w.-]*)` \| (.+?) \|", table, re.MULTILINE))
    assert rows == {recipe.file: recipe.proves for recipe in RECIPES.values()}


def test_they_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in golden.DIRECTORY.iterdir()}
    assert max(sizes.values()) <= FILE_BYTES_MAX, sizes
    assert sum(sizes.values()) <= ALL_BYTES_MAX


@each_recipe
def test_a_file_is_what_its_recipe_makes(recipe: Recipe) -> None:
    assert hashlib.sha256(recipe.stored()).hexdigest() == recipe.sha256
    assert hashlib.sha256(recipe.build()).hexdigest() == recipe.sha256


def test_the_test_key_is_what_its_words_make() -> None:
    assert (golden.DIRECTORY / golden.KEY_FILE).read_bytes() == private_pem(golden.KEY_WORDS)


def test_a_rebuilt_directory_is_the_one_that_is_there(tmp_path: Path) -> None:
    for name in RECIPES:
        shutil.copy(golden.DIRECTORY / f"{name}.toml", tmp_path)
    assert golden.rebuild(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in golden.DIRECTORY.iterdir()}


def test_a_digest_that_is_wrong_is_told(tmp_path: Path) -> None:
    recipe = (golden.DIRECTORY / "lime.toml").read_text()
    (tmp_path / "lime.toml").write_text(
        recipe.replace("run = [1, 2]", "run = [1, 1]").replace("[[1, 3]", "[[1, 1], [3, 1]")
    )
    assert [line.split(" = ")[0] for line in golden.rebuild(tmp_path)] == [
        "lime: the recipe says sha256",
        "lime: the recipe says pages_sha256",
    ]


@pytest.mark.parametrize(
    "page", [zero_page(0), text_page(1), text_page(1_050_000), b"\xff" * PAGE, b"\xc8a" + b"\x8f" * 4094]
)
@pytest.mark.parametrize("kind", STREAMS.values(), ids=STREAMS)
def test_streams_made_by_hand_unpack_in_the_libraries(kind: int, page: bytes) -> None:
    stream = lasting_stream(page, kind)
    assert len(stream) < 600
    assert DECOMPRESS[kind](stream) == page


@pytest.mark.parametrize("kind", STREAMS.values(), ids=STREAMS)
def test_noise_stays_as_it_is(kind: int) -> None:
    assert lasting_stream(noise_page(3), kind) == noise_page(3)


@each_recipe
def test_the_independent_reader_finds_the_same_pages(recipe: Recipe) -> None:
    assert INDEPENDENT_READERS[recipe.format](recipe.stored()) == recipe.held()


@pytest.mark.parametrize(("name", "reader"), OTHERS_READ)
def test_other_peoples_readers_find_the_same_pages(tmp_path: Path, name: str, reader: str) -> None:
    recipe = RECIPES[name]
    path = tmp_path / recipe.file
    path.write_bytes(recipe.stored())
    held = recipe.held()
    addressed = range(max(held) + 1)
    memory = b"".join(held.get(page, bytes(PAGE)) for page in addressed)
    sample = Sample(path, tmp_path, memory, frozenset(addressed) - held.keys(), log="", virtual=lambda address: address)
    assert dumpreaders.READERS[reader](sample) in ("yes", "zeros")


@pytest.mark.parametrize("recipe", DUMP_FILES.values(), ids=DUMP_FILES)
def test_a_dump_file_is_read_as_expected(recipe: Recipe) -> None:
    dump = open_dump(BytesFile(recipe.stored()))
    must_be_sound(dump)
    pages, memory = all_pages(dump), golden.numbers(dump.contents.memory)
    absent = runs_of(page for page in memory if page not in pages)
    must_be_as_expected(recipe, "PARTIAL" if dump.contents.is_partial else "COMPLETE", pages, absent)
    assert dump.contents.notes == (golden.NOTES if recipe.format in ("elf", "kdump", "kdump-flattened") else b"")


@pytest.mark.parametrize("recipe", ON_OUR_DISKS.values(), ids=ON_OUR_DISKS)
def test_a_dump_on_our_disk_is_recovered_as_expected(machine: Machine, recipe: Recipe) -> None:
    path = machine.directory / recipe.file.removesuffix(golden.PACKED)
    path.write_bytes(recipe.stored())
    key = ("--dump-private-key", golden.DIRECTORY / golden.KEY_FILE) if recipe.format == "sealed" else ()
    is_whole = recipe.expected["verdict"] == "COMPLETE"
    directory = machine.directory / "out"
    report = machine.facts("recover", path, "--output", directory, *key, check=0 if is_whole else 1)
    pages = elf_pages((Path(report["path"]) / "vmcore").read_bytes())
    missing = [(run["first_page"], run["page_count"]) for run in report["missing"]]
    must_be_as_expected(recipe, report["verdict"], pages, missing)


def test_the_sealed_dump_gives_nothing_without_its_key() -> None:
    with pytest.raises(FormatError, match="private key"):
        open_dump(BytesFile(RECIPES["sealed"].stored()))
    content = RECIPES["sealed"].stored()
    assert not any(page[:20] in content for page in RECIPES["sealed"].pages.values() if any(page))
