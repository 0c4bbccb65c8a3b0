"""The driver stack and its module table: loaded live from files, or cloned from code that no file stands behind.

A clone is the code of a live driver, compiled anew from its source and marshalled: bytecode that runs is specialised in
place, so the code of the live driver itself is not what was loaded. Whoever holds the image can make the driver from it
in a fresh interpreter, without a path look-up.

A driver is a module with `attach(lower)`, or `attach(lower, key)` where it is a filter that is started with a key.
"""

from __future__ import annotations

import importlib
import inspect
import marshal
import os
import types
from typing import TYPE_CHECKING, NamedTuple, cast

import blake3

from vdisk import drivers
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice
    from vdisk.controller import Controller
    from vdisk.secret import Secret

SIGNER_VERIFIED = "verified"
SIGNER_DIFFERS = "not verified: the file is not what was loaded"
SIGNER_NO_FILE = "cannot be verified: no file stands behind it"


class Drivers(NamedTuple):
    """The drivers of one kind of volume, by name, from the controller upwards: those that run live, those to clone."""

    live: tuple[str, ...]
    cloned: tuple[str, ...]


PLAIN = Drivers(live=("storahci", "diskdump"), cloned=("storahci", "diskdump"))
ENCRYPTED = Drivers(live=("storahci", "fve", "diskdump"), cloned=("storahci", "dumpfve", "diskdump"))
KEYED = ("fve", "dumpfve")


class CloneImage(NamedTuple):
    """The code of one cloned driver, ready to be loaded. `code` is marshalled; `key` is what it is started with."""

    name: str
    code: bytes
    key: Secret = NO_KEY


class Module(NamedTuple):
    """A row of the module table, as a system's tool would show it.

    A clone stands where its file would be if it had one: at its path there is nothing, so it has neither version nor
    description, and its signer says why nobody can verify it.
    """

    name: str
    address: int
    size_bytes: int
    digest: str
    path: str
    version: str
    description: str
    signer: str


class Stack(NamedTuple):
    """A loaded stack: the device on top of it, and its modules from the controller upwards."""

    device: BlockDevice
    modules: tuple[Module, ...]


def load_live(controller: Controller, key: Secret) -> Stack:
    """Load the drivers from their files and attach them; the port driver initialises the controller."""
    device: object = controller
    rows = []
    for name in drivers_of(key).live:
        module = importlib.import_module(f"vdisk.drivers.{name}")
        rows.append(_live_row(name, module))
        device = _attached(module, device, _key_for(name, key))
    return Stack(cast("BlockDevice", device), tuple(rows))


def clone(prefix: str, key: Secret) -> tuple[CloneImage, ...]:
    """The images of all drivers under a prefix (`dump_`, `hiber_`), from the controller upwards."""
    return tuple(CloneImage(prefix + name, _compiled(name), _key_for(name, key)) for name in drivers_of(key).cloned)


def drivers_of(key: Secret) -> Drivers:
    return ENCRYPTED if key else PLAIN


def _key_for(name: str, key: Secret) -> Secret:
    """No driver is given a key that it has no use for."""
    return key if name in KEYED else NO_KEY


def _attached(module: types.ModuleType, lower: object, key: Secret) -> object:
    return module.attach(lower, key) if key else module.attach(lower)


def load_clone(images: tuple[CloneImage, ...]) -> Clone:
    """Make drivers of checked images; no disk is touched. The images must be trusted: they are code."""
    loaded = []
    for image in images:
        module = types.ModuleType(image.name)
        exec(marshal.loads(image.code), module.__dict__)  # noqa: S102, S302 - sealed and digested by the caller
        loaded.append(module)
    rows = [_clone_row(image, module) for image, module in zip(images, loaded, strict=True)]
    return Clone(tuple(loaded), tuple(rows), tuple(image.key for image in images))


class Clone(NamedTuple):
    """Cloned drivers in memory, not yet on any controller."""

    loaded: tuple[types.ModuleType, ...]
    modules: tuple[Module, ...]
    keys: tuple[Secret, ...]

    def set_aside(self) -> None:
        """Let each driver that has `set_aside` make what this thread will need. To be called before confinement."""
        for module in self.loaded:
            if hasattr(module, "set_aside"):
                module.set_aside()

    def attach(self, controller: Controller) -> BlockDevice:
        """Take the controller over, in whatever state it is. Raises `ControllerError` where it cannot be woken."""
        device: object = controller
        for module, key in zip(self.loaded, self.keys, strict=True):
            device = _attached(module, device, key)
        return cast("BlockDevice", device)


def _compiled(name: str) -> bytes:
    source = inspect.getsource(importlib.import_module(f"vdisk.drivers.{name}"))
    return _compile(source, name)


def _compile(source: str, name: str) -> bytes:
    return marshal.dumps(compile(source, f"<{name}>", "exec", dont_inherit=True))


def _live_row(name: str, module: types.ModuleType) -> Module:
    code = _compiled(name)
    return Module(
        name=name,
        address=id(module),
        size_bytes=len(code),
        digest=blake3.blake3(code).hexdigest(),
        path=_path_of(name),
        version=module.VERSION,
        description=module.DESCRIPTION,
        signer=signer_of(_path_of(name), code),
    )


def signer_of(path: str, code: bytes) -> str:
    """Whether the file at a path still compiles to the code that was loaded."""
    try:
        with open(path, encoding="utf-8") as file:
            found = _compile(file.read(), os.path.basename(path).removesuffix(".py"))
    except FileNotFoundError:
        return SIGNER_NO_FILE
    except (OSError, ValueError, SyntaxError):
        return SIGNER_DIFFERS
    return SIGNER_VERIFIED if found == code else SIGNER_DIFFERS


def _clone_row(image: CloneImage, module: types.ModuleType) -> Module:
    return Module(
        name=image.name,
        address=id(module),
        size_bytes=len(image.code),
        digest=blake3.blake3(image.code).hexdigest(),
        path=_path_of(image.name),
        version="",
        description="",
        signer=signer_of(_path_of(image.name), image.code),
    )


def _path_of(name: str) -> str:
    return os.path.join(os.path.dirname(drivers.__file__), f"{name}.py")
