"""The driver stack and its module table: loaded live from files, or cloned from code that no file stands behind.

A clone is the code of a live driver, compiled anew from its source and marshalled: bytecode that runs is specialised in
place, so the code of the live driver itself is not what was loaded. Whoever holds the image can make the driver from it
in a fresh interpreter, without a path look-up.
"""

from __future__ import annotations

import importlib
import inspect
import marshal
import types
from typing import TYPE_CHECKING, NamedTuple, cast

import blake3

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.controller import Controller

DRIVERS = ("storahci", "diskdump")  # from the controller upwards


class CloneImage(NamedTuple):
    """The code of one cloned driver, ready to be loaded. `code` is marshalled."""

    name: str
    code: bytes


class Module(NamedTuple):
    """A row of the module table. A clone has no file: its path is empty, and so is what a file would tell."""

    name: str
    address: int
    size_bytes: int
    digest: str
    path: str
    version: str
    description: str


class Stack(NamedTuple):
    """A loaded stack: the device on top of it, and its modules from the controller upwards."""

    device: BlockDevice
    modules: tuple[Module, ...]


def load_live(controller: Controller) -> Stack:
    """Load the drivers from their files and attach them; the port driver initialises the controller."""
    device: object = controller
    rows = []
    for name in DRIVERS:
        module = importlib.import_module(f"vdisk.drivers.{name}")
        path = inspect.getsourcefile(module) or ""
        rows.append(_row(name, module, _compiled(name), path, module.VERSION, module.DESCRIPTION))
        device = module.attach(device)
    return Stack(cast("BlockDevice", device), tuple(rows))


def clone(prefix: str) -> tuple[CloneImage, ...]:
    """The images of all drivers under a prefix (`dump_`, `hiber_`), from the controller upwards."""
    return tuple(CloneImage(prefix + name, _compiled(name)) for name in DRIVERS)


def load_clone(images: tuple[CloneImage, ...]) -> Clone:
    """Make drivers of checked images; no disk is touched. The images must be trusted: they are code."""
    loaded = []
    for name, code in images:
        module = types.ModuleType(name)
        exec(marshal.loads(code), module.__dict__)  # noqa: S102, S302 - sealed and digested by the caller
        loaded.append(module)
    rows = [_row(image.name, module, image.code, "", "", "") for image, module in zip(images, loaded, strict=True)]
    return Clone(tuple(loaded), tuple(rows))


class Clone(NamedTuple):
    """Cloned drivers in memory, not yet on any controller."""

    loaded: tuple[types.ModuleType, ...]
    modules: tuple[Module, ...]

    def attach(self, controller: Controller) -> BlockDevice:
        """Take the controller over, in whatever state it is. Raises `ControllerError` where it cannot be woken."""
        device: object = controller
        for module in self.loaded:
            device = module.attach(device)
        return cast("BlockDevice", device)


def _compiled(name: str) -> bytes:
    source = inspect.getsource(importlib.import_module(f"vdisk.drivers.{name}"))
    return marshal.dumps(compile(source, f"<{name}>", "exec", dont_inherit=True))


def _row(name: str, module: types.ModuleType, code: bytes, path: str, version: str, description: str) -> Module:
    return Module(name, id(module), len(code), blake3.blake3(code).hexdigest(), path, version, description)
