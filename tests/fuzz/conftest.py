"""Small data sets to spoil."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.coco_files import write_coco
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
    return partial(write_coco, tmp_path / "data")
