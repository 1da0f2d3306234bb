"""Texts of Darknet cfg files, written section by section: the authors' layer lists, at any width."""

from __future__ import annotations

V3_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
TINY_ANCHORS = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"
V2_ANCHORS = {
    20: "1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071",
    80: "0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828",
}
TINY_V2_ANCHORS = {20: "1.08,1.19, 3.42,4.41, 6.63,11.38, 9.42,5.11, 16.62,10.52", 80: V2_ANCHORS[80]}


class Cfg:
    """Collects sections; `thin` divides every width but those of predictions."""

    def __init__(self, side: int, thin: int = 1) -> None:
        self.thin = thin
        self.parts = [f"[net]\n# Testing\nbatch=1\nwidth={side}\nheight={side}\nchannels=3\n"]

    def section(self, name: str, **settings: object) -> None:
        self.parts.append(f"[{name}]\n" + "".join(f"{key.rstrip('_')}={value}\n" for key, value in settings.items()))

    def conv(self, filters: int, size: int, stride: int = 1, *, norm: bool = True, activation: str = "leaky") -> None:
        normalised = {"batch_normalize": 1} if norm else {}
        width = filters // self.thin
        self.section(
            "convolutional", **normalised, filters=width, size=size, stride=stride, pad=1, activation=activation
        )

    def convs(self, *steps: tuple[int, int] | str, norm: bool = True) -> None:
        """Convolutions `(filters, size)`, of stride 1, and `mp` for a pooling that halves."""
        for step in steps:
            if isinstance(step, str):
                self.section("maxpool", size=2, stride=2)
            else:
                self.conv(*step, norm=norm)

    def predict(self, filters: int) -> None:
        self.section("convolutional", size=1, stride=1, pad=1, filters=filters, activation="linear")

    def yolo(self, mask: str, anchors: str, classes: int, **settings: object) -> None:
        self.predict((mask.count(",") + 1) * (5 + classes))
        count = (anchors.count(",") + 1) // 2
        self.section("yolo", mask=mask, anchors=anchors, classes=classes, num=count, jitter=0.3, **settings)

    def region(self, anchors: str, classes: int) -> None:
        count = (anchors.count(",") + 1) // 2
        self.predict(count * (5 + classes))
        self.section(
            "region", anchors=anchors, classes=classes, coords=4, num=count, softmax=1, bias_match=1, thresh=0.6
        )

    def residuals(self, width: int, count: int) -> None:
        self.conv(width, 3, 2)
        for _ in range(count):
            self.conv(width // 2, 1)
            self.conv(width, 3)
            self.section("shortcut", from_=-3, activation="linear")

    def text(self) -> str:
        return "\n".join(self.parts)


def for_opencv(text: str) -> str:
    """The text with which OpenCV gives every score, however low."""
    return (
        text.replace("thresh=0.6\n", "")
        .replace("[yolo]\n", "[yolo]\nthresh=0\n")
        .replace("[region]\n", "[region]\nthresh=0\n")
    )


def darknet53(cfg: Cfg) -> None:
    cfg.conv(32, 3)
    for width, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        cfg.residuals(width, count)


def yolov3(side: int, classes: int, *, pyramid: bool = False, thin: int = 1) -> str:
    """yolov3.cfg or yolov3-spp.cfg; the routes name layers 61 and 36 as the authors do."""
    cfg = Cfg(side, thin)
    darknet53(cfg)
    for level, (width, mask, skip) in enumerate(((512, "6,7,8", 61), (256, "3,4,5", 36), (128, "0,1,2", 0))):
        cfg.conv(width, 1)
        cfg.conv(2 * width, 3)
        cfg.conv(width, 1)
        if pyramid and level == 0:
            cfg.section("maxpool", stride=1, size=5)
            cfg.section("route", layers=-2)
            cfg.section("maxpool", stride=1, size=9)
            cfg.section("route", layers=-4)
            cfg.section("maxpool", stride=1, size=13)
            cfg.section("route", layers="-1,-3,-5,-6")
            cfg.conv(width, 1)
        cfg.conv(2 * width, 3)
        cfg.conv(width, 1)
        cfg.conv(2 * width, 3)
        cfg.yolo(mask, V3_ANCHORS, classes)
        if skip:
            cfg.section("route", layers=-4)
            cfg.conv(width // 2, 1)
            cfg.section("upsample", stride=2)
            cfg.section("route", layers=f"-1, {skip}")
    return cfg.text()


def yolov3_tiny(side: int, classes: int, *, second: str = "0,1,2", thin: int = 1) -> str:
    """yolov3-tiny.cfg, by default with the anchors 0, 1, 2 that the released file names."""
    cfg = Cfg(side, thin)
    cfg.convs((16, 3), "mp", (32, 3), "mp", (64, 3), "mp", (128, 3), "mp", (256, 3), "mp", (512, 3))
    cfg.section("maxpool", size=2, stride=1)
    cfg.convs((1024, 3), (256, 1), (512, 3))
    cfg.yolo("3,4,5", TINY_ANCHORS, classes)
    cfg.section("route", layers=-4)
    cfg.conv(128, 1)
    cfg.section("upsample", stride=2)
    cfg.section("route", layers="-1, 8")
    cfg.conv(256, 3)
    cfg.yolo(second, TINY_ANCHORS, classes)
    return cfg.text()


def yolov2(side: int, classes: int, *, thin: int = 1) -> str:
    """yolov2-voc.cfg or yolov2.cfg."""
    cfg = Cfg(side, thin)
    cfg.convs((32, 3), "mp", (64, 3), "mp", (128, 3), (64, 1), (128, 3), "mp", (256, 3), (128, 1), (256, 3), "mp")
    cfg.convs((512, 3), (256, 1), (512, 3), (256, 1), (512, 3), "mp", (1024, 3), (512, 1), (1024, 3), (512, 1))
    cfg.convs((1024, 3), (1024, 3), (1024, 3))
    cfg.section("route", layers=-9)
    cfg.conv(64, 1)
    cfg.section("reorg", stride=2)
    cfg.section("route", layers="-1,-4")
    cfg.conv(1024, 3)
    cfg.region(V2_ANCHORS[classes], classes)
    return cfg.text()


def yolov2_tiny(side: int, classes: int) -> str:
    """yolov2-tiny-voc.cfg or yolov2-tiny.cfg."""
    cfg = Cfg(side)
    cfg.convs((16, 3), "mp", (32, 3), "mp", (64, 3), "mp", (128, 3), "mp", (256, 3), "mp", (512, 3))
    cfg.section("maxpool", size=2, stride=1)
    cfg.convs((1024, 3), (1024 if classes == 20 else 512, 3))
    cfg.region(TINY_V2_ANCHORS[classes], classes)
    return cfg.text()


def _detection(cfg: Cfg, boxes: int, classes: int, side: int = 7) -> None:
    cfg.section("connected", output=side * side * (5 * boxes + classes), activation="linear")
    cfg.section("detection", classes=classes, coords=4, rescore=1, side=side, num=boxes, softmax=0, sqrt=1)


def yolov1(classes: int) -> str:
    """yolov1.cfg, the released network with a locally connected layer."""
    cfg = Cfg(448)
    cfg.conv(64, 7, 2)
    cfg.convs("mp", (192, 3), "mp", (128, 1), (256, 3), (256, 1), (512, 3), "mp", *[(256, 1), (512, 3)] * 4)
    cfg.convs((512, 1), (1024, 3), "mp", *[(512, 1), (1024, 3)] * 2, (1024, 3))
    cfg.conv(1024, 3, 2)
    cfg.convs((1024, 3), (1024, 3))
    cfg.section("local", size=3, stride=1, pad=1, filters=256, activation="leaky")
    cfg.section("dropout", probability=0.5)
    _detection(cfg, 3, classes)
    return cfg.text()


def yolo_small(classes: int) -> str:
    """yolo-small.cfg: without normalisation, behind a crop that only shifts colours."""
    cfg = Cfg(448)
    cfg.section("crop", crop_width=448, crop_height=448, flip=0, angle=0, saturation=1.5, exposure=1.5)
    cfg.conv(64, 7, 2, norm=False)
    cfg.convs("mp", (192, 3), "mp", (128, 1), (256, 3), (256, 1), (512, 3), "mp", norm=False)
    cfg.convs(*[(256, 1), (512, 3)] * 4, (512, 1), (1024, 3), "mp", *[(512, 1), (1024, 3)] * 2, (1024, 3), norm=False)
    cfg.conv(1024, 3, 2, norm=False)
    cfg.convs((1024, 3), (1024, 3), norm=False)
    cfg.section("connected", output=512, activation="leaky")
    cfg.section("connected", output=4096, activation="leaky")
    cfg.section("dropout", probability=0.5)
    _detection(cfg, 2, classes)
    return cfg.text()


def yolov1_tiny(classes: int) -> str:
    """yolov1-tiny.cfg."""
    cfg = Cfg(448)
    cfg.convs((16, 3), "mp", (32, 3), "mp", (64, 3), "mp", (128, 3), "mp", (256, 3), "mp", (512, 3), "mp")
    cfg.convs((1024, 3), (256, 3))
    _detection(cfg, 2, classes)
    return cfg.text()
