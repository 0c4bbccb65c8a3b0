"""Shards that were judged, one small file each in a directory: what a campaign goes on from, and what is merged."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dumpwriter.campaign.document import decode, encode
from vdisk.errors import CampaignError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dumpwriter.lab.shard import Campaign, Judged

SIZE_BYTES_MAX = 1 << 20  # far more than a shard takes
ENDING = ".json"


class Store:
    """Raises `CampaignError` where nothing can be kept in the directory, OSError where it cannot be read."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def make(self) -> None:
        """For its owner alone, where it is not there yet; what it is to be made in must be."""
        try:
            self._directory.mkdir(mode=0o700)
        except FileNotFoundError:
            raise CampaignError(f"{self._directory} cannot be made: make {self._directory.parent} first") from None
        except FileExistsError:
            if not self._directory.is_dir():
                raise CampaignError(f"{self._directory} is no directory: name one to keep shards in") from None

    def save(self, judged: Judged) -> None:
        """All of it or nothing, and durable; over what stands there under the name."""
        path = self._directory / judged.shard.file_name
        temporary = self._directory / f".{path.name}.{os.getpid()}"
        try:
            _write(temporary, encode(judged))
            temporary.replace(path)
        except OSError as refusal:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise CampaignError(
                f"{path} cannot be kept: {refusal.strerror}: mend that, and give the same command again, which goes on "
                "where this one ended"
            ) from None

    def of(self, campaign: Campaign, tell: Callable[[str], None]) -> Iterator[Judged]:
        """The shards of a campaign. A damaged one is told of and set aside, and is judged again."""
        for path in self._paths():
            if not path.name.startswith(f"{campaign.scenario}-{campaign.seed}-"):
                continue
            try:
                judged = _load(path)
            except FormatError as error:
                path.replace(path.with_suffix(".damaged"))
                tell(f"{error}: set aside as {path.with_suffix('.damaged').name}, its cases are judged again")
                continue
            if judged.shard.campaign == campaign:
                yield judged

    def all(self) -> Iterator[Judged]:
        """Raises `CampaignError` where one of them is none."""
        for path in self._paths():
            try:
                yield _load(path)
            except FormatError as error:
                raise CampaignError(f"{error}: judge it again, or move it away") from None

    def _paths(self) -> list[Path]:
        return sorted(Path(entry.path) for entry in os.scandir(self._directory) if entry.name.endswith(ENDING))


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path) -> Judged:
    """Raises `FormatError` where it is not what its name says."""
    try:
        judged = decode(_content(path))
    except FormatError as error:
        raise FormatError(f"{path} {error}") from None
    if judged.shard.file_name != path.name:
        raise FormatError(f"{path} is the shard {judged.shard.file_name}")
    return judged._replace(path=str(path))


def _content(path: Path) -> bytes:
    """Never waits for a pipe, nor for more than a shard takes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FormatError("is no file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(SIZE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > SIZE_BYTES_MAX:
        raise FormatError("is no shard of a campaign")
    return content
