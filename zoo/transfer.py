"""One HTTP transfer into the beginning of a file that may be there already; what both kinds of downloads share.

Proxies are those of the environment (`http_proxy`, `https_proxy`, `no_proxy`), as urllib reads them.
"""

from __future__ import annotations

import errno
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OFFLINE", "WrongFile", "is_offline", "no_room", "receive"]

OFFLINE = "DETECTOR_ZOO_OFFLINE"
"""Environment variable: set to anything but 0, nothing is asked of the network."""

_BLOCK = 1 << 20


class WrongFile(Exception):
    """What comes is not what was asked for; in words that begin with a verb."""


def is_offline() -> bool:
    """Whether the user has forbidden the network."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def no_room(error: BaseException, path: Path) -> str | None:
    """A sentence where `error` says that the disk is full; None where it says something else."""
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return (
        f"{path.parent}: the disk is full; free some room, or name a folder elsewhere (DETECTOR_ZOO_CACHE), and call "
        f"again: what came of {path.name} is kept there"
    )


def receive(
    url: str, part: Path, *, size: int | None = None, timeout: float = 30.0
) -> Iterator[tuple[int, int | None]]:
    """Append to `part` what it lacks, from where it ends; yield the bytes that are there, and how many there will be.

    A server that knows no ranges sends all anew. One that sends another range than was asked, or another number of
    bytes than `size`, is not listened to.

    Raises:
        WrongFile: See above; `part` is removed.
        OSError: The connection fails or breaks off, the server refuses (`urllib.error.HTTPError`), or the disk is full.
            What came is kept.
        http.client.HTTPException: The answer is none of HTTP.
    """
    if part.is_symlink():
        part.unlink()
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start == size:
        return
    try:
        answer = _ask(url, start, timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # The part is as long as the file or longer: fetched anew rather than guessed which.
        part.unlink()
        answer, start = _ask(url, 0, timeout), 0
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", f"bytes {start}-").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise WrongFile("is another range than was asked for")
        done = start if resumed else 0
        length = answer.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        if None not in (size, total) and total != size:
            part.unlink(missing_ok=True)
            raise WrongFile(f"has {total} bytes instead of {size}")
        with part.open("ab" if resumed else "wb") as sink:
            while block := answer.read(_BLOCK):
                sink.write(block)
                done += len(block)
                if size is not None and done > size:
                    part.unlink()
                    raise WrongFile(f"has over {size} bytes, which is its size")
                yield done, total
    if total is not None and done < total:
        raise urllib.error.URLError(f"broke off after {done:,} of {total:,} bytes")


def _ask(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "detector-zoo"} | ({"Range": f"bytes={start}-"} if start else {})
    # An opener of its own: the one that urllib keeps would remember the proxies of its first call.
    opener = urllib.request.build_opener()
    answer: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    return answer
