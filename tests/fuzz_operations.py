"""Operations of values, and of values with further arguments, from which random architectures are
drawn.

Each row says for which numbers of dimensions of an example it is made. Those with an argument are
given ids: whole numbers from 0 to 5, (rows, `LONGEST`), of which each makes the masks, indices and
labels that it needs.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
ALL = (1, 2, 3)
KINDS_OF_IDS = 6
LONGEST = 40


def written(x: Tensor) -> Tensor:
    """Entries written in place, one after the other."""
    out = torch.zeros_like(x)
    for i in range(x.shape[1]):
        out[:, i] = x[:, i] if i == 0 else torch.tanh(out[:, i - 1].clone() + x[:, i])
    return out


def in_slices(x: Tensor) -> Tensor:
    """Slices that are written and added to."""
    out = x.new_zeros(x.shape)
    out[:, 1:] = x[:, :-1] * 2
    out[:, 0] += 0.5
    out[..., -1].mul_(-1.5)
    return out + x


def order_of(x: Tensor) -> Tensor:
    """An index for each place of dimension 1, some of them twice."""
    return torch.tensor([(3 * i + 1) % x.shape[1] for i in range(x.shape[1])])


def along(x: Tensor, index: Tensor) -> Tensor:
    """An index of dimension 1, in the shape of x."""
    return index.reshape(-1, x.shape[1], *[1] * (x.ndim - 2)).expand_as(x)


MOVES: dict[str, tuple[Shape, Callable[[Tensor], Tensor]]] = {
    "written": (ALL, written), "in slices": (ALL, in_slices),
    "gather": (ALL, lambda x: x.gather(1, along(x, order_of(x)))),
    "scatter add": (ALL,
                    lambda x: torch.zeros_like(x).scatter_add(1, along(x, order_of(x)), x.sin())),
    "scatter onto": (
        ALL, lambda x: x.scatter(1, along(x, order_of(x)[:1].expand(x.shape[1]))[:, :1], 0.5)),
    "index add": (ALL, lambda x: x.index_add(1, order_of(x), x.square(), alpha=0.5)),
    "index put": (ALL, lambda x: x.index_put((torch.arange(len(x))[:, None], torch.tensor([0])),
                                             2 * x[:, -1:])),
    "copied": (ALL, lambda x: x.clone().copy_(x.flip(1)) * x),
    "unfold": ((1, 2), lambda x: x.unfold(-1, 2, 1).flatten(-2)),
    "im2col": ((3,), lambda x: F.unfold(x, 2)),
    "triangles": ((2, 3), lambda x: x.tril() + 2 * x.triu(1)),
    "diagonal": ((2,), lambda x: x.diagonal(0, 1, 2)),
    "channels last": ((3,),
                      lambda x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1)),
    "products": (ALL, lambda x: x.sigmoid().cumprod(1)),
    "variance": (ALL, lambda x: x - x.var(1, keepdim=True)),
    "deviation": ((2, 3), lambda x: (x.flatten(1).var(1, unbiased=False)[:, None] + 0.1).sqrt()
                  * x.flatten(1)),
    "bilinear": ((1,), lambda x: F.bilinear(
        x, x, torch.linspace(-1, 1, 2 * x.shape[1] ** 2, dtype=x.dtype).reshape(2, x.shape[1],
                                                                                x.shape[1]))),
}

ORDER: dict[str, tuple[Shape, Callable[[Tensor], Tensor]]] = {
    "max": (ALL, lambda x: x - x.max(1, keepdim=True).values),
    "amax": (ALL, lambda x: x.amax(1, keepdim=True) * x),
    "min": ((2, 3), lambda x: x.min(-1)[0]), "amin of two": ((3,), lambda x: x.amin((2, 3))),
    "maximum": (ALL, lambda x: torch.maximum(x, x.flip(1))),
    "minimum": (ALL, lambda x: torch.minimum(x, x.sin())),
    "maximum of a number": (ALL, lambda x: torch.maximum(x, x.new_tensor(0.2))),
    "where larger": (ALL, lambda x: torch.where(x > x.flip(1), x.square(), x)),
    "where constants": (ALL, lambda x: torch.where(
        x > torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype), x, 0.5 * x)),
    "either": (ALL, lambda x: x * ((x > 0.3) | (x < -0.2))),
    "count": (ALL, lambda x: x * (x > 0.1).sum(1, keepdim=True)),
    "clamp by values": (ALL, lambda x: x.clamp(min=x.flip(1) - 0.5)),
    "sort": (ALL, lambda x: x.sort(1)[0]),
    "topk": (ALL, lambda x: x.topk(2, 1)[0]),
    "straight through": (ALL, lambda x: x + (x.round() - x).detach()),
    "maxout": (ALL, lambda x: torch.stack([x, 0.5 - x], 1).amax(1)),
    "largest of volumes": ((3,), lambda x: F.max_pool3d(x[:, None], (1, 2, 2), 1)[:, 0]),
    "logsumexp": ((2, 3), lambda x: x.logsumexp(-1)),
    "logsumexp kept": (ALL, lambda x: x - x.logsumexp(1, keepdim=True)),
}

SMOOTH: dict[str, tuple[Shape, Callable[[Tensor], Tensor]]] = {
    "sinh": (ALL, lambda x: torch.sinh(x / 2)), "cosh": (ALL, lambda x: torch.cosh(x / 2)),
    "atan": (ALL, torch.atan),
    "asinh": (ALL, torch.asinh), "erf": (ALL, torch.erf),
    "expm1": (ALL, lambda x: torch.expm1(x / 2)),
    "log1p": (ALL, lambda x: torch.log1p(x.square())), "exp2": (ALL, lambda x: torch.exp2(x / 2)),
    "log2": (ALL, lambda x: torch.log2(x.square() + 0.3)),
    "tan": (ALL, lambda x: torch.tan(x.tanh())),
    "asin": (ALL, lambda x: torch.asin(0.9 * x.tanh())),
    "atanh": (ALL, lambda x: torch.atanh(0.9 * x.tanh())),
    "logit": (ALL, lambda x: torch.logit(0.05 + 0.9 * x.sigmoid())),
    "entropy": (ALL, lambda x: torch.special.entr(x.softmax(1))),
    "xlogy": (ALL, lambda x: torch.xlogy(x.sigmoid(), x.sigmoid())),
    "gaussian": (ALL, lambda x: torch.exp(-x.square())),
    "bell": (ALL, lambda x: 1 / (1 + x.square())),
    "lerp": (ALL, lambda x: torch.lerp(x, x.sin(), 0.3)),
    "addcmul": (ALL, lambda x: torch.addcmul(x, x, x, value=0.2)),
    "hypot": (ALL, lambda x: torch.hypot(x, x.flip(1) + 2)),
}

NORMS: dict[str, tuple[Shape, Callable[[Tensor], Tensor]]] = {
    "norm": (ALL, lambda x: x / (1 + torch.linalg.vector_norm(x, dim=1, keepdim=True))),
    "norm of order 1": (ALL, lambda x: x * x.norm(1, dim=1, keepdim=True)),
    "unit": (ALL, lambda x: F.normalize(x, dim=1)),
    "cosine": ((2,), lambda x: F.cosine_similarity(x[:, :1], x, 2)),
    "squash": ((2,), lambda x: x * torch.linalg.vector_norm(x, dim=2, keepdim=True)
               / (1 + x.square().sum(2, keepdim=True))),
    "root mean square": (ALL, lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-3)),
    "mse": (ALL, lambda x: F.mse_loss(x, x.flip(1).detach(), reduction="none")),
    "smooth l1": (ALL, lambda x: F.smooth_l1_loss(x, 0.3 * torch.ones_like(x), reduction="none",
                                                  beta=0.5)),
    "huber": (ALL, lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none", delta=0.5)),
    "bce": (ALL, lambda x: F.binary_cross_entropy_with_logits(x, 0.3 * torch.ones_like(x),
                                                              reduction="none")),
    "divergence": (ALL, lambda x: F.kl_div(x.log_softmax(1), torch.full_like(x, 0.25),
                                           reduction="none")),
    "local response": ((3,), lambda x: F.local_response_norm(x, 2)),
    "distances": ((2,), lambda x: torch.cdist(x, torch.eye(x.shape[2], dtype=x.dtype))),
}

OPERATIONS = MOVES | ORDER | SMOOTH | NORMS


# With a further argument


def mask_of(x: Tensor, ids: Tensor) -> Tensor:
    """True at the first place of dimension 1 and at some others, in a shape that broadcasts to
    x.
    """
    mask = ids[:, : x.shape[1]] > 1
    mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))


def attended(x: Tensor, ids: Tensor) -> Tensor:
    """Attention that leaves out what is masked."""
    return F.scaled_dot_product_attention(
        x, x, x, mask_of(x, ids).reshape(len(x), 1, -1).expand(-1, x.shape[1], -1))


def labelled(x: Tensor, ids: Tensor) -> Tensor:
    """The loss of a label."""
    x = x.flatten(1)
    return torch.stack([F.cross_entropy(x, ids[:, 0] % x.shape[1], reduction="none"), x.sum(1)], 1)


def additive(x: Tensor, ids: Tensor) -> Tensor:
    """A softmax under a mask of the least number."""
    return (x + (1.0 - mask_of(x, ids).to(x.dtype)) * torch.finfo(x.dtype).min).softmax(1)


GIVEN: dict[str, tuple[Shape, Callable[[Tensor, Tensor], Tensor]]] = {
    "masked": (ALL, lambda x, ids: x * mask_of(x, ids)),
    "masked mean": ((2, 3), lambda x, ids: (x * mask_of(x, ids)).sum(1) / mask_of(x, ids).sum(1)),
    "masked softmax": (ALL, lambda x, ids: x.masked_fill(~mask_of(x, ids), -math.inf).softmax(1)),
    "masked max": ((2, 3), lambda x, ids: x.masked_fill(~mask_of(x, ids), -1e9).amax(1)),
    "additive": (ALL, additive),
    "masked attention": ((2,), attended),
    "chosen": (ALL, lambda x, ids: torch.where(mask_of(x, ids), x, x.sin())),
    "gathered": (ALL, lambda x, ids: x.gather(1, along(x, ids[:, : x.shape[1]] % x.shape[1]))),
    "scattered": (ALL, lambda x, ids: torch.zeros_like(x).scatter_add(
        1, along(x, ids[:, : x.shape[1]] % x.shape[1]), x)),
    "last": ((2, 3), lambda x, ids: x[torch.arange(len(x)), ids[:, 0] % x.shape[1]]),
    "labelled": (ALL, labelled),
    "one hot": ((1,), lambda x, ids: x * F.one_hot(ids[:, 0] % x.shape[1], x.shape[1])),
    "scaled": (ALL, lambda x,
               ids: x * (1 + ids[:, :1].to(x.dtype) / 5).reshape(-1, *[1] * (x.ndim - 1))),
    "put": (ALL, lambda x,
            ids: x.index_put((torch.arange(len(x)), ids[:, 0] % x.shape[1]), 2 * x[:, 0])),
    "checked": (ALL, lambda x, ids: x.sin() if bool((ids >= 0).all()) else -x),
}


class WithIds(nn.Module):
    """A function of a value and of ids; "embedded" adds rows of a table."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__()
        self.name, self.table = name, None
        if name == "embedded":
            self.table = nn.Embedding(KINDS_OF_IDS, math.prod(shape[1:]))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if self.table is not None:
            return x + self.table(ids[:, : x.shape[1]]).reshape(x.shape)
        return GIVEN[self.name][1](x, ids)

    def extra_repr(self) -> str:
        return self.name


def draw_with_ids(draw: random.Random, shape: Shape) -> WithIds:
    """A step that takes the ids."""
    return WithIds(draw.choice(
        ["embedded", *(name for name, row in GIVEN.items() if len(shape) in row[0])]), shape)


class GRUSteps(nn.Module):
    """A cell step by step, whose states are written in place."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(size, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(len(x), 2), x.new_zeros(*x.shape[:2], 2)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            out[:, t] = h
        return out
