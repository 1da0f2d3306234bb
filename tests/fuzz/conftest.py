"""Small data sets to spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fuzz.data_readers import XML


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    (base / "Annotations" / "1.xml").write_text(XML)
    (base / "ImageSets" / "Main" / "test.txt").write_text("1\n")
    Image.new("RGB", (40, 30)).save(base / "JPEGImages" / "1.jpg")
    return tmp_path / "data"


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[Any], Path]:
    def write(truth: Any) -> Path:
        images = tmp_path / "data" / "images" / "val2017"
        images.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(images / "b.png")
        Image.new("RGB", (20, 10)).save(images / "a.png")
        text = truth if isinstance(truth, str) else json.dumps(truth)
        (tmp_path / "data" / "annotations" / "instances_val2017.json").write_text(text)
        return tmp_path / "data"

    return write
