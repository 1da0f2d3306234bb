"""Stars: a root filter and parts about it at twice the resolution, several such components a class.

From P. Felzenszwalb, R. Girshick, D. McAllester, D. Ramanan, "Object Detection with Discriminatively Trained Part Based
Models" (PAMI 2010), sections 3 and 4, with the conventions of voc-release5. `StarModels` keeps what is learned, `Star`
is one class of it, ready to be laid over a pyramid of features.

A pyramid is a list of features `[32, H, W]`, the finest first; level `i + octave` has half the resolution of level `i`.
Each is padded on all sides, so that the features of the image's cell (row, column) stand at (row + padding,
column + padding) at every level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.part_features import distance_transform, mirror_features

__all__ = ["Star", "StarModels", "predicted", "relative"]


@dataclass(frozen=True)
class Star:
    """The components of one class, mirror images beside each other. K components, P parts.

    Attributes:
        roots: `[K, 32, R, S]`, zero beyond each component's window.
        windows: Rows and columns of each root.
        bias: `[K]`.
        prior: `[K, 3]`, added in the pyramid's first octave, its second, and later.
        parts: `[K, P, 32, side, side]`.
        anchors: x and y of each part of each component from the root's corner, in cells of the finer level.
        costs: `[K, P, 4]` of `distance_transform`.
        reach: Farthest that a part moves along an axis.
        octave: See above.
        padding: Rows and columns of padding of the pyramids that it is laid over.
        mirrored: Whether odd components are mirror images.
    """

    roots: Tensor
    windows: list[tuple[int, int]]
    bias: Tensor
    prior: Tensor
    parts: Tensor
    anchors: list[list[tuple[int, int]]]
    costs: Tensor
    reach: int
    octave: int
    padding: tuple[int, int]
    mirrored: bool

    @property
    def least(self) -> tuple[int, int]:
        """Rows and columns of the smallest roots."""
        rows, columns = zip(*self.windows, strict=True)
        return min(rows), min(columns)

    def scores(self, levels: list[Tensor], *, parts: bool = True) -> list[Tensor]:
        """`[K, Y, X]` for each level from `octave` on: what a component scores whose root begins at a place.

        Minus infinity where the root does not fit, or a part's anchor lies beyond the finer level. Without `parts`,
        only the roots count.
        """
        return [self._level(levels, index, parts) for index in range(self.octave, len(levels))]

    def _level(self, levels: list[Tensor], index: int, parts: bool) -> Tensor:
        features = levels[index]
        rows, columns = self.least
        if features.shape[1] < rows or features.shape[2] < columns:
            return features.new_zeros((len(self.windows), 0, 0))
        across, down = self.roots.shape[3] - columns, self.roots.shape[2] - rows
        total = F.conv2d(F.pad(features, (0, across, 0, down))[None], self.roots)[0]
        for own, (height, width) in zip(total, self.windows, strict=True):
            own[features.shape[1] - height + 1 :] = -math.inf
            own[:, features.shape[2] - width + 1 :] = -math.inf
        total += (self.bias + self.prior[:, min(index // self.octave, 2)])[:, None, None]
        if parts and self.parts.shape[1]:
            self._add_parts(total, levels[index - self.octave])
        return total

    def _add_parts(self, total: Tensor, features: Tensor) -> None:
        side = self.parts.shape[-1]
        if min(features.shape[1:]) < side:
            total.fill_(-math.inf)
            return
        moved = F.conv2d(features[None], self.parts.flatten(0, 1))[0]
        moved = distance_transform(moved, self.costs.flatten(0, 1), self.reach).unflatten(0, self.parts.shape[:2])
        for sums, own, anchors in zip(total, moved, self.anchors, strict=True):
            top, left, bottom, right = 0, 0, sums.shape[0], sums.shape[1]
            for scores, (x, y) in zip(own, anchors, strict=True):
                # The root's place r stands at 2 (r - padding) + padding of the finer level.
                first_y, rows, y0 = _every_second(y - self.padding[0], scores.shape[0], sums.shape[0])
                first_x, columns, x0 = _every_second(x - self.padding[1], scores.shape[1], sums.shape[1])
                inner = scores[y0 : y0 + 2 * rows : 2, x0 : x0 + 2 * columns : 2]
                sums[first_y : first_y + rows, first_x : first_x + columns] += inner
                top, left = max(top, first_y), max(left, first_x)
                bottom, right = min(bottom, first_y + rows), min(right, first_x + columns)
            sums[:top], sums[max(0, bottom) :] = -math.inf, -math.inf
            sums[:, :left], sums[:, max(0, right) :] = -math.inf, -math.inf

    def fits(self, levels: list[Tensor], spots: Tensor) -> Tensor:
        """Which roots `[N, 4]` have all anchors within the finer level, as their scores are finite with parts too."""
        side = self.parts.shape[-1]
        component, level, row, column = spots.T
        sizes = spots.new_tensor([(features.shape[2], features.shape[1]) for features in levels])
        anchors = spots.new_tensor(self.anchors).reshape(len(self.anchors), -1, 2)[component]
        starts = anchors - spots.new_tensor(self.padding[::-1]) + 2 * torch.stack([column, row], 1)[:, None]
        last = sizes[level - self.octave][:, None] - side
        return ((starts >= 0) & (starts <= last)).flatten(1).all(1)

    def place(self, levels: list[Tensor], spots: Tensor) -> Tensor:
        """Where the parts of whole stars lie.

        Args:
            levels: The pyramid.
            spots: int64 `[N, 4]`: component, level, row and column of the root; their scores are finite.

        Returns:
            int64 `[N, P, 2]`: x and y at the finer level.
        """
        side, reach = self.parts.shape[-1], self.reach
        count, parts = len(spots), self.parts.shape[1]
        if not count or not parts:
            return spots.new_zeros((count, parts, 2))
        padded: dict[int, Tensor] = {}
        patches, starts, limits = [], [], []
        for component, level, row, column in spots.tolist():
            fine = levels[level - self.octave]
            if level not in padded:
                padded[level] = F.pad(fine, (reach,) * 4)
            for x, y in self.anchors[component]:
                left, top = x - self.padding[1] + 2 * column, y - self.padding[0] + 2 * row
                patches.append(_window(padded[level], top, left, 2 * reach + side))
                starts.append((left, top))
                limits.append((fine.shape[2] - side, fine.shape[1] - side))
        weights = self.parts[spots[:, 0]].flatten(0, 1)
        maps = F.conv2d(torch.cat(patches)[None], weights, groups=len(patches))[0]
        step = torch.arange(-reach, reach + 1, device=spots.device)
        ax, bx, ay, by = self.costs[spots[:, 0]].flatten(0, 1).T[..., None]
        # The displacement of the cost is the anchor less the place.
        maps = maps - (ax * step**2 - bx * step)[:, None, :] - (ay * step**2 - by * step)[:, :, None]
        start, limit = spots.new_tensor(starts), spots.new_tensor(limits)
        place_x, place_y = start[:, :1] + step, start[:, 1:] + step
        outside_x, outside_y = (place_x < 0) | (place_x > limit[:, :1]), (place_y < 0) | (place_y > limit[:, 1:])
        maps = maps.masked_fill(outside_x[:, None, :] | outside_y[:, :, None], -math.inf)
        best = maps.flatten(1).argmax(1)
        across, down = best % len(step), best.div(len(step), rounding_mode="floor")
        found = torch.stack([place_x.gather(1, across[:, None]), place_y.gather(1, down[:, None])], -1)
        return found.reshape(count, parts, 2)

    def boxes(self, spots: Tensor, placed: Tensor, cells: list[float]) -> Tensor:
        """`[N, 1 + P, 4]`: root and parts in pixels of the image, not clipped; `cells` has each level's sides."""
        side = self.parts.shape[-1]
        sides = placed.new_tensor(cells, dtype=torch.float64)
        component, level, row, column = spots.T
        windows = sides.new_tensor(self.windows)[component]
        shift = sides.new_tensor(self.padding[::-1])
        root = torch.stack([column, row], 1) - shift
        root = torch.cat([root, root + windows.flip(1)], 1) * sides[level][:, None]
        corner = placed - shift
        fine = torch.cat([corner, corner + side], 2) * sides[(level - self.octave)][:, None, None]
        return torch.cat([root[:, None], fine], 1).float()

    def describe(self, levels: list[Tensor], spots: Tensor, placed: Tensor, *, parts: bool = True) -> Tensor:
        """`[N, D]`: the features under each star, as those of the component that is not a mirror image.

        The score is their product with root, parts and costs, in this order and flattened, and the bias. The spots are
        of one window.
        """
        side, rows = self.parts.shape[-1], []
        for (component, level, row, column), corners in zip(spots.tolist(), placed.tolist(), strict=True):
            height, width = self.windows[component]
            flip = self.mirrored and component % 2 == 1
            pieces = [levels[level][:, row : row + height, column : column + width]]
            shifts: list[float] = []
            if parts:
                fine = levels[level - self.octave]
                for (x, y), (u, v) in zip(self.anchors[component], corners, strict=True):
                    pieces.append(fine[:, v : v + side, u : u + side])
                    dx = x - self.padding[1] + 2 * column - u
                    dy = y - self.padding[0] + 2 * row - v
                    shifts += [-float(dx * dx), float(dx if flip else -dx), -float(dy * dy), -float(dy)]
            pieces = [mirror_features(piece) if flip else piece for piece in pieces]
            rows.append(torch.cat([*(piece.flatten() for piece in pieces), pieces[0].new_tensor(shifts)]))
        return torch.stack(rows)


def relative(roots: Tensor, filters: Tensor) -> Tensor:
    """`[N, 2 F + 1]`: how far the middles of N x F filters lie from their window's, by its sides, and a constant 1.

    `roots` are `[N, 4]`, `filters` `[N, F, 4]`. A side counts from pixel to pixel, one less than its length.
    """
    away = (filters[..., :2] + filters[..., 2:] - (roots[:, :2] + roots[:, 2:])[:, None]) / 2
    places = away / (roots[:, 2:] - roots[:, :2] - 1)[:, None]
    return torch.cat([places.flatten(1), torch.ones_like(places[:, 0, :1])], 1)


def predicted(roots: Tensor, filters: Tensor, weights: Tensor) -> Tensor:
    """`[N, 4]`: windows moved to where their filters say the object is, by `[N, 4, 2 F + 1]` (section 7.1)."""
    moves = (weights @ relative(roots, filters)[..., None])[..., 0]
    return roots + moves * (roots[:, 2:] - roots[:, :2] - 1).repeat(1, 2)


def _every_second(offset: int, fine: int, coarse: int) -> tuple[int, int, int]:
    """Of the places `offset + 2 r`, 0 <= r < coarse, those within 0 to fine - 1: first r, their number, first place."""
    first = max(0, -(offset // 2))
    count = max(0, min(coarse, (fine - 1 - offset) // 2 + 1) - first)
    return first, count, max(0, offset + 2 * first)


def _window(features: Tensor, top: int, left: int, side: int) -> Tensor:
    return features[:, top : top + side, left : left + side]


class StarModels(nn.Module):
    """What is learned of every class: buffers alone, so that checkpoints hold it.

    Args:
        num_classes: Classes.
        groups: Components of a class, without mirror images.
        mirrored: Whether each has its mirror image beside it, which shares all its numbers.
        parts: Of each component.
        canvas: Rows and columns of the largest root.
        side: Of the square parts, in cells of the finer level.
        reach: Farthest that a part moves along an axis.
    """

    root: Tensor
    window: Tensor
    bias: Tensor
    prior: Tensor
    part: Tensor
    anchor: Tensor
    cost: Tensor
    box: Tensor
    threshold: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        groups: int,
        mirrored: bool,
        parts: int,
        canvas: tuple[int, int],
        side: int,
        reach: int,
    ) -> None:
        super().__init__()
        self.canvas, self.mirrored, self.reach = canvas, mirrored, reach
        self.components = groups * (2 if mirrored else 1)
        shape = (num_classes, groups)
        self.register_buffer("root", torch.zeros((*shape, 32, *canvas)))
        self.register_buffer("window", torch.tensor(canvas).expand(*shape, 2).clone())
        # Until something is learned, the bias lets nothing pass.
        self.register_buffer("bias", torch.full(shape, -10.0))
        self.register_buffer("prior", torch.zeros((*shape, 3)))
        self.register_buffer("part", torch.zeros((*shape, parts, 32, side, side)))
        self.register_buffer("anchor", torch.zeros((*shape, parts, 2), dtype=torch.int64))
        self.register_buffer("cost", torch.tensor([0.01, 0, 0.01, 0]).expand(*shape, parts, 4).clone())
        self.register_buffer("box", torch.zeros((num_classes, self.components, 4, 2 * parts + 3)))
        self.register_buffer("threshold", torch.full((num_classes,), -1.1))

    def star(self, label: int, octave: int) -> Star:
        """One class with its mirror images; `octave` is the pyramid's levels an octave."""
        side = self.part.shape[-1]
        windows = [self.canvas] * len(self.root[label])
        anchors = [[(0, 0)] * self.part.shape[2] for _ in windows]
        if not self.window.is_meta:
            windows = [(rows, columns) for rows, columns in self.window[label].tolist()]
            anchors = [[(x, y) for x, y in own] for own in self.anchor[label].tolist()]
        rows, columns = (max(sides) for sides in zip(*windows, strict=True))
        roots, parts, costs = self.root[label, :, :, :rows, :columns], self.part[label], self.cost[label]
        bias, prior = self.bias[label], self.prior[label]
        if self.mirrored:
            turned = torch.zeros_like(roots)
            for new, old, (_, width) in zip(turned, roots, windows, strict=True):
                new[..., :width] = mirror_features(old[..., :width])
            roots = _beside(roots, turned)
            parts = _beside(parts, mirror_features(parts))
            costs = _beside(costs, costs * costs.new_tensor([1, -1, 1, 1]))
            bias, prior = bias.repeat_interleave(2, 0), prior.repeat_interleave(2, 0)
            anchors = [
                own
                for anchor, (_, width) in zip(anchors, windows, strict=True)
                for own in (anchor, [(2 * width - x - side, y) for x, y in anchor])
            ]
            windows = [window for window in windows for _ in range(2)]
        return Star(
            roots=roots,
            windows=windows,
            bias=bias,
            prior=prior,
            parts=parts,
            anchors=anchors,
            costs=costs,
            reach=self.reach,
            octave=octave,
            padding=(rows, columns),
            mirrored=self.mirrored,
        )


def _beside(first: Tensor, second: Tensor) -> Tensor:
    """`[G, ...]` twice to `[2 G, ...]`, in turn."""
    return torch.stack([first, second], 1).flatten(0, 1)
