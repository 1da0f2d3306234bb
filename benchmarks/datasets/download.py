"""Fetch archives: resumed where they broke off, checked, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from benchmarks.datasets.dataset import DatasetError

__all__ = ["Archive", "fetch", "fetch_and_unpack", "tree_sha256", "unpack"]

_BLOCK = 1 << 20


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

    A broken transfer goes on where it stopped, in this call and in the next one.

    Args:
        archive: What to fetch.
        folder: Where to; made if needed.
        attempts: How often the connection may break without a single new byte.
        wait: Seconds before the second attempt; doubled for each further one.

    Raises:
        DatasetError: The server cannot be reached or refuses, or the bytes are not the expected ones. What was
            received is kept in the first case and removed in the last.
    """
    file, part = folder / archive.name, folder / f"{archive.name}.part"
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(archive.name, total=archive.size)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                for done, total in _receive(archive, part):
                    progress.update(task, completed=done, total=total)
                break
            except HTTPError as error:
                raise DatasetError(f"{archive.url}: the server answers {error.code} {error.reason}") from error
            except (URLError, http.client.HTTPException, OSError) as error:
                grown = part.exists() and part.stat().st_size > before
                failures = 0 if grown else failures + 1
                if failures >= attempts:
                    raise DatasetError(
                        f"{archive.url}: the transfer breaks off ({error}); what came is kept in {part}, "
                        "call again to go on, or fetch the file by other means and put it beside"
                    ) from error
                time.sleep(wait * 2 ** max(0, failures - 1))
    _check(archive, part)
    os.replace(part, file)
    return file


def _receive(archive: Archive, part: Path) -> Iterator[tuple[int, int | None]]:
    """Append what is still lacking to `part`; yield bytes there and bytes in all."""
    start = part.stat().st_size if part.exists() else 0
    if archive.size is not None and start >= archive.size:
        return
    request = Request(
        archive.url, headers={"User-Agent": "detector-zoo"} | ({"Range": f"bytes={start}-"} if start else {})
    )
    try:
        response = urlopen(request, timeout=30)
    except HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # The part is as long as the file or longer: fetch it anew rather than guess which.
        part.unlink()
        response, start = urlopen(Request(archive.url, headers={"User-Agent": "detector-zoo"}), timeout=30), 0
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        done = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with part.open("ab" if resumed else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                done += len(block)
                yield done, total
        if total is not None and done < total:
            raise URLError(f"{done} of {total} bytes")


def _check(archive: Archive, part: Path) -> None:
    size = part.stat().st_size
    if archive.size is not None and size != archive.size:
        part.unlink()
        raise DatasetError(f"{archive.url}: sent {size} bytes instead of {archive.size}; removed, fetch it again")
    if archive.sha256 is not None:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != archive.sha256:
            part.unlink()
            raise DatasetError(
                f"{archive.url}: sha256 of what it sent is {found}, expected is {archive.sha256}; removed. "
                "Either the transfer was damaged (fetch again) or the file is another one (do not use it)"
            )


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar or zip archive into `folder`, beside what is there.

    Members land in a temporary folder first, so that a broken archive leaves nothing behind.

    Raises:
        DatasetError: It is no archive, is truncated, or a member would leave the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpack."))
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as members:
                members.extractall(temporary)
        else:
            with tarfile.open(file) as members:
                members.extractall(temporary, filter="data")
        for source in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = folder / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DatasetError(f"{file}: cannot be unpacked ({error}); remove it and fetch it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
