"""What is learned from fixed features of regions without gradient: R-CNN's linear SVMs and its box regressors.

From R. Girshick, J. Donahue, T. Darrell, J. Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic
Segmentation" (CVPR 2014, https://arxiv.org/abs/1311.2524), 2.3 and appendix C, with the constants of the authors'
release; SPPnet takes both over. Weights lie in buffers. Features are learned from at a mean length of 20, as the
release does; the weights that come out are for features as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BoxRegressors", "HardNegatives", "LinearSVMs", "halve", "ridge", "whitening"]


def halve(module: nn.Module) -> None:
    """Round every weight and buffer to float16, as checkpoints keep them: what is learned next then fits the rest."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())


class LinearSVMs(nn.Module):
    """One linear machine a class: features `[N, D]` to margins `[N, C]`, over 0 for the class."""

    weight: Tensor
    bias: Tensor

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        # Until something is learned, the bias lets nothing pass.
        self.register_buffer("weight", torch.zeros((num_classes, features)))
        self.register_buffer("bias", torch.full((num_classes,), -10.0))

    def forward(self, features: Tensor) -> Tensor:
        """Margins."""
        return features.float() @ self.weight.T + self.bias


class HardNegatives:
    """Trains one machine of `LinearSVMs` on its positives and on the negatives that it has met and not yet mastered.

    Args:
        machines: Where the weights go.
        label: Which machine.
        positives: `[P, D]`.
        scale: What features are multiplied by while learning.
        seed: Of the solver.
        c: Price of a violated margin.
        positive_weight: A positive's price is so many times that.
        hard: Negatives with a margin above this are kept,
        easy: and dropped when it falls below this.
        every: New negatives after which the machine is trained again,
        share: or this share of those that it has, if that is more: where features tell little apart nearly all
            negatives stay, and training from scratch after each 2,000, as the paper's code does, would never end.
    """

    def __init__(
        self,
        machines: LinearSVMs,
        label: int,
        positives: Tensor,
        *,
        scale: float,
        seed: int,
        c: float = 1e-3,
        positive_weight: float = 2.0,
        hard: float = -1.0001,
        easy: float = -1.2,
        every: int = 2_000,
        share: float = 0.5,
    ) -> None:
        self.machines, self.label, self.positives = machines, label, positives
        self.scale, self.seed, self.c, self.positive_weight = scale, seed, c, positive_weight
        self.hard, self.easy, self.every, self.share = hard, easy, every, share
        self.negatives = positives.new_zeros((0, positives.shape[1]))
        self.fresh: list[Tensor] = []
        self.trained = False

    def meet(self, features: Tensor, margins: Tensor) -> None:
        """Take the hard ones of an image's negatives `[N, D]` with margins `[N]`; all, until something is learned."""
        self.fresh.append(features[margins > self.hard] if self.trained else features)
        count = sum(map(len, self.fresh))
        if count > (max(self.every, self.share * len(self.negatives)) if self.trained else 0):
            self.train()

    def train(self) -> None:
        """Fit the machine to what there is, and drop the negatives that have become easy."""
        from sklearn.svm import LinearSVC

        self.negatives = torch.cat([self.negatives, *self.fresh])
        self.fresh = []
        if not len(self.negatives):
            return
        examples = (torch.cat([self.positives, self.negatives]) * self.scale).double().cpu().numpy()
        truth = [1] * len(self.positives) + [0] * len(self.negatives)
        # Liblinear shrinks the bias with the weights; on a longer constant feature it hardly does.
        machine = LinearSVC(
            C=self.c,
            loss="hinge",
            class_weight={1: self.positive_weight},
            intercept_scaling=10.0,
            tol=1e-3,
            max_iter=5_000,
            random_state=self.seed,
        )
        machine.fit(examples, truth)
        weight, bias = self.machines.weight, self.machines.bias
        weight[self.label] = weight.new_tensor(machine.coef_[0] * self.scale)
        bias[self.label] = float(machine.intercept_[0])
        self.trained = True
        margins = self.machines(self.negatives)[:, self.label]
        self.negatives = self.negatives[margins >= self.easy]


def ridge(gram: Tensor, products: Tensor, penalty: float) -> Tensor:
    """`[D, K]`: weights that minimise `|X w - y|^2 + penalty |w|^2`, from `X'X [D, D]` and `X'y [D, K]`."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(products, torch.linalg.cholesky(gram + penalty * eye))


def whitening(covariance: Tensor, floor: float = 1e-3) -> tuple[Tensor, Tensor]:
    """`(covariance + floor I) ^ -1/2` and its inverse."""
    values, vectors = torch.linalg.eigh(covariance + floor * torch.eye(len(covariance), dtype=covariance.dtype))
    return vectors * values.rsqrt() @ vectors.T, vectors * values.sqrt() @ vectors.T


class BoxRegressors(nn.Module):
    """Four linear functions a class, from features `[N, D]` to box offsets `[N, C, 4]`.

    Learned by ridge regression, the bias included, of offsets that are whitened class by class. All sums over examples
    are kept as such, so that any number of them takes the same memory.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros((num_classes, 4, features)))
        self.register_buffer("bias", torch.zeros((num_classes, 4)))
        self._waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._sums: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def forward(self, features: Tensor) -> Tensor:
        """Offsets."""
        flat = features.float() @ self.weight.flatten(0, 1).T
        return flat.unflatten(1, self.bias.shape) + self.bias

    def meet(self, label: int, features: Tensor, offsets: Tensor) -> None:
        """Take examples of a class: features `[N, D]` and the offsets `[N, 4]` that they should give."""
        waiting = self._waiting.setdefault(label, [])
        waiting.append((features, offsets))
        # The sums are large: adding to them is worth it for many examples only.
        if sum(len(given) for given, _ in waiting) >= 512:
            self._sum(label)

    def _sum(self, label: int) -> None:
        features = torch.cat([given for given, _ in self._waiting[label]])
        x = torch.cat([features, features.new_ones((len(features), 1))], 1).double()
        y = torch.cat([wanted for _, wanted in self._waiting.pop(label)]).double()
        found = (x.T @ x, x.T @ y, y.T @ y)
        for total, part in zip(self._sums.setdefault(label, found), found, strict=True):
            if total is not part:
                total += part

    def learn(self, scale: float, penalty: float) -> None:
        """Solve for every class that was met, and forget the examples; the others keep regressing nothing.

        Args:
            scale: What features are multiplied by while learning.
            penalty: Of the ridge.
        """
        for label in list(self._waiting):
            self._sum(label)
        for label, (gram, products, squares) in self._sums.items():
            count = gram[-1, -1]
            mean = products[-1] / count
            forth, back = whitening((squares / count - mean[:, None] * mean).cpu())
            forth, back = forth.to(gram), back.to(gram)
            # The whitened target of an offset y is (y - mean) forth, so sums over targets follow from those over y.
            targets = (products - gram[:, -1:] * mean) @ forth
            scales = torch.full_like(mean[:1], scale).expand(len(gram)).clone()
            scales[-1] = 1
            weights = ridge(gram * scales * scales[:, None], targets * scales[:, None], penalty) @ back
            self.weight[label] = (weights[:-1] * scale).T
            self.bias[label] = weights[-1] + mean
        self._sums = {}
