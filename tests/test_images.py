"""The recipes in images/ make the disks that they promise; a disk that cannot be made leaves no file."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from typing import TYPE_CHECKING, NoReturn

import pytest

from dumpwriter.machine import creation
from dumpwriter.machine.creation import create_disk
from dumpwriter.machine.recipe import Recipe, RecipeFile, pattern, read_recipe
from dumpwriter.machine.regionfile import NAMES
from tests.sources import REPOSITORY
from vdisk.errors import GhostdumpError, ImageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Machine
    from vdisk.bootarea import RegionKind

RECIPES = sorted((REPOSITORY / "images").glob("*.toml"))
BY_NAME = {path.stem: path for path in RECIPES}
KEPT_BLOCKS_MAX = 24  # what the filesystem keeps from data, for its own trees
SMALL = Recipe(size_bytes=40 << 20, memory_size_bytes=16 << 20)

a_recipe = pytest.mark.parametrize("recipe_path", RECIPES, ids=BY_NAME)


def debugfs(image: Path, request: str) -> str:
    return subprocess.run(["debugfs", "-R", request, image], capture_output=True, text=True, check=True).stdout


def seen_by_debugfs(image: Path, region_kind: RegionKind) -> list[dict[str, int]]:
    """The extents of the region, as rows of `ghostdump extents --json`."""
    rows = []
    for line in debugfs(image, f"dump_extents -l /{NAMES[region_kind]}").splitlines()[1:]:
        logical, _, physical, _, blocks = map(int, re.findall(r"\d+", line.split("/", 3)[-1])[1:6])
        rows.append({"logical_bytes": logical * 4096, "physical_bytes": physical * 4096, "length_bytes": blocks * 4096})
    return rows


def free_blocks(image: Path) -> int:
    found = re.search(r"Free blocks: +(\d+)", debugfs(image, "stats -h"))
    assert found
    return int(found[1])


def test_each_recipe_is_in_the_table_with_what_it_shows() -> None:
    table = (REPOSITORY / "images" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+\.toml)` \| (.+?) \|", table, re.MULTILINE))
    assert rows == {path.name: read_recipe(str(path)).shows for path in RECIPES}


@a_recipe
def test_a_recipe_makes_a_clean_disk_with_its_region_and_files(machine: Machine, recipe_path: Path) -> None:
    recipe = read_recipe(str(recipe_path))
    machine.run("create", machine.image, "--recipe", recipe_path)
    assert machine.image.stat().st_size == recipe.size_bytes
    machine.must_be_clean()
    for file in recipe.files:
        copy = machine.directory / "copy"
        debugfs(machine.image, f"dump {file.path} {copy}")
        assert copy.read_bytes() == file.content
    made = seen_by_debugfs(machine.image, recipe.region_kind)
    machine.mount()
    machine.unmount()
    assert machine.facts("extents", machine.image) == made == seen_by_debugfs(machine.image, recipe.region_kind)
    assert len(made) >= recipe.region_extents
    assert len(made) == 1 or recipe.region_extents > 1


def test_the_fragmented_disk_is_fragmented() -> None:
    assert read_recipe(str(BY_NAME["fragmented"])).region_extents >= 50


def test_the_full_disk_has_no_block_left_for_data(machine: Machine) -> None:
    machine.run("create", machine.image, "--recipe", BY_NAME["full"])
    assert free_blocks(machine.image) <= KEPT_BLOCKS_MAX
    machine.mount()
    with pytest.raises(OSError) as refusal:
        (machine.mountpoint / "one byte").write_bytes(b"x")
    assert refusal.value.errno == errno.ENOSPC
    machine.unmount()


def test_a_dump_on_the_full_disk_stays_until_it_is_taken_out(machine: Machine) -> None:
    machine.run("create", machine.image, "--recipe", BY_NAME["full"])
    machine.mount()
    machine.crash()
    told = machine.mount().stdout
    assert "NOT armed" in told
    assert f"ghostdump recover {machine.image} --output DIR" in told and "mount --discard-dump" in told
    with pytest.raises(PermissionError):
        (machine.mountpoint / "dump.bin").unlink()
    machine.unmount()
    report = machine.facts("recover", machine.image, "--output", machine.directory / "out")
    assert report["verdict"] == "COMPLETE"
    assert "NOT armed" not in machine.mount().stdout
    machine.unmount()


def test_half_full_is_half_full(tmp_path: Path) -> None:
    empty, half = tmp_path / "empty", tmp_path / "half"
    create_disk(str(empty), SMALL)
    create_disk(str(half), SMALL._replace(fill_percent=50))
    assert abs(free_blocks(half) - free_blocks(empty) / 2) < 16


def test_the_command_line_overrides_the_recipe(machine: Machine) -> None:
    machine.run("create", machine.image, "--recipe", BY_NAME["small"], "--size", "48MiB")
    assert machine.image.stat().st_size == 48 << 20


NONSENSE = {
    "a disk that is no number of blocks": SMALL._replace(size_bytes=(40 << 20) + 512),
    "memory that is no number of pages": SMALL._replace(memory_size_bytes=(16 << 20) + 512),
    "too little memory": SMALL._replace(memory_size_bytes=4096),
    "too much memory": SMALL._replace(memory_size_bytes=1 << 40),
    "a disk beyond what a host can hold": SMALL._replace(size_bytes=17 << 40),
    "a region larger than the disk": SMALL._replace(memory_size_bytes=64 << 20),
    "a region that just does not fit": SMALL._replace(size_bytes=24 << 20),
    "more pieces than blocks": SMALL._replace(region_extents=4096),
    "a file larger than the disk": SMALL._replace(files=(RecipeFile("/a", pattern(30 << 20)),)),
    "a file over the region": SMALL._replace(files=(RecipeFile("/dump.bin", b""),)),
    "a file twice": SMALL._replace(files=(RecipeFile("/a", b""), RecipeFile("/a", b""))),
    "a file below a file": SMALL._replace(files=(RecipeFile("/a", b""), RecipeFile("/a/b", b""))),
    "a name that is too long": SMALL._replace(files=(RecipeFile("/" + "a" * 256, b""),)),
}


@pytest.mark.parametrize("recipe", NONSENSE.values(), ids=NONSENSE)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(UsageError) as refusal:
        create_disk(str(tmp_path / "disk.img"), recipe)
    assert len(str(refusal.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["0", "-1", "40000001", "1EiB", "9999TiB"])
def test_a_size_that_makes_no_sense_is_bad_usage(machine: Machine, size: str) -> None:
    done = machine.run("create", machine.image, f"--size={size}", "--memory", "16MiB", check=2)
    assert len([line for line in done.stderr.splitlines() if line.startswith("ghostdump")]) == 1
    assert not machine.image.exists()


def test_an_image_that_exists_is_not_touched(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"precious")
    with pytest.raises(ImageError, match="exists already"):
        create_disk(str(image), SMALL)
    assert image.read_bytes() == b"precious"


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        create_disk(str(tmp_path / "missing" / "disk.img"), SMALL)


def test_a_host_without_room_for_the_region_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)

    class AlmostFull:
        f_frsize = found.f_frsize
        f_bavail = (20 << 20) // found.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda path: AlmostFull)
    with pytest.raises(ImageError, match="20 MiB free"):
        create_disk(str(tmp_path / "disk.img"), SMALL)
    assert not list(tmp_path.iterdir())


def test_an_image_may_be_larger_than_what_the_host_has_free(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    size_bytes = found.f_bavail * found.f_frsize // 4096 * 4096 + (1 << 30)
    image = tmp_path / "disk.img"
    create_disk(str(image), SMALL._replace(size_bytes=min(size_bytes, 15 << 40)))
    assert image.stat().st_blocks * 512 < size_bytes


def test_a_file_larger_than_the_host_allows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(descriptor: int, size_bytes: int) -> NoReturn:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "ftruncate", too_large)
    with pytest.raises(ImageError, match="smaller --size"):
        create_disk(str(tmp_path / "disk.img"), SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["format_device", "open_locked", "_make_region", "_put_files"])
@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(errno.EIO, "no luck"), GhostdumpError("no luck")])
def test_a_creation_that_ends_early_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, end: BaseException
) -> None:
    def ends(*_: object, **__: object) -> NoReturn:
        raise end

    monkeypatch.setattr(creation, step, ends)
    with pytest.raises((KeyboardInterrupt, GhostdumpError)):
        create_disk(str(tmp_path / "disk.img"), SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory_size_bytes", [16 << 20, 128 << 20])
def test_a_disk_as_large_as_was_told_is_made(tmp_path: Path, memory_size_bytes: int) -> None:
    """The journal of the filesystem takes four times as much from 128 MiB on."""
    path = str(tmp_path / "disk.img")
    with pytest.raises(UsageError) as refusal:
        create_disk(path, Recipe(size_bytes=8 << 20, memory_size_bytes=memory_size_bytes))
    told = re.search(r"make it (\d+)MiB or more", str(refusal.value))
    assert told
    create_disk(path, Recipe(size_bytes=int(told[1]) << 20, memory_size_bytes=memory_size_bytes))
