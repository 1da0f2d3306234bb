"""Unpack archives from elsewhere: plain files and folders below one folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from benchmarks.datasets.dataset import DatasetError
from zoo.transfer import no_room

__all__ = ["unpack"]

_RATIO = 100
_ALWAYS = 64 << 20
"""An archive may unpack to so many times its size, or to so many bytes; images hardly shrink, annotations fourfold."""

_MOST_MEMBERS = 2_000_000


class _Refused(Exception):
    """What an archive of images has no need for; in words, without the file."""


class _Contents:
    """Counts the members of an archive, and refuses the first that is none of a data set's.

    Args:
        size: Of the archive, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.room = max(_ALWAYS, _RATIO * size)
        self.names: set[str] = set()

    def admit(self, name: str, size: int, plain: bool) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise _Refused(f"{name[:80]!r} leads out of the folder")
        if not plain:
            raise _Refused(f"{name[:80]!r} is a link or a device")
        if str(path) in self.names:
            raise _Refused(f"{name[:80]!r} stands in it twice")
        self.names.add(str(path))
        self.room -= size
        if self.room < 0 or len(self.names) > _MOST_MEMBERS:
            raise _Refused(f"it unpacks to over {_RATIO} times its size")


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar or zip archive into `folder`, beside what is there.

    Members land in a temporary folder first, so that a broken archive leaves nothing behind.

    Raises:
        DatasetError: It is no archive, is truncated or encrypted, or holds what no data set does: a path out of the
            folder, a link, a device, a name twice, or a hundred times its own size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpack."))
    try:
        _extract(file, temporary)
        for source in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = folder / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    # A damaged archive can fail in any way.
    except Exception as error:
        if said := no_room(error, file):
            raise DatasetError(f"{file}: cannot be unpacked; {said}") from error
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{file}: cannot be unpacked ({reason}); remove it and fetch it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(file: Path, folder: Path) -> None:
    contents = _Contents(file.stat().st_size)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                contents.admit(member.filename, member.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            archive.extractall(folder)
        return
    with tarfile.open(file) as archive_of_tar:
        members = []
        for entry in archive_of_tar:
            contents.admit(entry.name, entry.size, entry.isfile() or entry.isdir())
            members.append(entry)
        archive_of_tar.extractall(folder, members, filter="data")
