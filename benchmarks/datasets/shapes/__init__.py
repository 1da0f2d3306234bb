"""`shapes`: drawn images that need no download. Eight forms on textured ground, with occlusion, crowds and distractors.

Every pixel follows from 64-bit integers (splitmix64) by additions, multiplications, divisions and square roots of
IEEE doubles taken element by element, so that no version of a library can move one. A split is drawn once into the
cache folder, in VOC's and in COCO's layout, and read back by the loaders of the real sets.

`mix` is the default scene and its three splits are frozen: every shipped checkpoint rests on them. The other scenes
serve single questions (crowds, pairs, `twins` that are pairs of discs, concentric objects, bent forms, a sweep of
sizes, bars at any angle); each has a test split of 500 images, named like the scene, and a training split
`<scene>-train`.

Detectors of one kind of object, faces or lines of text, have data sets of their own (`OWN`), frozen too: `discs`, in
which everything that is no disc is ground, and `bars`, which lean by up to 33 degrees, as lines of text do.
"""

from __future__ import annotations

from benchmarks.datasets.shapes.drawing import draw
from benchmarks.datasets.shapes.forms import CLASS_NAMES
from benchmarks.datasets.shapes.scenes import OWN, SCENES, Scene
from benchmarks.datasets.shapes.splits import FINGERPRINTS, open_shapes, write

__all__ = ["CLASS_NAMES", "FINGERPRINTS", "OWN", "SCENES", "Scene", "draw", "open_shapes", "write"]
