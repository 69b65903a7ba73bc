"""Bort: SGD and AdamW that drive the rows of weights towards a bounded, orthogonal set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

Amplitude = float | str
WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose weights the paper constrains."""


@dataclass(frozen=True)
class BortMode:
    """One row of the table: a constraint on a matrix W (out, in), and the descent direction of its
    violation.

    Args:
        delta: `delta(W, a) -> (out, in)`, a (sub)gradient of the objective.
        objective: for people.
    """

    delta: Callable[[Tensor, Tensor], Tensor]
    objective: str


def _eye(gram: Tensor) -> Tensor:
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _rows(W: Tensor) -> Tensor:
    return W.square().sum(1, keepdim=True)


def _columns(W: Tensor) -> Tensor:
    return W.square().sum(0, keepdim=True)


BORT_MODES: dict[str, BortMode] = {
    "l2-full": BortMode(lambda W, a: torch.linalg.multi_dot([W, W.T, W]) - a * W,
                        "|W W^T - a I|_F^2 / 4"),
    "l2-row": BortMode(lambda W, a: (_rows(W) - a) * W, "sum_i (|row i|^2 - a)^2 / 4"),
    "l2-col": BortMode(lambda W, a: (_columns(W) - a) * W, "sum_j (|column j|^2 - a)^2 / 4"),
    "l1-fullrow": BortMode(lambda W, a: ((G := W @ W.T) - a * _eye(G)).sign() @ W,
                           "sum |W W^T - a I| / 2"),
    "l1-fullcol": BortMode(lambda W, a: W @ ((G := W.T @ W) - a * _eye(G)).sign(),
                           "sum |W^T W - a I| / 2"),
    "l1-row": BortMode(lambda W, a: (_rows(W) - a).sign() * W, "sum_i ||row i|^2 - a| / 2"),
    "l1-col": BortMode(lambda W, a: (_columns(W) - a).sign() * W, "sum_j ||column j|^2 - a| / 2"),
}
"""Name -> constraint."""


def bort_delta(weight: Tensor, amplitude: Amplitude = 1.0, mode: str = "l2-full") -> Tensor:
    """Direction in which a weight violates Bort's constraint; for "l2-full": W W^T W - a W.

    Args:
        weight: (out, ...), flattened to W (out, in).
        amplitude: a > 0, the squared length that rows (or columns) shall have; "ada" for (mean row
            length)^2, held fixed.
        mode: a key of `BORT_MODES`.

    Returns:
        In the shape of `weight`: the gradient of the mode's objective for fixed a.

    Raises:
        ValueError: an unknown mode, an amplitude out of range, or a weight of fewer than 2
            dimensions.

    Source:
        Zhang, Zhao, Zheng, Zhou and Lu, Bort: Towards Explainable Neural Networks with Bounded
        Orthogonal Constraint, ICLR 2023.

    Example:
        >>> bort_delta(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([[6., 0.],
                [0., 0.]])
    """
    _check(1.0, amplitude, mode, [weight])
    W = weight.flatten(1)
    a = W.detach().norm(dim=1).mean().square() if amplitude == "ada" else torch.as_tensor(amplitude)
    return BORT_MODES[mode].delta(W, a.to(W)).reshape(weight.shape)


def bort_groups(model: nn.Module, gamma: float, **options: Any) -> list[dict[str, Any]]:
    """The paper's parameter groups: weights of linear layers and convolutions constrained,
    everything else not.

    Args:
        model: its parameters are grouped, each once.
        gamma: strength of the constraint, at least 0.
        **options: of the constrained group: `amplitude`, `mode`, or any of the optimizer's.

    Returns:
        Two groups for `BortSGD` and `BortAdamW`: weights with `gamma`, and the others with 0.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(16, 2))
        >>> [len(group["params"]) for group in bort_groups(model, gamma=0.1)]
        [2, 4]
    """
    chosen = {id(module.weight) for module in model.modules() if isinstance(module, WEIGHTS)}
    weights = [p for p in model.parameters() if id(p) in chosen]
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": weights, "gamma": gamma, **options}, {"params": others, "gamma": 0.0}]


class _Bort(Optimizer):
    """Options and checks of both optimizers; goes before torch's own class."""

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 1e-3, *, gamma: float = 0.0,
                 amplitude: Amplitude = 1.0, mode: str = "l2-full", **options: Any) -> None:
        self._bort = {"gamma": gamma, "amplitude": amplitude, "mode": mode}
        super().__init__(params, lr, **options)  # type: ignore[arg-type]
        self.defaults.update(self._bort)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as `torch.optim.Optimizer.add_param_group` does; a wrong one is not
        added.
        """
        super().add_param_group({**self._bort, **param_group})
        group = self.param_groups[-1]
        try:
            _check(group["gamma"], group["amplitude"], group["mode"], group["params"])
            if group["fused"]:
                raise ValueError("fused=True has no place for Bort's update; leave it out, or take "
                                 "foreach=True.")
        except ValueError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.update({"gamma": 0.0, "amplitude": 1.0, "mode": "l2-full", **group})


class BortSGD(_Bort, SGD):
    """SGD whose gradient has gamma * Delta(W) added, before weight decay and momentum.

    Options of a parameter group beside torch's own: `gamma`, `amplitude`, `mode`. With gamma = 0
    every step is that of `torch.optim.SGD`, bit by bit, and its checkpoints can be loaded.

    Args:
        params: parameters or groups, see `bort_groups`.
        lr: step length.
        gamma: strength of the constraint, at least 0; above 0 only for parameters of 2 or more
            dimensions.
        amplitude: a > 0, or "ada"; see `bort_delta`.
        mode: a key of `BORT_MODES`.
        **options: of `torch.optim.SGD`; `fused=True` is refused.

    Raises:
        ValueError: an option out of range.

    Source:
        Zhang et al., Bort, ICLR 2023.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> optimizer = BortSGD(bort_groups(model, gamma=0.1), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def _init_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor],
                    *buffers: Any) -> Any:
        # torch collects here what a step works on: after the closure, and once for each group.
        result = super()._init_group(group, params, grads, *buffers)
        if group["gamma"] != 0:
            # torch turns the sum around
            toward = -group["gamma"] if group["maximize"] else group["gamma"]
            for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
                grads[i] = grad + toward * bort_delta(p, group["amplitude"], group["mode"])
        return result


class BortAdamW(_Bort, AdamW):
    """AdamW with a decoupled constraint: W *= 1 - lr * decay; W -= lr * gamma * Delta(W); then the
    step of Adam.

    Options of a parameter group beside torch's own: `gamma`, `amplitude`, `mode`. With gamma = 0
    every step is that of `torch.optim.AdamW`, bit by bit, and its checkpoints can be loaded.

    Args:
        params: parameters or groups, see `bort_groups`.
        lr: step length.
        gamma: strength of the constraint, at least 0; above 0 only for parameters of 2 or more
            dimensions.
        amplitude: a > 0, or "ada"; see `bort_delta`.
        mode: a key of `BORT_MODES`.
        **options: of `torch.optim.AdamW`; `fused=True` is refused.

    Raises:
        ValueError: an option out of range.

    Source:
        Zhang et al., Bort, ICLR 2023.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> optimizer = BortAdamW(bort_groups(model, gamma=0.1, mode="l2-row"), lr=0.01)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
    """

    def _init_group(self, group: dict[str, Any], params: list[Tensor], *collected: Any) -> Any:
        # torch collects here what a step works on: after the closure, and once for each group.
        result = super()._init_group(group, params, *collected)
        if group["gamma"] != 0:
            # by which torch multiplies W right after this
            decay = 1 - group["lr"] * group["weight_decay"]
            for p in params:
                delta = bort_delta(decay * p, group["amplitude"], group["mode"])
                p.sub_(group["lr"] * group["gamma"] / decay * delta)
        return result


def _check(gamma: float, amplitude: Amplitude, mode: str, params: Iterable[Tensor]) -> None:
    if mode not in BORT_MODES:
        raise ValueError(f"mode must be one of {', '.join(BORT_MODES)}; given: {mode!r}.")
    if amplitude != "ada" and (isinstance(amplitude, str) or not amplitude > 0):
        raise ValueError(f"amplitude must be a number above 0 or 'ada'; given: {amplitude!r}.")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma must be a number of at least 0; given: {gamma!r}.")
    flat = [tuple(p.shape) for p in params if p.ndim < 2] if gamma else []
    if flat:
        raise ValueError("Bort constrains parameters of 2 or more dimensions; given: one of shape "
                         f"{flat[0]}. Put biases and norms into a group with gamma=0, as "
                         "bort_groups(model, gamma) does.")
