"""Every detector of the zoo, one row each, by year."""

from __future__ import annotations

from zoo.detector import Golden, Spec
from zoo.one_stage import ssd, yolov3
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
    Spec(
        name="ssd300_vgg16",
        build=ssd.ssd300_vgg16,
        year=2015,
        paper="Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg: SSD, ECCV 2016",
        family="one-stage",
        recipe=ssd.RECIPE,
        small=ssd.SMALL,
        small_recipe=ssd.SMALL_RECIPE,
        input_size=(300, 300),
        golden=Golden(
            parameters={20: 26_285_486, 80: 34_305_206},
            boxes={(300, 300): 8_732},
            macs={(20, 300, 300): 31_373_537_792, (80, 300, 300): 34_360_351_232},
        ),
    ),
    Spec(
        name="ssd512_vgg16",
        build=ssd.ssd512_vgg16,
        year=2015,
        paper="Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg: SSD, ECCV 2016",
        family="one-stage",
        recipe=ssd.RECIPE,
        small=ssd.SMALL_512,
        small_recipe=ssd.SMALL_512_RECIPE,
        input_size=(512, 512),
        golden=Golden(
            parameters={20: 27_188_676, 80: 36_038_196},
            boxes={(512, 512): 24_564},
            macs={(20, 512, 512): 90_207_908_864, (80, 512, 512): 98_628_936_704},
        ),
    ),
    Spec(
        name="yolov3",
        build=yolov3.yolov3,
        year=2018,
        paper="Redmon, Farhadi: YOLOv3: An Incremental Improvement, arXiv 1804.02767, 2018",
        family="one-stage",
        recipe=yolov3.RECIPE,
        small=yolov3.SMALL,
        small_recipe=yolov3.SMALL_RECIPE,
        input_size=(416, 416),
        golden=Golden(
            parameters={80: 61_949_149, 20: 61_626_049},
            boxes={(320, 320): 6_300, (416, 416): 10_647, (608, 608): 22_743},
            macs={
                (80, 320, 320): 19_486_412_800,
                (80, 416, 416): 32_932_037_632,
                (80, 608, 608): 70_345_950_208,
                (20, 416, 416): 32_713_987_072,
            },
        ),
    ),
    Spec(
        name="yolov3_tiny",
        build=yolov3.yolov3_tiny,
        year=2018,
        paper="Redmon, Farhadi: YOLOv3: An Incremental Improvement, arXiv 1804.02767, 2018 (yolov3-tiny.cfg)",
        family="one-stage",
        recipe=yolov3.RECIPE,
        small=yolov3.SMALL_TINY,
        small_recipe=yolov3.SMALL_RECIPE,
        input_size=(416, 416),
        golden=Golden(parameters={80: 8_852_366}, boxes={(416, 416): 2_535}, macs={(80, 416, 416): 2_782_480_896}),
    ),
    Spec(
        name="yolov3_spp",
        build=yolov3.yolov3_spp,
        year=2018,
        paper="Redmon, Farhadi: YOLOv3: An Incremental Improvement, arXiv 1804.02767, 2018 (yolov3-spp.cfg)",
        family="one-stage",
        recipe=yolov3.RECIPE,
        small=yolov3.SMALL_SPP,
        small_recipe=yolov3.SMALL_RECIPE,
        input_size=(608, 608),
        golden=Golden(parameters={80: 62_998_749}, boxes={(608, 608): 22_743}, macs={(80, 608, 608): 70_724_486_144}),
    ),
)

CATALOG: dict[str, Spec] = {spec.name: spec for spec in sorted(_ROWS, key=lambda spec: spec.year)}
