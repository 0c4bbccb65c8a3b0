"""create: make a disk image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dumpwriter.cli import interrupt_no_more
from dumpwriter.cli.keys import new_secret
from dumpwriter.cli.show import print_json
from dumpwriter.formats.region import PAGE_SIZE_BYTES
from dumpwriter.levels import BY_SIZE
from dumpwriter.machine.creation import create_disk
from dumpwriter.machine.policy import simulated_estimates
from dumpwriter.machine.recipe import Recipe, read_recipe, region_kind_named
from dumpwriter.recovery.report import describe_extents
from dumpwriter.sizes import format_count, format_parity, format_size
from vdisk.bootarea import RegionKind
from vdisk.errors import UsageError
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    import argparse

    from vdisk.extent import ExtentMap

PLACES = {RegionKind.DEDICATED: "dump region", RegionKind.PAGEFILE: "page file"}


def run(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments)
    if arguments.key_file and not arguments.encrypt:
        raise UsageError("--key-file is of use with --encrypt alone")
    extents = create_disk(arguments.image, recipe, new_secret(arguments) if arguments.encrypt else NO_KEY)
    interrupt_no_more()  # the disk is there, and stays
    if arguments.json:
        print_json(_facts(arguments.image, recipe, extents))
    else:
        _tell(arguments.image, recipe, extents)
    return 0


def _facts(image: str, recipe: Recipe, extents: ExtentMap) -> dict[str, Any]:
    estimates = simulated_estimates(recipe.memory_size_bytes, recipe.parity_percent)
    return {
        "image": os.path.abspath(image),
        "disk_size_bytes": recipe.size_bytes,
        "memory_bytes": recipe.memory_size_bytes,
        "level": recipe.level.name.lower(),
        "parity_percent": recipe.parity_percent,
        "region": {"size_bytes": extents.size_bytes, "extents": describe_extents(extents)},
        "estimates": [estimates[level]._asdict() | {"level": level.name.lower()} for level in BY_SIZE],
    }


def _tell(image: str, recipe: Recipe, extents: ExtentMap) -> None:
    print(
        f"{image}: {format_size(recipe.size_bytes)}, "
        f"{PLACES[recipe.region_kind]} {format_size(extents.size_bytes)} in "
        f"{format_count(len(extents.extents), 'extent')} for {format_size(recipe.memory_size_bytes)} of memory"
    )
    estimates = simulated_estimates(recipe.memory_size_bytes, recipe.parity_percent)
    level_name, parity = recipe.level.name.lower(), format_parity(recipe.parity_percent)
    print(f"dumps of level {level_name}, parity {parity}; a level holds, and needs of the region at the most:")
    for level in BY_SIZE:
        held_bytes, needed_bytes = estimates[level].pages * PAGE_SIZE_BYTES, estimates[level].region_bytes
        print(f"  {level.name.lower():<9} {format_size(held_bytes):>9} {format_size(needed_bytes):>9}")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe, with what was said on the command line over it."""
    if arguments.recipe:
        recipe = read_recipe(arguments.recipe)
    elif arguments.size and arguments.memory:
        recipe = Recipe(arguments.size, arguments.memory)
    else:
        raise UsageError("give --size and --memory, or --recipe FILE")
    return recipe._replace(
        size_bytes=arguments.size or recipe.size_bytes,
        memory_size_bytes=arguments.memory or recipe.memory_size_bytes,
        level=recipe.level if arguments.levels is None else arguments.levels,
        parity_percent=recipe.parity_percent if arguments.parity is None else arguments.parity,
        region_kind=region_kind_named(arguments.region) if arguments.region else recipe.region_kind,
    )
