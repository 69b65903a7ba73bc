"""Small models of the kinds that people ask about: masks, ids, lengths, writes in place,
recurrences, losses.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .row import Made, Row, image, settled

IDS = torch.tensor([[1, 0, 4, 2], [3, 5, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
LENGTHS = MASK.sum(1)


def _sequence(make: Callable[[], Any], *extras: Any, target: Any = 1) -> Callable[[], Made]:
    """A function of two sequences of 4 vectors of 6 features."""
    return lambda: Made(make(), (torch.randn(2, 4, 6),), extras, target)


def _ids() -> Any:
    table, net = nn.Embedding(6, 6), nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    return lambda x, ids: net((x + table(ids)).mean(1))


def _additive_mask() -> Any:
    query, key, head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(x: Tensor, mask: Tensor) -> Tensor:
        added = (1.0 - mask.to(x.dtype)) * torch.finfo(x.dtype).min
        scores = query(x) @ key(x).transpose(1, 2) / 6 ** 0.5 + added[:, None]
        return head((torch.softmax(scores, -1) @ x)[:, 0])

    return forward


def _boolean_mask() -> Any:
    layer, head = (nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True).eval(),
                   nn.Linear(6, 3))
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    return lambda x, mask: head(encoder(x, src_key_padding_mask=mask == 0)[:, 0])


def _masked_mean() -> Any:
    net, head = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)
    return lambda x, mask: head((net(x) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def _last_token() -> Any:
    layer, head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)
    return lambda x, lengths: head(layer(x)[0][torch.arange(len(x)), lengths - 1])


def _in_place() -> Any:
    cell, head = nn.GRUCell(6, 5), nn.Linear(20, 3)

    def forward(x: Tensor) -> Tensor:
        h, out = x.new_zeros(len(x), 5), x.new_zeros(len(x), 4, 5)
        for t in range(4):
            h = cell(x[:, t], h)
            out[:, t] = h
        return head(out.flatten(1))

    return forward


def _scattered() -> Any:
    net, head, to = (nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3),
                     torch.tensor([0, 2, 0, 1]))

    def forward(x: Tensor) -> Tensor:
        h = net(x)
        return head(
            torch.zeros_like(h).scatter_add(1, to[None, :, None].expand_as(h), h).square().mean(1))

    return forward


def _recurrent(kind: Any) -> Callable[[], Any]:
    def make() -> Any:
        layer, head = kind(6, 4, batch_first=True, bidirectional=True).eval(), nn.Linear(8, 3)
        return lambda x: head(layer(x)[0].mean(1))

    return make


def _loss() -> Any:
    net = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3))
    return lambda x, labels: F.cross_entropy(net(x[:, 0]), labels, reduction="none")


def _normalized() -> Any:
    net, classes = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)),
                    nn.Parameter(torch.randn(3, 4)))
    return lambda x: 8 * F.normalize(net(x[:, 0])) @ F.normalize(classes).T


def _one_example() -> Made:
    net = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2)))
    head = nn.Linear(36, 3)
    return Made(lambda x: head(net(x).view(1, -1)), image(8, 1))


class Block(nn.Module):
    """ConvNeXt's: depthwise convolution, permute, norm over channels, two linear layers, layer
    scale.
    """

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.first, self.second = (nn.Linear(channels, 2 * channels),
                                   nn.Linear(2 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.second(F.gelu(self.first(y)))).permute(0, 3, 1, 2)


def _convnext_block() -> Made:
    return Made(nn.Sequential(nn.Conv2d(1, 4, 2, 2), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                              nn.Linear(4, 3)), image(8, 1))


KINDS = {
    "ids as a further argument": Row(_sequence(_ids, IDS), eps=0.01),
    "additive mask": Row(_sequence(_additive_mask, MASK), eps=0.01),
    "boolean mask": Row(_sequence(_boolean_mask, MASK), eps=0.01),
    "masked mean": Row(_sequence(_masked_mean, MASK), eps=0.01),
    "masked mean, IntegratedGradients": Row(_sequence(_masked_mean, MASK),
                                            attribution="IntegratedGradients",
                                            eps=0.01, keywords={"n_steps": 5}),
    "last token": Row(_sequence(_last_token, LENGTHS), eps=0.01),
    "written in place": Row(_sequence(_in_place), eps=0.01),
    "scattered": Row(_sequence(_scattered), eps=0.01),
    "GRU": Row(_sequence(_recurrent(nn.GRU)), eps=0.01),
    "LSTM": Row(_sequence(_recurrent(nn.LSTM)), eps=0.01),
    "cross-entropy of a label": Row(_sequence(_loss, torch.tensor([2, 0]), target=None), eps=0.01),
    "normalized head": Row(_sequence(_normalized), eps=0.01),
    "one example only": Row(_one_example, eps=0.01),
    "ConvNeXt block": Row(_convnext_block, eps=0.01),
}
