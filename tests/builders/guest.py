"""A real Linux in QEMU that panics, and its memory as an ELF core. Imports nothing of the product.

Needs `apt-get install qemu-system-x86 linux-image-cloud-amd64 busybox-static`, or the two latter unpacked with
`dpkg-deb -x` below the directory that GHOSTDUMP_GUEST_ROOT names. It runs under TCG: it needs no rights and no KVM.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(os.environ.get("GHOSTDUMP_GUEST_ROOT", "/"))
SECONDS_MAX = 240
LINKS = ("sh", "mount", "insmod", "sleep", "echo", "dd", "cat", "seq", "sync")
MODULES = (
    *("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev"),
    *("virtio/virtio_pci", "virtio/virtio_balloon", "block/virtio_blk", "firmware/qemu_fw_cfg"),
)
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in {modules}; do insmod /$module.ko; done
mount -t tmpfs tmp /tmp
dd if=/dev/urandom of=/tmp/noise bs=64k count=64
echo 2 > /proc/sys/vm/nr_hugepages
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count=64
sync
cat /mnt/file > /dev/null
for process in 1 2 3; do sleep 1000 & done
for line in $(seq 1 {lines}); do echo "line $line of init, as it was said to the log of the kernel" > /dev/kmsg; done
echo READY
sleep 3
echo c > /proc/sysrq-trigger
"""


class Guest(NamedTuple):
    """What a guest is like: its processor, its command line beyond the console, how much it says to its log."""

    name: str
    processor: str
    command_line: str
    lines: int
    memory_mib: int = 192


FIVE_LEVELS = Guest("five-levels", "max", "", 100)
FOUR_LEVELS = Guest("four-levels", "qemu64", "nokaslr", 6000)


def what_is_missing() -> str | None:
    """Why no guest can be run here."""
    if shutil.which("qemu-system-x86_64") is None or shutil.which("mke2fs") is None:
        return "qemu-system-x86_64 or mke2fs is not installed"
    if not _kernels() or not (ROOT / "bin/busybox").exists():
        return f"no linux-image-cloud-amd64 or no busybox below {ROOT}; name another place in GHOSTDUMP_GUEST_ROOT"
    return None


def crash(guest: Guest, directory: Path) -> Path:
    """Run a guest until it has panicked; the ELF core that QEMU writes of it."""
    (directory / "initramfs").write_bytes(gzip.compress(_initramfs(guest), 1))
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
    with _running(guest, directory) as monitor:
        monitor.wait_for("READY")
        monitor.order("balloon", value=(guest.memory_mib - 8) << 20)
        monitor.wait_for("---[ end Kernel panic")
        core = directory / "core"
        monitor.order("dump-guest-memory", paging=False, protocol=f"file:{core}")
        monitor.order("quit")
    return core


@contextlib.contextmanager
def _running(guest: Guest, directory: Path) -> Iterator[Monitor]:
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", guest.processor, "-smp", "2"]
    command += ["-m", f"{guest.memory_mib}M", "-nodefaults", "-no-reboot", "-display", "none", "-action", "panic=pause"]
    command += ["-kernel", str(_kernels()[-1]), "-initrd", "initramfs"]
    command += ["-append", f"console=ttyS0 panic=0 loglevel=4 printk.devkmsg=on {guest.command_line}"]
    command += ["-serial", "file:console", "-qmp", "unix:monitor,server=on,wait=off", "-device", "vmcoreinfo"]
    command += ["-device", "virtio-balloon-pci", "-device", "virtio-blk-pci,drive=disk"]
    command += ["-drive", "file=disk,format=raw,if=none,id=disk"]
    process = subprocess.Popen(command, cwd=directory)
    try:
        with contextlib.closing(Monitor(directory, process)) as monitor:
            yield monitor
    finally:
        process.kill()
        process.wait()


class Monitor:
    """QEMU's monitor (QMP), and the guest's console beside it. TimeoutError where the guest does not come along."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self._console = directory / "console"
        self._process = process
        self._end = time.monotonic() + SECONDS_MAX
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS_MAX)
        place = os.path.relpath(directory / "monitor")  # a socket's path is short
        while (error := self._socket.connect_ex(place)) != 0:
            self._pause(f"no monitor: {os.strerror(error)}")
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self.order("qmp_capabilities")

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def order(self, name: str, **arguments: Any) -> None:
        self._stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._stream.flush()
        while "return" not in (answer := json.loads(self._stream.readline())):
            if "error" in answer:
                raise ValueError(f"{name}: {answer['error']}")

    def wait_for(self, text: str) -> None:
        while not (self._console.exists() and text in self._console.read_text(errors="replace")):
            self._pause(f"the guest never said {text!r}")

    def _pause(self, reason: str) -> None:
        if time.monotonic() > self._end or self._process.poll() is not None:
            raise TimeoutError(reason)
        time.sleep(0.1)


def _kernels() -> list[Path]:
    return sorted((ROOT / "boot").glob("vmlinuz-*-cloud-amd64"))


def _initramfs(guest: Guest) -> bytes:
    """A cpio archive (newc) of busybox, the modules and the first process."""
    release = _kernels()[-1].name.removeprefix("vmlinuz-")
    drivers = ROOT / "lib/modules" / release / "kernel/drivers"
    init = INIT.format(modules=" ".join(Path(name).name for name in MODULES), lines=guest.lines)
    files = [(name, stat.S_IFDIR | 0o755, b"", 0, 0) for name in ("bin", "dev", "proc", "sys", "tmp", "mnt")]
    files.append(("dev/console", stat.S_IFCHR | 0o600, b"", 5, 1))
    files.append(("bin/busybox", stat.S_IFREG | 0o755, (ROOT / "bin/busybox").read_bytes(), 0, 0))
    files += [(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox", 0, 0) for name in LINKS]
    for name in MODULES:
        content = (drivers / f"{name}.ko").read_bytes()
        files.append((f"{Path(name).name}.ko", stat.S_IFREG | 0o644, content, 0, 0))
    files.append(("init", stat.S_IFREG | 0o755, init.encode(), 0, 0))
    entries = [_entry(number, *file) for number, file in enumerate(files, 1)]
    return b"".join([*entries, _entry(0, "TRAILER!!!", 0, b"", 0, 0)])


def _entry(number: int, name: str, mode: int, content: bytes, major: int, minor: int) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
