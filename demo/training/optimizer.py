"""Muon for the matrices, AdamW for everything else, as one optimizer.

Orthogonalised updates (Jordan et al., 2024) need far fewer steps than AdamW here, above all where
`silence_branches` left weights at zero. A convolution is a matrix of out x (in * taps).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Chosen = Callable[[str], bool]


class MatrixOptimizer:
    """Has what a training loop uses of `torch.optim.Optimizer`; every group knows its `peak` rate."""

    def __init__(self, model: nn.Module, matrix_rate: float, rate: float, slow_rate: float, slow: Chosen):
        """`slow` says by name which weights learn at `slow_rate`; they and all vectors go to AdamW."""
        named = list(model.named_parameters())
        self.matrices = [weight for name, weight in named if weight.ndim > 1 and not slow(name)]
        self.views = [weight.detach().view(len(weight), -1) for weight in self.matrices]
        others = [weight for name, weight in named if weight.ndim <= 1 and not slow(name)]
        held_back = [weight for name, weight in named if slow(name)]
        self.muon = torch.optim.Muon(
            self.views, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        groups = [{"params": others, "lr": rate}, {"params": held_back, "lr": slow_rate}]
        self.adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        for group in self.param_groups:
            group["peak"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self) -> None:
        """One update from the gradients; a matrix without one stays."""
        for weight, view in zip(self.matrices, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.view_as(view)
        self.muon.step()
        self.adamw.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for weight, view in zip(self.matrices, self.views, strict=True):
            weight.grad = view.grad = None
        self.adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
