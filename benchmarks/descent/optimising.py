"""What a step does to the weights: the recipe's optimiser, and the average over steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.detector import Recipe

__all__ = ["Average", "optimizer_for"]


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the trainable parameters, in groups that carry their factor on the rate as `factor`.

    Biases get `recipe.bias_lr`; everything of fewer than two dimensions gets `recipe.bias_decay`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.bias_lr if name.endswith("bias") else 1.0
            decay = recipe.weight_decay if parameter.ndim > 1 else recipe.bias_decay
            groups.setdefault((factor, decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": members, "factor": factor, "weight_decay": decay, "lr": recipe.lr * factor}
        for (factor, decay), members in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=recipe.lr, momentum=recipe.momentum)
    return (torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW)(settings, lr=recipe.lr)


class Average:
    """Exponential moving average of the weights; buffers (statistics) are taken as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after so many steps."""
        # Short at first, or the random start would weigh on short trainings.
        decay = min(self.decay, (1 + step) / (10 + step))
        names, values = zip(*model.named_parameters(), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(values), 1 - decay)
