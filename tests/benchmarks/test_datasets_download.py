"""Downloads against a server on this machine: resumed, checked, refused, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.datasets import DatasetError, download_dataset
from benchmarks.datasets import bccd as bccd_module
from benchmarks.datasets import coco as coco_module
from benchmarks.datasets import voc as voc_module
from benchmarks.datasets.bccd import download_bccd, open_bccd
from benchmarks.datasets.download import Archive, fetch, fetch_and_unpack, tree_sha256, unpack

DATA = bytes(range(256)) * 12_000
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; breaks a transfer off after `cut` bytes as often as `cuts` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": DATA}
        self.cut, self.cuts, self.ranges = 1_500_000, 0, True
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path not in self.server.files:
            self.send_error(404)
            return
        data, start = self.server.files[self.path], 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data)
        if self.server.cuts:
            self.server.cuts -= 1
            stop = min(stop, start + self.server.cut)
        self.wfile.write(data[start:stop])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(server: Server, name: str = "data.bin") -> Archive:
    data = server.files[f"/{name}"]
    return Archive(server.url(name), hashlib.sha256(data).hexdigest(), len(data))


def test_fetch(server: Server, tmp_path: Path) -> None:
    file = fetch(archive(server), tmp_path / "new")
    assert file.read_bytes() == DATA
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data.bin"]
    fetch(archive(server), tmp_path / "new")
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_broken_transfer_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert fetch(archive(server), tmp_path, wait=0).read_bytes() == DATA
    assert server.asked == [("/data.bin", None), ("/data.bin", "bytes=1500000-"), ("/data.bin", "bytes=3000000-")]


def test_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA[:1000])
    assert fetch(archive(server), tmp_path).read_bytes() == DATA
    assert server.asked == [("/data.bin", "bytes=1000-")]


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(DATA[:1000])
    assert fetch(archive(server), tmp_path).read_bytes() == DATA


def test_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA)
    assert fetch(archive(server), tmp_path).read_bytes() == DATA
    assert not server.asked
    # Without a known size the server has to be asked; it answers 416, and the file comes anew.
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "data.bin.part").write_bytes(DATA)
    assert fetch(Archive(server.url("data.bin")), tmp_path / "again").read_bytes() == DATA


def test_other_bytes_are_refused_and_removed(server: Server, tmp_path: Path) -> None:
    good = archive(server)
    server.files["/data.bin"] = DATA[:-1] + b"x"
    with pytest.raises(DatasetError, match=f"what it sent has the sha256 .* expected is {good.sha256}"):
        fetch(good, tmp_path)
    assert not list(tmp_path.iterdir())
    server.files["/data.bin"] = DATA + b"more"
    with pytest.raises(DatasetError, match=f"what it sent has {len(DATA) + 4} bytes instead of {len(DATA)}"):
        fetch(good, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bad_part_does_not_stay(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"y" * 1000)
    assert fetch(archive(server), tmp_path).read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", None]


def test_refusals_are_not_repeated(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the server answers 404"):
        fetch(Archive(server.url("nothing.bin")), tmp_path)
    assert len(server.asked) == 1


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the transfer breaks off.*put it beside"):
        fetch(Archive("http://127.0.0.1:9/data.bin"), tmp_path, attempts=2, wait=0)


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, data in members.items():
            out.writestr(name, data)
    return buffer.getvalue()


def test_unpack_lays_archives_over_each_other(server: Server, tmp_path: Path) -> None:
    server.files["/one.tar.gz"] = tar({"VOCdevkit/a/1": b"1", "VOCdevkit/b/2": b"2"})
    server.files["/two.zip"] = zipped({"VOCdevkit/a/3": b"3"})
    for name in ("one.tar.gz", "two.zip", "one.tar.gz"):
        fetch_and_unpack(archive(server, name), tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        ".one.tar.gz.unpacked", ".two.zip.unpacked", "VOCdevkit/a/1", "VOCdevkit/a/3", "VOCdevkit/b/2",
    ]  # fmt: skip
    assert len(server.asked) == 2, "what was unpacked is not fetched again"


@pytest.mark.parametrize(
    "data",
    [tar({"../escaped": b"x"}), tar({"a": b"x" * 9999})[:60], b"no archive"],
    ids=["escaping", "cut off", "no archive"],
)
def test_bad_archives_leave_nothing(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "in.tar.gz"
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"in\.tar\.gz: cannot be unpacked"):
        unpack(file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "escaped").exists()


def repository() -> dict[str, bytes]:
    """The repository's shape at one commit, with one image."""
    top = "BCCD_Dataset-d272/BCCD"
    return {
        f"{top}/Annotations/BloodImage_00000.xml": b"<annotation/>",
        f"{top}/JPEGImages/BloodImage_00000.jpg": b"pixels",
        f"{top}/ImageSets/Main/trainval.txt": b"BloodImage_00000\n",
        f"{top}/ImageSets/Main/test.txt": b"",
        f"{top}/ImageSets/Main/val.txt": b"",
        "BCCD_Dataset-d272/README.md": b"read me",
    }


def test_bccd_is_laid_out_and_checked_by_its_files(server: Server, tmp_path: Path) -> None:
    server.files["/c.tar.gz"] = tar(repository())
    source = Archive(server.url("c.tar.gz"))
    with pytest.raises(DatasetError, match=r"its files have the sha256 [0-9a-f]{64} together, expected is 0000"):
        download_bccd(tmp_path, source, "0000")
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]

    wanted = tmp_path / "wanted"
    for name, data in repository().items():
        if "/BCCD/" in name and "val.txt" not in name.replace("trainval.txt", ""):
            file = wanted / name.partition("/BCCD/")[2]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    download_bccd(tmp_path / "bccd", source, tree_sha256(wanted))
    found = tmp_path / "bccd" / "VOCdevkit" / "VOC2007"
    assert (found / "JPEGImages" / "BloodImage_00000.jpg").read_bytes() == b"pixels"
    assert tree_sha256(found) == tree_sha256(wanted)
    asked = len(server.asked)
    download_bccd(tmp_path / "bccd", source, "whatever")
    assert len(server.asked) == asked


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the checkout")
def test_bccd_from_the_pinned_files(server: Server, tmp_path: Path) -> None:
    """The real files in a repository's archive pass the check that is shipped, and open."""
    base = REAL / "VOCdevkit" / "VOC2007"
    members = {f"r/BCCD/{p.relative_to(base).as_posix()}": p.read_bytes() for p in base.rglob("*") if p.is_file()}
    server.files["/c.tar.gz"] = tar(members)
    download_bccd(tmp_path, Archive(server.url("c.tar.gz")))
    assert open_bccd("test", tmp_path).fingerprint == open_bccd("test", REAL).fingerprint


def test_official_archives(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(a.sha256 and a.size for a in (*voc_module._ARCHIVES.values(), *coco_module._IMAGES.values()))
    assert "d272fb14" in bccd_module._ARCHIVE.url
    for name in ("2007_trainval", "2012_trainval"):
        server.files[f"/{name}.tar.gz"] = tar({f"VOCdevkit/VOC{name[:4]}/ImageSets/Main/trainval.txt": b""})
        monkeypatch.setitem(voc_module._ARCHIVES, name, archive(server, f"{name}.tar.gz"))
    download_dataset("voc", "0712_trainval", tmp_path)
    assert sorted(path.name for path in (tmp_path / "VOCdevkit").iterdir()) == ["VOC2007", "VOC2012"]
    with pytest.raises(DatasetError, match="no public archive holds '2012_test'"):
        download_dataset("voc", "2012_test", tmp_path)
    with pytest.raises(DatasetError, match="'test2017' is not served; there are val2017, train2017"):
        download_dataset("coco", "test2017", tmp_path)
