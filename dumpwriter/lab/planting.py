"""Planting a fault: a text of one module is replaced before the module is compiled. Nothing on the disk changes.

A fault is planted in a process of its own, before anything of the product is imported there; it goes when the process
ends. Whoever changes the text carries the row of the table along: it must stand in its module as often as the row says.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType


class PlantedFault(NamedTuple):
    """`source`, which stands `places` times in the module, becomes something else. `breaks` says what is then wrong."""

    name: str
    module: str
    source: str
    becomes: str
    breaks: str
    places: int = 1


class PlantingError(Exception):
    """The text that is to be replaced is not in its module, or not as often as it should be."""


def planted_source(fault: PlantedFault, source: str) -> str:
    """The module's source with the fault in it. Raises `PlantingError`."""
    count = source.count(fault.source)
    if count != fault.places:
        raise PlantingError(
            f"planted fault {fault.name}: its text stands {count} times in {fault.module}, not {fault.places}: "
            f"copy what the text has become into its row in dumpwriter/lab/planted, with the same fault in it, "
            f"or give up the row where nothing of the kind can go wrong any more: {fault.source!r}"
        )
    return source.replace(fault.source, fault.becomes)


def plant(fault: PlantedFault) -> None:
    """Let this process import the module with the fault in it, whenever it does. Raises `PlantingError`."""
    assert fault.module not in sys.modules, f"{fault.module} was imported before the fault was planted"
    source = planted_source(fault, source_of(fault.module))
    sys.meta_path.insert(0, _Planter(fault.module, source))


def source_of(module: str) -> str:
    """The source of a module, which is not imported for that."""
    spec = importlib.util.find_spec(module)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise PlantingError(f"{module} is not there as source: a fault can only be planted in that")
    return spec.loader.get_data(spec.loader.path).decode()


class _Planter:
    """Finds the one module, and has it loaded with the fault."""

    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PlantingLoader(spec.loader, self._source)
        return spec


class _PlantingLoader(SourceFileLoader):
    """Neither takes nor leaves compiled code beside the source."""

    def __init__(self, loader: SourceFileLoader, source: str) -> None:
        super().__init__(loader.name, loader.path)
        self._planted = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the loader's interface
        code: CodeType = compile(self._planted, self.path, "exec", dont_inherit=True)
        return code
