"""create: make a disk image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.cli.keys import new_secret
from dumpwriter.machine.creation import create_disk
from dumpwriter.machine.recipe import Recipe, read_recipe, region_kind_named
from dumpwriter.sizes import format_count, format_size
from vdisk.bootarea import RegionKind
from vdisk.errors import UsageError
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    import argparse

PLACES = {RegionKind.DEDICATED: "dump region", RegionKind.PAGEFILE: "page file"}


def run(arguments: argparse.Namespace) -> int:
    recipe = _recipe(arguments)
    if arguments.key_file and not arguments.encrypt:
        raise UsageError("--key-file is of use with --encrypt alone")
    extents = create_disk(arguments.image, recipe, new_secret(arguments) if arguments.encrypt else NO_KEY)
    print(
        f"{arguments.image}: {format_size(recipe.size_bytes)}, "
        f"{PLACES[recipe.region_kind]} {format_size(extents.size_bytes)} in "
        f"{format_count(len(extents.extents), 'extent')} for {format_size(recipe.memory_size_bytes)} of memory"
    )
    return 0


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
        region_kind=region_kind_named(arguments.region) if arguments.region else recipe.region_kind,
    )
