"""Passphrases and key files, of encrypted images and of sealed dumps: never an argument, never a message."""

from __future__ import annotations

import functools
import getpass
import sys
from typing import TYPE_CHECKING

from dumpwriter.recovery.offlinedisk import unlock_image
from vdisk.errors import KeyFileError, LockedImageError, UsageError
from vdisk.secret import Secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from dumpwriter.recovery.opening import Opener

KEY_FILE_SIZE_BYTES_MAX = 1 << 20


def volume_key(arguments: argparse.Namespace) -> Secret:
    """The volume key of the image; empty where it is plain. Asks where it has to, and only then.

    Raises `LockedImageError` where there is nobody to ask, or the answer is wrong.
    """
    key = unlock_image(arguments.image, functools.partial(_existing_secret, arguments))
    if arguments.key_file and not key:
        raise UsageError(f"{arguments.image} is not encrypted, or its key slots are lost: leave --key-file out")
    return key


def new_secret(arguments: argparse.Namespace) -> Secret:
    """What is to unlock a new image."""
    if arguments.key_file:
        return _read_key_file(arguments.key_file)
    if not sys.stdin.isatty():
        raise UsageError("--encrypt: give --key-file FILE, or run it on a terminal to be asked for a passphrase")
    secret = _prompt("new passphrase: ")
    if _prompt("once more: ") != secret:
        raise UsageError("the two passphrases differ; nothing was made")
    return secret


def dump_opener(arguments: argparse.Namespace) -> Callable[[], Opener] | None:
    """What makes an opener for each sealed dump; None where no private key is given. Raises `KeyFileError`."""
    path = arguments.dump_private_key
    if path is None:
        return None
    from dumpwriter.dumpkeys import load_private_key
    from dumpwriter.recovery.unsealing import WithPrivateKey

    return functools.partial(WithPrivateKey, load_private_key(path, lambda: _passphrase_of_key(path)))


def _passphrase_of_key(path: str) -> Secret:
    if not sys.stdin.isatty():
        raise KeyFileError(f"{path} has a passphrase: run it on a terminal to be asked for it")
    return _prompt(f"passphrase of {path}: ")


def _existing_secret(arguments: argparse.Namespace) -> Secret:
    if arguments.key_file:
        return _read_key_file(arguments.key_file)
    if not sys.stdin.isatty():
        raise LockedImageError(
            f"{arguments.image} is encrypted: give --key-file FILE, "
            "or run it on a terminal to be asked for its passphrase"
        )
    return _prompt(f"passphrase of {arguments.image}: ")


def _prompt(text: str) -> Secret:
    try:
        secret = Secret(getpass.getpass(text).encode(errors="surrogateescape"))
    except EOFError:
        raise UsageError("no passphrase was given") from None
    if not secret:
        raise UsageError("an empty passphrase protects nothing: give one")
    return secret


def _read_key_file(path: str) -> Secret:
    """Every byte of it, a newline at its end too."""
    try:
        with open(path, "rb") as file:
            content = Secret(file.read(KEY_FILE_SIZE_BYTES_MAX + 1))
    except OSError as error:
        raise UsageError(f"cannot read the key file {path}: {error.strerror}") from None
    if not 0 < len(content) <= KEY_FILE_SIZE_BYTES_MAX:
        raise UsageError(f"the key file {path} is empty or has more than {KEY_FILE_SIZE_BYTES_MAX} bytes")
    return content
