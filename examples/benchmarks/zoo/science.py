"""Graphs, errors of reconstructions, residuals of differential equations, distances."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .row import Made, Row, library

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4, 4, 0], [1, 0, 2, 1, 3, 2, 4, 3, 0, 4]])


class MessagePassing(nn.Module):
    """Two rounds of messages along fixed edges, added up where they arrive; graphs (N, nodes,
    features).
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(16, 8)
        self.own, self.head = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        h = torch.relu(self.own(x) + self._gathered(x, self.first))
        h = h + torch.relu(self._gathered(h, self.second))
        return self.head(h.mean(1))

    def _gathered(self, h: Tensor, layer: nn.Module) -> Tensor:
        source, to = EDGES
        messages = torch.tanh(layer(torch.cat([h[:, source], h[:, to]], -1)))
        return torch.zeros(*h.shape[:2], messages.shape[-1]).to(h).index_add(1, to, messages)


def _messages() -> Made:
    return Made(MessagePassing().eval(), (torch.randn(2, 5, 3),))


def _geometric(name: str, **settings: Any) -> Any:
    def make() -> Made:
        layers = library("torch_geometric.nn")
        first, second = (getattr(layers, name)(*sizes, **settings) for sizes in ((3, 8), (8, 3)))
        return Made(lambda x: second(torch.relu(first(x, EDGES)), EDGES).mean(-2),
                    (torch.randn(1, 5, 3),))

    return make


def _autoencoder() -> Made:
    net = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6),
                        nn.ReLU(), nn.Linear(6, 12))
    return Made(lambda x: F.mse_loss(net(x), x, reduction="none").mean(1), (torch.randn(2, 12),),
                target=None)


def _residual() -> Made:
    """Of Burgers' equation: u_t + u u_x - u_xx / 10."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def residual(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            u = net(x)
            first, = torch.autograd.grad(u.sum(), x, create_graph=True)
            second, = torch.autograd.grad(first[:, 1].sum(), x, create_graph=True)
            return first[:, 0] + u[:, 0] * first[:, 1] - 0.1 * second[:, 1]

    return Made(residual, (torch.rand(3, 2),), target=None)


def _siamese(distance: Any) -> Any:
    def make() -> Made:
        tower = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        return Made(lambda a, b: distance(tower(a), tower(b)),
                    (torch.randn(2, 6), torch.randn(2, 6)), target=None)

    return make


SCIENCE = {
    "message passing": Row(_messages),
    "torch_geometric GCNConv": Row(_geometric("GCNConv"), "torch_geometric", eps=0.3),
    "torch_geometric SAGEConv": Row(_geometric("SAGEConv"), "torch_geometric", eps=0.3),
    "autoencoder's error": Row(_autoencoder, eps=0.01),
    "residual of Burgers' equation": Row(_residual, eps=0.01),
    "Siamese distance": Row(_siamese(F.pairwise_distance), eps=0.01),
    "Siamese cosine": Row(_siamese(F.cosine_similarity), eps=0.01),
}
