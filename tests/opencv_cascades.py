"""Cascade files with chance's features, in OpenCV's format, and what OpenCV finds with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor


def rgb(image: np.ndarray) -> Tensor:
    """OpenCV's BGR bytes as the zoo's image."""
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise of several scales, BGR bytes, with a patch of one colour."""
    noise = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(noise.normal(size=(height, width, 3)), (0, 0), s) * s for s in (1, 3, 9)]
    image = cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    image[: height // 3, : width // 3] = (40, 90, 200)
    return image


def boxes_of_opencv(path: Path, image: np.ndarray, scale: float, merge: int, smallest: int = 0) -> list[list[int]]:
    """`(x, y, width, height)`, sorted."""
    classifier = cv2.CascadeClassifier(str(path))
    assert not classifier.empty()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return sorted(map(list, np.reshape(classifier.detectMultiScale(grey, scale, merge, 0, (smallest,) * 2), (-1, 4))))


def cascade_xml(
    kind: str = "HAAR",
    *,
    nodes: int = 1,
    tilted: bool = False,
    window: tuple[int, int] = (20, 16),
    stages: int = 4,
    seed: int = 0,
) -> str:
    """A cascade of `(height, width)` whose stages let about half of a texture's windows pass."""
    chance = np.random.default_rng(seed)
    height, width = window
    features: list[str] = []

    def feature() -> int:
        if kind == "LBP":
            w, h = int(chance.integers(1, width // 3 + 1)), int(chance.integers(1, height // 3 + 1))
            x, y = int(chance.integers(0, width - 3 * w + 1)), int(chance.integers(0, height - 3 * h + 1))
            features.append(f"<_><rect>{x} {y} {w} {h}</rect></_>")
        elif tilted and len(features) % 2:
            w, h = (2 * int(chance.integers(1, 4)) for _ in range(2))
            x, y = int(chance.integers(h, width - w + 1)), int(chance.integers(0, height - w - h + 1))
            rects = f"<_>{x} {y} {w} {h} -1.</_><_>{x} {y} {w} {h // 2} 2.</_>"
            features.append(f"<_><rects>{rects}</rects><tilted>1</tilted></_>")
        else:
            w, h = 3 * int(chance.integers(1, width // 3 + 1)), 2 * int(chance.integers(1, height // 2 + 1))
            x, y = int(chance.integers(0, width - w + 1)), int(chance.integers(0, height - h + 1))
            parts = [(x, y, w, h, -1), (x, y, w // 3, h // 2, 3), (x + 2 * w // 3, y + h // 2, w // 3, h // 2, 3)]
            parts = parts if len(features) % 3 else [(x, y, w, h, -1), (x, y, w, h // 2, 2)]
            rects = "".join(f"<_>{' '.join(map(str, part))}.</_>" for part in parts)
            features.append(f"<_><rects>{rects}</rects><tilted>0</tilted></_>")
        return len(features) - 1

    def rest() -> str:
        if kind == "LBP":
            return " ".join(map(str, chance.integers(-(2**31), 2**31, 8)))
        return repr(float(chance.normal() * 0.02))

    def tree() -> str:
        branches = ["0 -1"] if nodes == 1 else [("0 1", "1 0")[int(chance.integers(2))], "-1 -2"]
        inner = " ".join(f"{branch} {feature()} {rest()}" for branch in branches)
        leaves = " ".join(repr(float(value)) for value in chance.normal(size=nodes + 1))
        return f"<_><internalNodes>{inner}</internalNodes><leafValues>{leaves}</leafValues></_>"

    def stage() -> str:
        weak = "".join(tree() for _ in range(4))
        threshold = float(chance.normal() * 0.2 - 0.8)
        return (
            f"<_><maxWeakCount>4</maxWeakCount><stageThreshold>{threshold!r}</stageThreshold>"
            f"<weakClassifiers>{weak}</weakClassifiers></_>"
        )

    members = "".join(stage() for _ in range(stages))
    return (
        '<?xml version="1.0"?><opencv_storage><cascade type_id="opencv-cascade-classifier">'
        f"<stageType>BOOST</stageType><featureType>{kind}</featureType><height>{height}</height><width>{width}</width>"
        "<stageParams><maxWeakCount>4</maxWeakCount></stageParams>"
        f"<featureParams><maxCatCount>{256 if kind == 'LBP' else 0}</maxCatCount></featureParams>"
        f"<stageNum>{stages}</stageNum><stages>{members}</stages><features>{''.join(features)}</features>"
        "</cascade></opencv_storage>"
    )
