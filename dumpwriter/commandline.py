"""Our commands as a message gives them to its reader: to be taken over into a shell as they stand."""

from __future__ import annotations

import shlex

KEY_FILE = ("--key-file", "FILE")


def command_line(*words: str, encrypted: bool = False) -> str:
    """`ghostdump WORDS…`, each word quoted where a shell asks for it; the image of an encrypted disk needs its key."""
    return shlex.join(("ghostdump", *words, *(KEY_FILE if encrypted else ())))


def opening_command_line(path: str) -> str:
    """What opens a sealed dump, in a file of its own."""
    return command_line("recover", path, "--dump-private-key", "PRIVATE.pem", "--output", "DIR")
