"""Functions that are replaced by equal ones while a model is recorded.

Some are composed of several operations, and bounds of the whole are tighter; some merge the batch
with the channels.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..operators import ACTIVATIONS, Activation, activation
from ..registration import Table


def _instance_norm(input: Tensor, running_mean: Any = None, running_var: Any = None,
                   weight: Any = None, bias: Any = None, use_input_stats: bool = True,
                   momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    if use_input_stats:
        return F.group_norm(input, input.shape[1], weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _pad(input: Tensor, pad: list[int], mode: str = "constant",
         value: float | None = None) -> Tensor:
    if mode != "circular":
        return F.pad(input, pad, mode, value)
    for i in range(len(pad) // 2):
        size = input.shape[-1 - i]
        index = torch.arange(-pad[2 * i], size + pad[2 * i + 1], device=input.device) % size
        input = input.index_select(input.ndim - 1 - i, index)
    return input


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *,
          dtype: Any = None) -> Tensor:
    if dim is None or dtype is not None or not input.is_floating_point():
        return (torch.prod(input, dtype=dtype)
                if dim is None else torch.prod(input, dim, keepdim, dtype=dtype))
    factors = list(input.unbind(dim))
    while len(factors) > 1:
        pairs = [x * y for x, y in zip(factors[::2], factors[1::2], strict=False)]
        factors = pairs + factors[2 * len(pairs):]
    return factors[0].unsqueeze(dim) if keepdim else factors[0]


def _cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    if dtype is not None or not input.is_floating_point():
        return torch.cumprod(input, dim, dtype=dtype)
    return torch.stack(list(itertools.accumulate(input.unbind(dim), torch.mul)), dim)


def _lp_pool(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None,
             ceil_mode: bool = False, *, original: Callable[..., Tensor], spatial: int) -> Tensor:
    """The lengths of windows as such, for order 2; others as torch composes them."""
    if norm_type != 2 or ceil_mode:
        return original(input, norm_type, kernel_size, stride, ceil_mode)
    sizes, steps = ([v] * spatial if isinstance(v, int) else list(v)
                    for v in (kernel_size, stride or kernel_size))
    counts = [(n - k) // s + 1
              for n, k, s in zip(input.shape[-spatial:], sizes, steps, strict=True)]
    ends = [(m - 1) * s + 1 for m, s in zip(counts, steps, strict=True)]
    entries = []
    for place in itertools.product(*map(range, sizes)):
        part = input
        for dim, (i, end, s) in enumerate(zip(place, ends, steps, strict=True), -spatial):
            part = torch.ops.aten.slice(part, dim, i, i + end, s)
        entries.append(part)
    return torch.linalg.vector_norm(torch.stack(entries, -1), 2, -1)


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The first product as a linear layer: its sums are bounded before they are multiplied by the
    other input.
    """
    outputs, first, second = weight.shape
    weighted = F.linear(input1, weight.transpose(1, 2).reshape(outputs * second, first))
    result = (weighted.unflatten(-1, (outputs, second)) * input2.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """The same without a look at the largest class, which differs from example to example."""
    if num_classes < 1:
        return F.one_hot(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()


def _called(input: Tensor, *, name: str) -> Tensor:
    return activation(input, name)


def _of_activation(row: Activation) -> dict[Any, Callable[..., Tensor]]:
    """What is called in place of functions that are composed of several operations."""
    return {function: functools.partial(_called, name=row.name) for function in row.composed}


REPLACEMENTS: Table[Any, Callable[..., Tensor]] = Table(
    "replacement", "lirpa_explain.operators.register_activation(..., composed=...)",
    lambda function, row: [], source=ACTIVATIONS, make=_of_activation)
"""torch's function -> what is called in its place, with the same arguments."""
REPLACEMENTS.add(F.instance_norm, _instance_norm)
REPLACEMENTS.add(F.pad, _pad)
REPLACEMENTS.add(torch.cdist, _cdist)
for _pool, _spatial in ((F.lp_pool1d, 1), (F.lp_pool2d, 2), (F.lp_pool3d, 3)):
    REPLACEMENTS.add(_pool, functools.partial(_lp_pool, original=_pool, spatial=_spatial))
for _function, _replacement in (("prod", _prod), ("cumprod", _cumprod)):
    REPLACEMENTS.add(getattr(torch, _function), _replacement)
    REPLACEMENTS.add(getattr(Tensor, _function), _replacement)
REPLACEMENTS.add(F.bilinear, _bilinear)
REPLACEMENTS.add(F.one_hot, _one_hot)


class Replacements(TorchFunctionMode):
    """While it is active, functions of the table are replaced; within a replacement they are
    torch's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._replacements = dict(REPLACEMENTS)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Call the function, or what stands in its place."""
        return self._replacements.get(function, function)(*args, **(kwargs or {}))
