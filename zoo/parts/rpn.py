"""Region proposal network, from Ren, He, Girshick and Sun, "Faster R-CNN" (NIPS 2015, https://arxiv.org/abs/1506.01497),
section 3: a small network slides over the feature maps and says of every anchor whether it holds an object, and where.

`RPNHead` is what is computed at each place; `RPN` turns it into proposals and into losses. One map or the levels of a
pyramid are the same to both. Names in the state dict are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from ops.anchors import grid_anchors
from ops.coders import CenterSizeCoder
from ops.images import Batch
from ops.match import BETWEEN, threshold_match
from ops.sample import balanced_sample
from ops.snip import check_range, in_range, without_invalid
from ops.structures import Target

__all__ = ["RPN", "RPNHead", "RPNOutputs"]


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box offsets of every anchor, with one set of weights for all levels."""

    def __init__(self, inputs: int, width: int, anchors: int, *, softmax: bool = False) -> None:
        """Build with weights from a Gaussian of 0.01 (Faster R-CNN, section 3.1.3).

        Args:
            inputs: Channels of the maps.
            width: Channels between.
            anchors: Anchors a cell.
            softmax: Two scores an anchor, all of the background first, as the paper has it, instead of one.
        """
        super().__init__()
        self.softmax = softmax
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(width, anchors * (2 if softmax else 1), 1)
        self.bbox_pred = nn.Conv2d(width, anchors * 4, 1)
        self.start_anew()

    def start_anew(self) -> None:
        """Draw fresh weights."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps `[B, C, H_i, W_i]` to logits `[B, N]` and offsets `[B, N, 4]` of all anchors, level by level."""
        logits, offsets = [], []
        for x in maps:
            x = self.conv(x)
            scores = self.cls_logits(x)
            if self.softmax:
                # A softmax over two scores is the sigmoid of their difference, and so are their cross entropies.
                background, foreground = scores.chunk(2, 1)
                scores = foreground - background
            logits.append(scores.permute(0, 2, 3, 1).flatten(1))
            offsets.append(self.bbox_pred(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return torch.cat(logits, 1), torch.cat(offsets, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # torchvision's checkpoints from before several convolutions were possible.
        for kind in ("weight", "bias"):
            if f"{prefix}conv.{kind}" in state_dict:
                state_dict[f"{prefix}conv.0.0.{kind}"] = state_dict.pop(f"{prefix}conv.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *rest)


@dataclass(frozen=True)
class RPNOutputs:
    """What the network says of each anchor.

    Attributes:
        logits: `[B, N]`, of being an object.
        offsets: `[B, N, 4]`.
        anchors: `[N, 4]` in network pixels, level by level.
        counts: How many anchors each level has.
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    counts: tuple[int, ...]


class RPN(nn.Module):
    """Proposals from maps. Section numbers are those of Faster R-CNN."""

    def __init__(
        self,
        head: RPNHead,
        shapes: Sequence[Tensor],
        strides: Sequence[int],
        *,
        centred: bool = True,
        inside_only: bool = False,
        before_nms: tuple[int, int],
        after_nms: tuple[int, int],
        nms: float = 0.7,
        min_side: float = 1e-3,
        drop_small_first: bool = False,
        overlap: tuple[float, float] = (0.3, 0.7),
        samples: int = 256,
        positive_share: float = 0.5,
        beta: float = 1 / 9,
        valid_range: Sequence[float | None] | None = None,
    ) -> None:
        """Build around a head.

        Args:
            head: Scores and offsets.
            shapes: Anchors `[A, 4]` of a cell, for each level.
            strides: Stride of each level.
            centred: Anchors lie about the middles of the cells, a stride apart. If not, about their upper left
                corners, and as far apart as the whole of the input's side over the map's side says: torchvision's
                rule, which differs from the stride where a map was rounded up.
            inside_only: Anchors that cross the image's border do not take part in training (3.1.3).
            before_nms: Most proposals a level that enter suppression, in training and in testing.
            after_nms: Most proposals an image that leave it, likewise.
            nms: Of two proposals of one level that overlap by more, the lower-scoring goes (3.3).
            min_side: Least side of a proposal in pixels of the image before it was resized.
            drop_small_first: Drop small proposals before `before_nms` are chosen, as the released code does, rather
                than after, as torchvision does.
            overlap: Under the first, an anchor is a negative; from the second, a positive (3.1.2).
            samples: Anchors an image that the losses look at (3.1.3).
            positive_share: Most of them that are positives.
            beta: Where the smooth L1 loss turns from square to straight.
            valid_range: Least and most size (root of the area, in pixels of the network's input) of the objects that
                are learned from (SNIP, `ops.snip`); anchors that overlap others take no part. Left out, all are.
        """
        super().__init__()
        self.head = head
        for level, shape in enumerate(shapes):
            self.register_buffer(f"shapes{level}", shape, persistent=False)
        self.strides = tuple(strides)
        self.centred = centred
        self.inside_only = inside_only
        self.before_nms, self.after_nms, self.nms = before_nms, after_nms, nms
        self.min_side, self.drop_small_first = min_side, drop_small_first
        self.overlap, self.samples, self.positive_share, self.beta = overlap, samples, positive_share, beta
        self.valid_range = check_range(valid_range)
        self.coder = CenterSizeCoder()

    def num_anchors(self, size: tuple[int, int]) -> int:
        """Anchors at network input `(H, W)`, for maps that round up."""
        cells = [-(-size[0] // stride) * -(-size[1] // stride) for stride in self.strides]
        return sum(len(shapes) * count for shapes, count in zip(self._shapes(), cells, strict=True))

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> RPNOutputs:
        """Run the head over `maps` of an input of `size` pixels and lay out its anchors."""
        logits, offsets = self.head(maps)
        anchors = []
        for x, shapes, stride in zip(maps, self._shapes(), self.strides, strict=True):
            cells = (int(x.shape[-2]), int(x.shape[-1]))
            if self.centred:
                anchors.append(grid_anchors(shapes, cells, (stride, stride)))
            else:
                anchors.append(grid_anchors(shapes, cells, (size[0] // cells[0], size[1] // cells[1]), offset=0.0))
        return RPNOutputs(logits, offsets, torch.cat(anchors), tuple(map(len, anchors)))

    @torch.no_grad()
    def propose(self, outputs: RPNOutputs, batch: Batch, *, training: bool) -> list[Tensor]:
        """The surest boxes of each image, `[R_i, 4]` in network pixels, the surest first; no gradient passes.

        Args:
            outputs: Of `forward`.
            batch: The images.
            training: Whether the numbers for training hold, or those for testing.
        """
        before, after = (limits[0 if training else 1] for limits in (self.before_nms, self.after_nms))
        logits = outputs.logits.float()
        if self.drop_small_first:
            _, large = self._decode(outputs.offsets, outputs.anchors, batch)
            logits = logits.masked_fill(~large, -torch.inf)
        first, best, levels = 0, [], []
        for level, count in enumerate(outputs.counts):
            best.append(first + logits[:, first : first + count].topk(min(before, count)).indices)
            levels.append(torch.full_like(best[-1], level))
            first += count
        rows, groups = torch.cat(best, 1), torch.cat(levels, 1)
        offsets = outputs.offsets.gather(1, rows[..., None].expand(-1, -1, 4))
        boxes, large = self._decode(offsets, outputs.anchors[rows], batch)
        scores = logits.gather(1, rows).sigmoid()
        proposals = []
        for box, enough, score, group in zip(boxes, large, scores, groups, strict=True):
            box = box[enough]
            kept = batched_nms(box, score[enough], group[enough], self.nms)[:after]
            proposals.append(box[kept])
        return proposals

    def _decode(self, offsets: Tensor, anchors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Boxes `[B, R, 4]` from offsets and anchors, cut to the images, and whether they are large enough `[B, R]`."""
        boxes = self.coder.decode(offsets.float(), anchors)
        border = boxes.new_tensor([frame.inner[::-1] * 2 for frame in batch.frames])[:, None]
        boxes = torch.minimum(boxes.clamp(min=0), border)
        least = self.min_side * boxes.new_tensor([frame.scale for frame in batch.frames])[:, None]
        return boxes, (boxes[..., 2:] - boxes[..., :2] >= least).all(-1)

    def losses(self, outputs: RPNOutputs, batch: Batch, targets: list[Target]) -> dict[str, Tensor]:
        """Cross entropy and smooth L1 over sampled anchors, both divided by their number (3.1.2)."""
        positives, negatives, wanted = [], [], []
        count = len(outputs.anchors)
        for index, (frame, target) in enumerate(zip(batch.frames, targets, strict=True)):
            invalid = target.boxes[:0]
            if self.valid_range is not None:
                valid = in_range(target.boxes, self.valid_range)
                invalid, target = target.boxes[~valid], target[valid]
            matches = self._match(outputs.anchors, target, frame.inner)
            if len(invalid):
                matches = without_invalid(matches, box_iou(invalid, outputs.anchors))
            drawn, others = balanced_sample(matches >= 0, matches == -1, self.samples, self.positive_share)
            positives.append(drawn + index * count)
            negatives.append(others + index * count)
            wanted.append(self.coder.encode(target.boxes[matches[drawn]], outputs.anchors[drawn]))
        positive, negative = torch.cat(positives), torch.cat(negatives)
        rows = torch.cat([positive, negative])
        labels = torch.zeros(len(rows), device=rows.device)
        labels[: len(positive)] = 1
        logits = outputs.logits.float().flatten()[rows]
        offsets = outputs.offsets.float().flatten(0, 1)[positive]
        share = 1 / max(1, len(rows))
        return {
            "objectness": share * F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"),
            "proposal_boxes": share * F.smooth_l1_loss(offsets, torch.cat(wanted), beta=self.beta, reduction="sum"),
        }

    def _shapes(self) -> list[Tensor]:
        return [self.get_buffer(f"shapes{level}") for level in range(len(self.strides))]

    def _match(self, anchors: Tensor, target: Target, inner: tuple[int, int]) -> Tensor:
        """The object of each anchor, -1 for background, -2 for anchors that take no part."""
        low, high = self.overlap
        if not self.inside_only:
            return threshold_match(box_iou(target.boxes, anchors), low, high, rescue=True)
        inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= inner[1]) & (anchors[:, 3] <= inner[0])
        matches = torch.full((len(anchors),), BETWEEN, dtype=torch.int64, device=anchors.device)
        # Who is an object's best anchor is asked among the anchors that take part.
        matches[inside] = threshold_match(box_iou(target.boxes, anchors[inside]), low, high, rescue=True)
        return matches
