"""Links, archives and images made to harm: ways out of a folder, bombs, headers that lie."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import DatasetError, open_dataset, read_image
from benchmarks.datasets.unpacking import unpack
from benchmarks.datasets.voc import open_voc
from tests.fuzz.attacks import refused
from tests.fuzz.data_readers import TRUTH, XML


def test_links_out_of_a_data_set(voc: Path, coco: Callable[[Any], Path], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    image = voc / "VOCdevkit" / "VOC2007" / "JPEGImages" / "1.jpg"
    image.rename(outside / "1.jpg")
    image.symlink_to(outside / "1.jpg")
    refused(DatasetError, r"1\.jpg: is a link to outside of the data set", open_voc, "test", voc)
    image.unlink()
    image.symlink_to("2.jpg")
    (outside / "1.jpg").rename(image.with_name("2.jpg"))
    assert open_voc("test", voc)[0][0].shape == (3, 30, 40), "a link within it is none out of it"
    # A folder elsewhere is its user's choice, as is the whole data set elsewhere.
    image.parent.rename(outside / "images")
    image.parent.symlink_to(outside / "images")
    (tmp_path / "linked").symlink_to(voc)
    assert len(open_voc("test", tmp_path / "linked")) == 1
    root = coco(TRUTH)
    (root / "images" / "val2017" / "a.png").unlink()
    (root / "images" / "val2017" / "a.png").symlink_to("/dev/zero")
    refused(DatasetError, r"a\.png: is no plain file", open_dataset, "coco", "val2017", root)


def test_pipes_are_not_waited_for(voc: Path) -> None:
    base = voc / "VOCdevkit" / "VOC2007"
    for path in (base / "JPEGImages" / "1.jpg", base / "Annotations" / "1.xml"):
        path.unlink()
        os.mkfifo(path)
        refused(DatasetError, f"{path.name}: is no plain file", open_voc, "test", voc)
        path.unlink()
        path.write_text(XML)
    os.mkfifo(base / "pipe.png")
    refused(DatasetError, r"pipe\.png: the image is no plain file", read_image, base / "pipe.png")


def test_an_image_set_that_leads_elsewhere(voc: Path) -> None:
    names = voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    for name in ("../../../secret", "/etc/passwd", "a/b"):
        names.write_text(f"{name}\n")
        refused(DatasetError, r"test\.txt: .* is no file's name without its folder", open_voc, "test", voc)
    names.write_bytes(b"\xff\n")
    refused(DatasetError, r"test\.txt: cannot be read", open_voc, "test", voc)


def tarred(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(content))
        under = tarfile.TarInfo(f"{name}/below")
        under.size = 1
        archive.addfile(under, io.BytesIO(b"y"))
    return file.getvalue()


def zipped(name: str, content: bytes = b"x", mode: int = 0, times: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(times):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tarred("/tmp/escaped"), "leads out of the folder"),
        (tarred("a/../../escaped"), "leads out of the folder"),
        (tarred("a", tarfile.SYMTYPE, "../.."), "is a link or a device"),
        (tarred("a", tarfile.SYMTYPE, "b"), "is a link or a device"),
        (tarred("a", tarfile.LNKTYPE, "/etc/hostname"), "is a link or a device"),
        (tarred("a", tarfile.CHRTYPE), "is a link or a device"),
        (tarred("a", tarfile.FIFOTYPE), "is a link or a device"),
        (tarred("a", content=bytes(80 << 20)), "unpacks to over 100 times its size"),
        (zipped("../escaped"), "leads out of the folder"),
        (zipped("/tmp/escaped"), "leads out of the folder"),
        (zipped("a", b"/etc/hostname", stat.S_IFLNK | 0o777), "is a link or a device"),
        (zipped("a", times=2), "stands in it twice"),
        (zipped("a", bytes(80 << 20)), "unpacks to over 100 times its size"),
        (zipped("a").replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "encrypted"),
    ],
)
def test_archives_that_climb_out_or_blow_up(data: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "in.archive"
    file.write_bytes(data)
    refused(DatasetError, rf"in\.archive: cannot be unpacked \(.*{words}", unpack, file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.archive", "out"]


def png(width: int, height: int) -> bytes:
    """A header of a size of its own choice before the pixels of a 16 x 12 image."""
    file = io.BytesIO()
    Image.new("L", (16, 12)).save(file, "PNG")
    head = b"IHDR" + struct.pack(">2I", width, height) + file.getvalue()[24:29]
    return file.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + file.getvalue()[33:]


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 12)).save(file, "JPEG")
    return file.getvalue().replace(struct.pack(">2H", 12, 16), struct.pack(">2H", height, width), 1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (png(100_000, 100_000), None, "decompression bomb"),
        (png(10_000, 10_000), None, "claims 10000x10000 pixels, over 89,478,485"),
        (png(9_000, 9_000), (12, 16), "has 9000x9000 pixels, its annotation says 16x12"),
        (png(200, 200), None, "truncated"),
        (jpeg(60_000, 60_000), None, "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) run\n", None, "cannot identify"),
    ],
    ids=["png bomb", "warned of", "other than annotated", "too few pixels", "jpeg bomb", "a program"],
)
def test_images_whose_header_lies(data: bytes, size: tuple[int, int] | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    refused(DatasetError, rf"a\.jpg: .*{words}", read_image, path, size)


def test_sixteen_bits_are_not_cut_to_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    refused(DatasetError, r"a\.png: the image has pixels of mode I;16; convert it", read_image, tmp_path / "a.png")
