"""Which build judges: a digest over the sources that decide what is found, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import blake3

ROOT = Path(__file__).parents[2]
SOURCES = (
    "dumpwriter/*.py",
    "dumpwriter/campaign/*.py",
    "dumpwriter/crash/*.py",
    "dumpwriter/formats/*.py",
    "dumpwriter/lab/*.py",
    "dumpwriter/memory/*.py",
    "dumpwriter/recovery/*.py",
    "vdisk/*.py",
    "vdisk/layers/*.py",
)


def build_digest() -> str:
    """BLAKE3 over names and contents, in the order of the names."""
    digest = blake3.blake3()
    for name in sorted(path.relative_to(ROOT).as_posix() for pattern in SOURCES for path in ROOT.glob(pattern)):
        content = (ROOT / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return str(digest.hexdigest())
