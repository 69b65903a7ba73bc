"""The loop: any method of the library in ordinary PyTorch."""

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import trange

import lirpa_explain as lx
from lirpa_explain.training import BortAdamW, Ramp, bort_groups, training_loss

from .data import Data
from .nets import ACTIVATIONS
from .settings import Recipe, Setup


def train(data: Data, setup: Setup, recipe: Recipe, seed: int,
          bar: int | None = None) -> nn.Sequential:
    """Train a net.

    Args:
        data: what on.
        setup: its net and how it is trained.
        recipe: the method.
        seed: of the weights, of the order of the examples, and of what the method draws.
        bar: the line of a progress bar over the epochs; default: none.

    Returns:
        The net, in eval mode, its parameters asking for no gradient.
    """
    torch.manual_seed(seed)
    net = setup.net(ACTIVATIONS[recipe.activation])
    lr, epochs = recipe.lr or setup.lr, recipe.epochs or setup.epochs
    batch = min(recipe.batch or setup.batch, len(data.train_x))
    optimizer: torch.optim.Optimizer
    if recipe.bort:
        optimizer = BortAdamW(bort_groups(net, recipe.bort), lr, weight_decay=recipe.adam_decay)
    else:
        optimizer = torch.optim.Adam(net.parameters(), lr, weight_decay=recipe.adam_decay)
    settings = {**recipe.settings, **with_mask(recipe, data)}
    task = partial(F.cross_entropy, weight=1 / data.train_y.bincount() if setup.balanced else None)
    steps = epochs * (len(data.train_x) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer,
                                                 lambda step: cosine(step / steps, recipe.warmup))
    eps, gamma = (Ramp(0.0, stop, end=round(recipe.warmup * steps))
                  for stop in (setup.eps * recipe.eps_factor, recipe.gamma))
    step = 0
    for _ in trange(epochs, desc="epochs", leave=False, position=bar or 0, disable=bar is None):
        for rows in torch.randperm(len(data.train_x)).split(batch):
            if len(rows) < batch:
                continue
            step += 1
            if recipe.gamma:
                settings["parameters"] = lx.ParameterBox(relative=gamma(step))
            if recipe.base != "plain":
                settings["base"] = partial(training_loss, recipe.base,
                                           eps=recipe.base_factor * setup.eps)
            loss = training_loss(recipe.method, net, data.train_x[rows], data.train_y[rows],
                                 eps=eps(step), weight=recipe.weight, task=task, **settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def with_mask(recipe: Recipe, data: Data) -> dict[str, Any]:
    """The options of a recipe's loss on bounds, with the data's protected features for the loss
    that wants a mask.
    """
    options = recipe.settings.get("options", {})
    if "protected_ratio" not in options:
        return {}
    mask = torch.zeros(data.train_x[0].numel(), dtype=torch.bool)
    mask[list(data.protected)] = True
    return {"options": {**options, "protected_ratio": {**options["protected_ratio"], "mask": mask}}}


def cosine(share: float, start: float) -> float:
    """1 until `start`, then half a cosine down to 0."""
    return 1.0 if share <= start else (1 + math.cos(math.pi * (share - start) / (1 - start))) / 2
