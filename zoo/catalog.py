"""Every detector of the zoo, one row each, by year."""

from __future__ import annotations

from zoo.detector import Golden, Spec
from zoo.two_stage import faster_rcnn, fpn

__all__ = ["CATALOG"]

_ROWS: tuple[Spec, ...] = (
    Spec(
        name="faster_rcnn_vgg16",
        build=faster_rcnn.faster_rcnn_vgg16,
        year=2015,
        paper="Ren, He, Girshick, Sun: Faster R-CNN, NIPS 2015",
        family="two-stage",
        recipe=faster_rcnn.RECIPE,
        small=faster_rcnn.SMALL,
        small_recipe=faster_rcnn.SMALL_RECIPE,
        input_size=(600, 800),
        golden=Golden(
            parameters={20: 137_078_239, 80: 138_307_339},
            boxes={(600, 800): 17_100, (600, 1000): 21_546, (600, 901): 19_494},
            macs={(20, 600, 800): 187_513_344_000},
        ),
    ),
    Spec(
        name="faster_rcnn_r50_fpn",
        build=fpn.faster_rcnn_r50_fpn,
        year=2016,
        paper="Lin, Dollár, Girshick, He, Hariharan, Belongie: Feature Pyramid Networks, CVPR 2017",
        family="two-stage",
        recipe=fpn.RECIPE,
        small=fpn.SMALL,
        small_recipe=fpn.SMALL_RECIPE,
        input_size=(800, 1088),
        golden=Golden(
            parameters={90: 41_755_286, 80: 41_704_036},
            boxes={(800, 1088): 217_413},
            macs={(90, 800, 800): 134_379_721_216},
        ),
    ),
)

CATALOG: dict[str, Spec] = {spec.name: spec for spec in sorted(_ROWS, key=lambda spec: spec.year)}
