"""The project's own Python modules as syntax trees, and which of them import what. Nothing is executed to find out."""

from __future__ import annotations

import ast
from collections import deque
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).parent.parent


class Module:
    """One source file. Names are dotted, as in an import statement; a package goes by its own name."""

    def __init__(self, path: Path, root: Path = REPOSITORY) -> None:
        relative = path.relative_to(root).with_suffix("")
        self.path = path
        self.is_package = path.stem == "__init__"
        self.name = ".".join(relative.parts[:-1] if self.is_package else relative.parts)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), self.path)

    @cached_property
    def imports(self) -> frozenset[str]:
        """What this module imports when it runs, also from within functions: modules, and names that may be modules."""
        return frozenset(name for node in _executed(self.tree) for name in self._imported(node))

    def _imported(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            origin = self._origin(node)
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = node.level - 1 if self.is_package else node.level
        package = self.name.split(".")[: -above or None]
        return ".".join([*package, *filter(None, [node.module])])


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`, which only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)


def modules(*packages: str, root: Path = REPOSITORY) -> dict[str, Module]:
    """The modules of the named packages by name."""
    found = (Module(path, root) for package in packages for path in sorted((root / package).rglob("*.py")))
    return {module.name: module for module in found}


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


class Chain(NamedTuple):
    """How a module comes to import another: both ends and all between."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return " -> ".join(self.names)


def chains(start: str, known: Mapping[str, Module]) -> Iterator[Chain]:
    """The shortest way to each name that `start` imports, itself or through the known modules."""
    seen = {start}
    waiting = deque([Chain((start,))])
    while waiting:
        chain = waiting.popleft()
        yield chain
        for name in sorted(_loaded_by(chain.names[-1], known) - seen):
            seen.add(name)
            waiting.append(Chain((*chain.names, name)))


def _loaded_by(name: str, known: Mapping[str, Module]) -> set[str]:
    """To import a module runs the packages above it, too."""
    if name not in known:
        return set()
    return set(known[name].imports) | ({name.rpartition(".")[0]} - {""})
