"""Captum's own attribution, computed without leaving traces in the caller's process."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import LirpaExplainError, TrainingModeError

RANDOM_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU)


@contextlib.contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Leave torch's and numpy's random generators as they were, and inference mode, which forbids gradients."""
    state = np.random.get_state()
    with torch.inference_mode(False), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(state)


@contextlib.contextmanager
def no_training_layers() -> Iterator[None]:
    """Refuse layers that are random or depend on the batch in training mode, before they run and change anything."""

    def check(module: nn.Module, _: Any) -> None:
        if module.training and isinstance(module, RANDOM_IN_TRAINING) and getattr(module, "p", 1) > 0:
            raise TrainingModeError(
                f"The model is in training mode, in which its layer {module} is random or depends on the other "
                "examples: call model.eval() first."
            )

    handle = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def attribute(attribution: Any, inputs: Any, xs: tuple[Tensor, ...], kwargs: dict[str, Any]
               ) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Captum's own attributions, and its convergence delta if the caller asked for it."""
    given = tuple(x.detach().requires_grad_() for x in xs)
    try:
        result = attribution.attribute(given if isinstance(inputs, tuple) else given[0], **kwargs)
    except (torch.OutOfMemoryError, LirpaExplainError):
        raise
    except TypeError as error:
        raise TypeError(f"Captum's {type(attribution).__name__}.attribute rejects these arguments: {error}") from error
    except (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError) as error:
        raise ValueError(f"Captum's {type(attribution).__name__}.attribute rejects these arguments: {error}") from error
    delta = None
    if kwargs.get("return_convergence_delta"):
        result, delta = result[0], result[1].detach()
    parts = tuple(part.detach() for part in (result if isinstance(result, tuple) else (result,)))
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError(f"Captum's {type(attribution).__name__} is NaN or infinite at this input; look at the model's "
                         "weights, the baselines and the further arguments.")
    return parts, delta
