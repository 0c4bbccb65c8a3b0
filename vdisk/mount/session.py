"""One FUSE session: mount, serve until told to stop or unmounted, and leave no mount behind.

pyfuse3 keeps one session per process in module globals, so `serve` may be called again only after it has returned.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import TYPE_CHECKING

import pyfuse3
import trio

from vdisk.errors import MountError
from vdisk.mount import linger, mountinfo
from vdisk.mount.attach import attached, check_mountpoint, escape_option
from vdisk.mount.groups import ungrouped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_AHEAD_KIB = 1024
_ANSWER_SECONDS = 10.0
_FLUSH_SECONDS = 5.0
_END_SECONDS = 1.0


async def serve(
    operations: pyfuse3.Operations,
    mountpoint: str,
    *,
    source: str,
    stop: trio.Event,
    allow_other: bool = False,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Mount, call `on_ready` once the mount answers, and serve until `stop` is set or somebody unmounts, which
    sets `stop` too.

    `source` is what the table of mounts names as the device, the image's path. On return or on any exception, a
    cancellation included, nothing is mounted any more. A filesystem behind the operations is the caller's to close.
    Raises MountError.

    This process must hold no file of the mount open: starting a program closes them in the child, which then waits for
    an answer from us, while vfork keeps us waiting for the child.
    """
    mountpoint = check_mountpoint(mountpoint)
    with attached(mountpoint, _options(source, allow_other=allow_other)) as descriptor:
        mount = mountinfo.find(mountpoint)
        if mount is None or mount.type != mountinfo.TYPE:
            os.close(descriptor)
            raise MountError(f"{mountpoint}: the mount was taken away as soon as it was made; try again")
        with _initialised(operations, descriptor):
            await _serve_until_stopped(mount, stop, on_ready)


def _options(source: str, *, allow_other: bool) -> list[str]:
    options = ["rw", "default_permissions", f"fsname={escape_option(source)}", "subtype=ghostdump"]
    return [*options, "allow_other"] if allow_other else options


@contextlib.contextmanager
def _initialised(operations: pyfuse3.Operations, descriptor: int) -> Iterator[None]:
    """Give pyfuse3 the connection, which it closes at the end: what is still mounted then is dead, and never hangs."""
    linger.install()
    try:
        pyfuse3.init(operations, f"/dev/fd/{descriptor}", set())
    except BaseException:
        os.close(descriptor)  # open and unanswered, it would hang the watcher
        raise
    try:
        yield
    finally:
        pyfuse3.close(unmount=False)


async def _serve_until_stopped(mount: mountinfo.Mount, stop: trio.Event, on_ready: Callable[[], object]) -> None:
    ended = trio.Event()
    with ungrouped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_requests, ended, stop)
            try:
                await _wait_until_usable(mount)
                _raise_read_ahead(mount)
                on_ready()
                await stop.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await _take_down(mount, ended)


async def _answer_requests(ended: trio.Event, stop: trio.Event) -> None:
    """Answer until the mount is gone. Shielded, because unmounting needs answers too, after a cancellation as well.

    One task: the handlers are synchronous, and a second one would only wait for its turn.
    """
    try:
        with trio.CancelScope(shield=True):
            await pyfuse3.main(min_tasks=1, max_tasks=1)
    finally:
        ended.set()
        stop.set()


async def _wait_until_usable(mount: mountinfo.Mount) -> None:
    """Ask the kernel for the filesystem's figures: the answer proves that requests go through."""
    try:
        with trio.fail_after(_ANSWER_SECONDS):
            await trio.to_thread.run_sync(os.statvfs, mount.mountpoint, abandon_on_cancel=True)
    except (trio.TooSlowError, OSError) as error:
        raise MountError(
            f"{mount.mountpoint}: mounted, but it does not answer; see the kernel's log (dmesg)"
        ) from error


def _raise_read_ahead(mount: mountinfo.Mount) -> None:
    """Let sequential reads come in larger requests. Only root may; without, reads are right but slower."""
    setting = pathlib.Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb")
    with contextlib.suppress(PermissionError, FileNotFoundError):
        setting.write_text(str(_READ_AHEAD_KIB))


async def _take_down(mount: mountinfo.Mount, ended: trio.Event) -> None:
    """Unmount while requests are still answered; lazily where a client stays inside; end the loop in any case."""
    if not ended.is_set() and not await _unmount(mount):
        with trio.move_on_after(_FLUSH_SECONDS):
            await trio.to_thread.run_sync(pyfuse3.syncfs, mount.mountpoint, abandon_on_cancel=True)
        await _unmount(mount, "-z")
    with trio.move_on_after(_END_SECONDS):
        await ended.wait()
    if not ended.is_set():
        pyfuse3.terminate()


async def _unmount(mount: mountinfo.Mount, *flags: str) -> bool:
    """Try to unmount, wherever the mount stands by now; tell whether it is gone."""
    present = mountinfo.find_again(mount)
    if present and mountinfo.find(present.mountpoint) == present:
        await trio.to_thread.run_sync(mountinfo.unmount, present.mountpoint, *flags)
    return mountinfo.find_again(mount) is None
