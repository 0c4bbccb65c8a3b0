"""How fast ghostdump is, as ratios of times that were measured in turn in one run; `make bench` runs it.

Conversion stands beside makedumpfile on the same vmcore of 1 GiB: simulated memory that holds real bytes, a third of
them shared libraries, a third text, a third zeros. A dump stands beside a plain loop that writes as many bytes with
O_DIRECT. Nothing is asserted: machines differ, and what runs beside differs more. BENCH_DIR names the directory to
work in (/var/tmp by default); it needs 5 GiB and a filesystem that knows O_DIRECT.
"""

from __future__ import annotations

import glob
import itertools
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.memory.source import PageClass
from tests.vmcores import write_vmcore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 3
MIB = 1 << 20
MEMORY_BYTES = 1024 * MIB
FILL_BYTES = 4 * MIB
REQUEST_BYTES = MIB
LIBRARIES = "/usr/lib/*/*.so*"
TEXTS = "/usr/share/doc/*/*", "/usr/lib/python3/dist-packages/**/*.py", "/usr/include/**/*.h"
FILLED = (PageClass.KERNEL_DATA, PageClass.USER, PageClass.CACHE, PageClass.FREE)
GHOSTDUMP = str(Path(sys.executable).parent / "ghostdump")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR", "/var/tmp")) as name:
        directory = Path(name)
        os.chdir(directory)
        with closing(SimulatedMemory(MEMORY_BYTES)) as source:
            fill(source)
            write_vmcore(directory / "vmcore", source.memory)
        print(f"{ROUNDS} rounds each, in turn; the median, and how many times as fast as the other")
        compare_conversion("-d 0 -c", "-d", "0", "--compress", "zlib")
        compare_conversion("-d 31 -l", "-d", "31", "--compress", "lzo")
        compare_dump()


def fill(source: SimulatedMemory) -> None:
    """Real bytes in all pages but those by which readers find their way."""
    contents = itertools.cycle((bytes_of(LIBRARIES), bytes_of(*TEXTS), zeros()))
    for run in source.page_classes():
        start, end = run.first_page * 4096, (run.first_page + run.page_count) * 4096
        for address in range(start, end if run.page_class in FILLED else start, FILL_BYTES):
            piece = next(next(contents))[: end - address]
            if any(piece):
                source.memory.write(address, piece)


def bytes_of(*patterns: str) -> Iterator[bytes]:
    """The content of files in pieces, over and over."""
    files = sorted(path for pattern in patterns for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    rest = b""
    for path in itertools.cycle(files):
        rest += Path(path).read_bytes()
        while len(rest) >= FILL_BYTES:
            yield rest[:FILL_BYTES]
            rest = rest[FILL_BYTES:]


def zeros() -> Iterator[bytes]:
    return itertools.repeat(bytes(FILL_BYTES))


def compare_conversion(theirs: str, *ours: str) -> None:
    if shutil.which("makedumpfile") is None:
        print(f"makedumpfile {theirs}: it is not installed")
        return
    convert = [GHOSTDUMP, "convert", "vmcore", "--to", "kdump", *ours, "--no-digest", "--force", "-o", "ours"]
    makedumpfile = ["makedumpfile", "-f", *theirs.split(), "vmcore", "theirs"]
    mine, other = in_turn(lambda: run(convert), lambda: run(makedumpfile))
    sizes = ", ".join(f"{os.path.getsize(name) / MIB:.0f} MiB" for name in ("ours", "theirs"))
    tell(f"convert --to kdump {' '.join(ours)}", mine, f"makedumpfile {theirs}", other, sizes)


def compare_dump() -> None:
    """The standby's own time of a dump, and that of as many bytes written in order."""
    written = 0

    def dump() -> float:
        nonlocal written
        run([GHOSTDUMP, "create", "disk.img", "--size", "2GiB", "--memory", "1GiB"])
        os.makedirs("mnt", exist_ok=True)
        run([GHOSTDUMP, "mount", "disk.img", "mnt", "--memory-image", "vmcore"])
        told = json.loads(subprocess.run([GHOSTDUMP, "crash", "mnt", "--json"], capture_output=True, check=True).stdout)
        run([GHOSTDUMP, "unmount", "mnt"])
        os.unlink("disk.img")
        written = told["bytes_written"]
        return float(told["seconds"])

    mine, other = in_turn(dump, lambda: write_plainly(written))
    tell(f"a dump of {written / MIB:.0f} MiB", mine, "plain O_DIRECT writes", other)


def write_plainly(size_bytes: int) -> float:
    descriptor = os.open("plain", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        with mmap.mmap(-1, REQUEST_BYTES) as buffer:
            buffer.write(os.urandom(REQUEST_BYTES))
            began = time.monotonic()
            for offset in range(0, size_bytes - size_bytes % REQUEST_BYTES, REQUEST_BYTES):
                os.pwrite(descriptor, buffer, offset)
            os.fdatasync(descriptor)
            return time.monotonic() - began
    finally:
        os.close(descriptor)
        os.unlink("plain")


def run(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def in_turn(mine: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """The medians of both, measured alternately: what else the machine does then slows both."""
    times = [(mine(), other()) for _ in range(ROUNDS)]
    return statistics.median(first for first, _ in times), statistics.median(second for _, second in times)


def tell(what: str, seconds: float, other: str, other_seconds: float, remark: str = "") -> None:
    ratio = f"{other_seconds / seconds:.2f}"
    print(f"{ratio:>6} x   {what}: {seconds:.2f} s; {other}: {other_seconds:.2f} s{'; ' + remark if remark else ''}")


main()
