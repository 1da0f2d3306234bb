"""Downloads on bad days: other files on the server, proxies, no network, no room, and a process that is killed."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.datasets import DatasetError
from benchmarks.datasets.download import Archive, fetch
from zoo import transfer
from zoo.checkpoints import CheckpointError, list_weights
from zoo.checkpoints import fetch as fetch_weights
from zoo.download import DownloadError, SourcePackage, fetch_file

CONTENT = bytes(range(256)) * 12_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any address, in the way that `behaviour` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = ""
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted, behaviour = self.headers.get("Range"), self.server.behaviour
        self.server.asked.append((self.path, wanted))
        start = 0
        if wanted and behaviour != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        elif "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        body = CONTENT + bytes(10_000_000 if behaviour == "without end" else 0)
        if start:
            first = 0 if behaviour == "another range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        if behaviour != "without end":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        for place in range(start, len(body), 100_000):
            try:
                self.wfile.write(body[place : min(place + 100_000, len(body))])
            except OSError:
                return
            if behaviour == "slow":
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


Get = Callable[[Server, Path], Path]


def weights(server: Server, folder: Path) -> Path:
    return fetch_file(folder / "file.bin", sha256=SHA, size=len(CONTENT), urls=[server.url()], quiet=True)


def dataset(server: Server, folder: Path) -> Path:
    return fetch(Archive(server.url(), SHA, len(CONTENT)), folder, wait=0)


both = pytest.mark.parametrize("get", [weights, dataset])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@both
def test_a_part_of_another_file_is_not_the_end(get: Get, server: Server, tmp_path: Path) -> None:
    """The file changed on the server between two tries: what was begun is of no use, what is there now is."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT[::-1][:5_000])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=5000-", None]
    assert left(tmp_path) == ["file.bin"]


@both
@pytest.mark.parametrize("behaviour", ["no ranges", "another range"])
def test_servers_with_their_own_idea_of_ranges(get: Get, server: Server, tmp_path: Path, behaviour: str) -> None:
    server.behaviour = behaviour
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:5_000])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=5000-"] + [None] * (behaviour == "another range")
    assert left(tmp_path) == ["file.bin"]


@both
def test_a_server_that_never_ends_fills_no_disk(get: Get, server: Server, tmp_path: Path) -> None:
    server.behaviour = "without end"
    with pytest.raises((DownloadError, DatasetError), match="has over 3072000 bytes"):
        get(server, tmp_path)
    assert len(server.asked) == 1
    assert left(tmp_path) == []


@both
def test_what_was_put_there_by_hand_is_checked_too(get: Get, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT[::-1])
    if get is weights:
        assert get(server, tmp_path).read_bytes() == CONTENT
    else:
        with pytest.raises(DatasetError, match=r"file\.bin: has the sha256 .*; remove it"):
            get(server, tmp_path)
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT


@both
def test_offline_nothing_is_asked(get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_ZOO_OFFLINE", "1")
    with pytest.raises((DownloadError, DatasetError), match="DETECTOR_ZOO_OFFLINE is set") as caught:
        get(server, tmp_path)
    assert server.url() in str(caught.value)
    assert str(tmp_path) in str(caught.value), "where it belongs"
    assert server.asked == []
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT, "what is there needs no network"
    monkeypatch.setenv("DETECTOR_ZOO_OFFLINE", "0")
    (tmp_path / "file.bin").unlink()
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_offline_the_name_the_sum_and_the_place_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_ZOO_OFFLINE", "yes")
    monkeypatch.setenv("DETECTOR_ZOO_CACHE", str(tmp_path))
    monkeypatch.delenv("DETECTOR_ZOO_WEIGHTS", raising=False)
    entry = next(entry for entry in list_weights() if entry.sha256 and entry.package)
    with pytest.raises(CheckpointError) as caught:
        fetch_weights(entry)
    for part in (entry.name, str(entry.path), entry.sha256, entry.package.name, *entry.urls):  # type: ignore[union-attr]
        assert str(part) in str(caught.value)


def test_mirrors_are_asked_in_order(server: Server, tmp_path: Path) -> None:
    urls = [server.url("missing"), "http://127.0.0.1:9/closed", server.url("good"), server.url("never")]
    fetch_file(tmp_path / "a", sha256=SHA, urls=urls, quiet=True)
    assert [path for path, _ in server.asked] == ["/missing", "/good"]


@both
def test_the_environments_proxy_is_used(
    get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    url = "http://weights.invalid/file.bin"
    if get is weights:
        fetch_file(tmp_path / "file.bin", sha256=SHA, urls=[url], quiet=True)
    else:
        fetch(Archive(url, SHA), tmp_path, wait=0)
    assert [path for path, _ in server.asked] == [url], "a proxy is asked for the whole address"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch_file(tmp_path / "b", sha256=SHA, urls=[server.url()], quiet=True)
    assert server.asked[-1][0] == "/file.bin"


@both
def test_a_full_disk_is_one_sentence(get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:5_000])

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda path, *mode: Full(file) if (file := opened(path, *mode)).writable() else file
        )
        with pytest.raises((DownloadError, DatasetError), match="the disk is full; free some room, or name a folder"):
            get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=5000-", "what had come was kept"


@both
def test_a_killed_download_continues(get: Get, server: Server, tmp_path: Path) -> None:
    server.behaviour = "slow"
    process = multiprocessing.get_context("fork").Process(target=get, args=(server, tmp_path))
    process.start()
    part = tmp_path / "file.bin.part"
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert left(tmp_path) == ["file.bin.part"], "nothing bears the name of a file that is not whole"
    done = part.stat().st_size
    assert 0 < done < len(CONTENT)
    server.behaviour = ""
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={done}-"


@both
def test_a_link_in_the_cache_is_not_written_through(get: Get, server: Server, tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    cache.mkdir()
    outside.write_bytes(b"mine")
    for name in ("file.bin.part", "file.bin"):
        (cache / name).symlink_to(outside)
        if get is dataset and name == "file.bin":
            with pytest.raises(DatasetError, match="remove it"):
                get(server, cache)
        else:
            assert get(server, cache).read_bytes() == CONTENT
        assert outside.read_bytes() == b"mine"
        (cache / "file.bin").unlink()


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    text = (Path(transfer.__file__).parent / "weights.toml").read_text()
    first = text.split("[[checkpoint]]")[1]
    for name in ("../escaped", "/tmp/escaped", "a/b", ".."):
        rows = "\n".join(f'name = "{name}"' if line.startswith("name =") else line for line in first.splitlines())
        path = tmp_path / "weights.toml"
        path.write_text(f"[[checkpoint]]{rows}\n")
        with pytest.raises(CheckpointError, match=r"checkpoint\.0\.name: String should match pattern"):
            list_weights(path)
        path.unlink()
        list_weights.cache_clear()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match=r"file: cannot be written .*name another folder by DETECTOR_ZOO_CACHE"):
        weights(server, tmp_path / "file")


def test_a_package_is_not_asked_for_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_ZOO_OFFLINE", "1")
    monkeypatch.setattr("zoo.download.subprocess.run", lambda *_, **__: pytest.fail("pip is called"))
    with pytest.raises(DownloadError, match=r"so package pack 1\.0 was not asked"):
        fetch_file(tmp_path / "a", sha256=SHA, package=SourcePackage("pack", "1.0", "a", SHA), quiet=True)
