"""Fetch archives: resumed where they broke off, and checked before they are unpacked."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from benchmarks.datasets.dataset import DatasetError
from benchmarks.datasets.unpacking import unpack
from zoo.transfer import OFFLINE, WrongFile, is_offline, no_room, receive

__all__ = ["Archive", "fetch", "fetch_and_unpack", "tree_sha256", "unpack"]


@dataclass(frozen=True)
class Archive:
    """A file that somebody else serves.

    Attributes:
        url: Where.
        sha256: Of its bytes; None where the server packs anew at each request, so that only the content can be checked.
        size: Bytes, or None likewise.
    """

    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.url).name


def fetch(archive: Archive, folder: Path, *, attempts: int = 5, wait: float = 2.0) -> Path:
    """Download into `folder` unless the file is there, and return it.

    A broken transfer goes on where it stopped, in this call and in the next one. What was there already is checked as
    what comes is; where a part of it was there and the whole is not what was expected, it is fetched anew once.

    Args:
        archive: What to fetch.
        folder: Where to; made if needed.
        attempts: How often the connection may break without a single new byte.
        wait: Seconds before the second attempt; doubled for each further one.

    Raises:
        DatasetError: The server cannot be reached or refuses, or the bytes are not the expected ones. What was
            received is kept in the first case and removed in the last. Or the file that is there is another one, or
            it is missing and `DETECTOR_ZOO_OFFLINE` is set.
    """
    file, part = folder / archive.name, folder / f"{archive.name}.part"
    if file.is_file():
        if wrong := _complaint(archive, file):
            raise DatasetError(f"{file}: {wrong}; remove it, and it is fetched again")
        return file
    if is_offline():
        raise DatasetError(
            f"{archive.name} is not in {folder}, and {OFFLINE} is set: get {archive.url} elsewhere and put it there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # What is there of an earlier try may be the beginning of another file under the same address: then all anew, once.
    for _ in range(2 if part.exists() else 1):
        try:
            _transfer(archive, part, attempts, wait)
            wrong = _complaint(archive, part)
        except WrongFile as error:
            wrong = str(error)
        if wrong is None:
            os.replace(part, file)
            return file
        part.unlink(missing_ok=True)
    raise DatasetError(
        f"{archive.url}: what it sent {wrong}; removed. Either the transfer was damaged (fetch again) or the file is "
        "another one (do not use it)"
    )


def _transfer(archive: Archive, part: Path, attempts: int, wait: float) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(archive.name, total=archive.size)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                for done, total in receive(archive.url, part, size=archive.size):
                    progress.update(task, completed=done, total=total)
                return
            except HTTPError as error:
                raise DatasetError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
            except (http.client.HTTPException, OSError) as error:
                if said := no_room(error, part):
                    raise DatasetError(said) from error
                grown = part.exists() and part.stat().st_size > before
                failures = 0 if grown else failures + 1
                if failures >= attempts:
                    reason = getattr(error, "reason", error)
                    raise DatasetError(
                        f"{archive.url}: the transfer breaks off ({reason}); what came is kept in {part}, "
                        "call again to go on, or fetch the file by other means and put it beside"
                    ) from error
                time.sleep(wait * 2 ** max(0, failures - 1))


def _complaint(archive: Archive, path: Path) -> str | None:
    """Why a file is not the archive; None where it is, as far as is known."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"has {size} bytes instead of {archive.size}"
    if archive.sha256 is None:
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == archive.sha256 else f"has the sha256 {found}, expected is {archive.sha256}"


def fetch_and_unpack(archive: Archive, folder: Path) -> None:
    """`fetch`, `unpack`, and remove the archive. Done already, as a mark in the folder says, it does nothing."""
    mark = folder / f".{archive.name}.unpacked"
    if not mark.exists():
        file = fetch(archive, folder)
        unpack(file, folder)
        mark.touch()
        file.unlink()


def tree_sha256(folder: Path) -> str:
    """sha256 over the sorted relative names and the sha256 of every file beneath `folder`."""
    digest = hashlib.sha256()
    for path in sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()
