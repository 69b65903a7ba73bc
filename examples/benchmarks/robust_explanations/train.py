"""The loop: any method of the library in ordinary PyTorch."""

import math

import torch
from torch import nn
from tqdm import trange

from lirpa_explain.training import BortAdamW, bort_groups, training_loss

from .data import Data
from .nets import ACTIVATIONS
from .settings import Recipe, Setup


def train(data: Data, setup: Setup, recipe: Recipe, seed: int, bar: int | None = None) -> nn.Sequential:
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
    steps = epochs * (len(data.train_x) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step / steps, recipe.warmup))
    step = 0
    for _ in trange(epochs, desc="epochs", leave=False, position=bar or 0, disable=bar is None):
        for rows in torch.randperm(len(data.train_x)).split(batch):
            if len(rows) < batch:
                continue
            step += 1
            radius = setup.eps * recipe.eps_factor * min(1.0, step / (recipe.warmup * steps))
            loss = training_loss(recipe.method, net, data.train_x[rows], data.train_y[rows], eps=radius,
                                 weight=recipe.weight, **recipe.settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def cosine(share: float, start: float) -> float:
    """1 until `start`, then half a cosine down to 0."""
    return 1.0 if share <= start else (1 + math.cos(math.pi * (share - start) / (1 - start))) / 2
