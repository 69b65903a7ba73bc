"""What to explain in place of a class's output: modules that Captum takes as its model, certified
like any other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedOperation


def label_free(encoder: nn.Module, reference: Tensor | None = None) -> nn.Module:
    """The similarity of an encoder's features to those of a reference: a scalar to explain where
    there is no class.

    g(x) = <f(x0), f(x)>, with f(x0) held constant.

    Args:
        encoder: f, maps (N, *S) to features (N, *F).
        reference: x0, (1, *S), the same for all examples. None: each example has its own; pass
            f(x0), (N, *F), as Captum's `additional_forward_args`.

    Returns:
        A module (N, *S) -> (N,), with the encoder as submodule "encoder".

    Raises:
        ValueError: `reference` has more than one row.

    Source:
        Crabbe and van der Schaar, Label-Free Explainability for Unsupervised Models, 2022.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
        >>> x = torch.rand(2, 3)
        >>> certificate = lx.certify(Saliency(lx.label_free(encoder)), x, eps=0.01,
        ...                          additional_forward_args=encoder(x).detach())
        >>> bool((certificate.lower <= certificate.upper).all())
        True
    """
    if reference is not None and len(reference) != 1:
        raise ValueError(f"reference must have one row, (1, *S); given: {tuple(reference.shape)}. "
                         "For a reference of each example leave it out, and pass their features as "
                         "additional_forward_args.")
    return _LabelFree(encoder, reference)


class _LabelFree(nn.Module):
    features: Tensor | None

    def __init__(self, encoder: nn.Module, reference: Tensor | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.training = encoder.training
        features = None
        if reference is not None:
            with torch.no_grad():
                features = encoder(reference)[0].clone()
        self.register_buffer("features", features)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """The similarities, (N,)."""
        if features is None:
            features = self.features
        if features is None:
            raise ValueError("label_free without a reference needs the features of each example's "
                             "own as additional_forward_args.")
        return (self.encoder(x) * features).flatten(1).sum(1)


def subspace(model: nn.Module, layer: nn.Module, basis: Tensor, dim: int = 1) -> nn.Module:
    """A model whose gradient flows through a linear subspace of a layer only; its outputs are
    unchanged.

    The gradient with respect to the layer's output a is projected: U (U^T U)^-1 U^T d f / d a. What
    a gradient-based attribution of the input then explains is the part of the prediction that
    passes through the subspace.

    Args:
        model: any model.
        layer: one of its modules, which returns one tensor (N, *T).
        basis: U, (C, r), independent columns that span the subspace of dimension `dim`, of size C.
        dim: the dimension of the layer's output that is projected: 1 for channels, -1 for features
            of a token.

    Returns:
        A module with the model as submodule "model".

    Raises:
        ValueError: `layer` is no module of `model`, or `basis` is no matrix of independent columns.

    Source:
        Chormai et al., Disentangled Explanations of Neural Network Predictions by Finding Relevant
        Subspaces, 2024 (PRCA and DRSA), whose virtual layer this is.

    Example:
        >>> import lirpa_explain as lx
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(),
        ...                             torch.nn.Linear(4, 2))
        >>> part = lx.subspace(model, model[1], torch.eye(4)[:, :2])
        >>> x = torch.rand(1, 3)
        >>> bool(torch.equal(part(x), model(x)))
        True
    """
    if basis.ndim != 2 or int(torch.linalg.matrix_rank(basis)) < basis.shape[1]:
        raise ValueError(
            f"basis must be a matrix (C, r) with independent columns; given: {tuple(basis.shape)} "
            f"of rank {int(torch.linalg.matrix_rank(basis)) if basis.ndim == 2 else 'undefined'}.")
    directions = torch.linalg.qr(basis.detach()).Q
    projector = directions @ directions.T

    def project(gradient: Tensor) -> Tensor:
        return (gradient.movedim(dim, -1) @ projector.to(gradient)).movedim(-1, dim)

    return _Through(model, layer, project)


def channels(model: nn.Module, layer: nn.Module, ids: Sequence[int], dim: int = 1) -> nn.Module:
    """A model whose gradient flows through chosen channels of a layer only; its outputs are
    unchanged.

    d f / d a is set to 0 at all other channels: the gradient conditional on the concepts that these
    channels stand for.

    Args:
        model: any model.
        layer: one of its modules, which returns one tensor (N, *T).
        ids: the channels that are kept.
        dim: the dimension of the layer's output that holds the channels.

    Returns:
        A module with the model as submodule "model".

    Raises:
        ValueError: `layer` is no module of `model`, or there are no ids.

    Source:
        Achtibat et al., From attribution maps to human-understandable explanations through Concept
        Relevance Propagation, 2023.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import InputXGradient
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(),
        ...                             torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 3)
        >>> certificate = lx.certify(InputXGradient(lx.channels(model, model[0], [1, 3])), x,
        ...                          eps=0.01, target=0)
        >>> bool((certificate.lower <= certificate.upper).all())
        True
    """
    kept = list(ids)
    if not kept:
        raise ValueError("ids must name at least one channel.")

    def keep(gradient: Tensor) -> Tensor:
        if not all(-gradient.shape[dim] <= i < gradient.shape[dim] for i in kept):
            raise IndexError(f"The layer has {gradient.shape[dim]} channels; given: {kept}.")
        mask = torch.zeros(gradient.shape[dim], dtype=gradient.dtype, device=gradient.device)
        mask[kept] = 1.0
        return gradient * mask.reshape(-1, *[1] * (gradient.ndim - 1 - dim % gradient.ndim))

    return _Through(model, layer, keep)


def from_layer(model: Callable[..., Tensor], layer: nn.Module | Sequence[nn.Module],
               to_input: bool = False, count: int | None = None) -> nn.Module:
    """A model as a function of a layer's output: g(h, *inputs) is f(*inputs) with h in place of
    what the layer returns.

    Token ids, which cannot move, become arguments beside the embeddings h, which can; any
    attribution of g with respect to h is one at the layer. `certify(..., perturb="layer")` makes it
    by itself.

    Args:
        model: f, a module or another function that calls the layer.
        layer: one module, called once by f, or several of them, each with an h of its own.
        to_input: whether h stands for what the layer is given instead of what it returns.
        count: how many tensors the layers return together; default: one each.

    Returns:
        A module: the first `count` arguments are h, the others those of the model. Its submodule
        "values" returns h, as the layer at which Captum's layer attributions are those at `layer`.

    Raises:
        UnsupportedOperation: when it is called: the model does not call the layer exactly once.

    Example:
        >>> import lirpa_explain as lx
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(),
        ...                             torch.nn.Linear(12, 2))
        >>> ids = torch.tensor([[1, 5, 8]])
        >>> g, h = lx.from_layer(model, model[0]), model[0](ids).detach()
        >>> bool(torch.equal(g(h, ids), model(ids)))
        True
        >>> lx.certify(Saliency(g), h, eps=0.01, target=0,
        ...            additional_forward_args=ids).nominal.shape
        torch.Size([1, 3, 4])
    """
    layers = [layer] if isinstance(layer, nn.Module) else list(layer)
    return _FromLayer(model, layers, to_input, len(layers) if count is None else count)


class _FromLayer(nn.Module):
    """A model with what layers return, or are given, as its first arguments."""

    def __init__(self, model: Callable[..., Tensor], layers: list[nn.Module], to_input: bool,
                 count: int) -> None:
        super().__init__()
        self.model = model
        self.values = _Values()
        if isinstance(model, nn.Module):
            self.training = model.training  # of this module alone
        else:
            # known to be looked at, as a module's submodules are
            self.layers = nn.ModuleList(layers)
        self._layers, self._to_input, self._count = tuple(layers), to_input, count

    def forward(self, *arguments: Any) -> Tensor:
        """The model's outputs."""
        values = self.values(*arguments[: self._count])
        rest = iter(values if isinstance(values, tuple) else (values,))
        calls = {layer: 0 for layer in self._layers}

        def replaced(module: nn.Module, given: Any, result: Any = None) -> Any:
            calls[module] += 1
            value = given if self._to_input else result
            if calls[module] > 1:
                return value
            return type(value)(next(rest)
                               for _ in value) if isinstance(value, tuple | list) else next(rest)

        register = "register_forward_pre_hook" if self._to_input else "register_forward_hook"
        handles = [getattr(layer, register)(replaced) for layer in self._layers]
        try:
            output = self.model(*arguments[self._count:])
        finally:
            for handle in handles:
                handle.remove()
        for layer, count in calls.items():
            if count != 1:
                raise UnsupportedOperation(f"The model calls the layer {type(layer).__name__} "
                                           f"{count} times; it must be once, for its output to be "
                                           "one thing that can be given.")
        return output


class _Values(nn.Module):
    """The place in a model where a layer's values come in."""

    def forward(self, *values: Tensor) -> Any:
        """They themselves."""
        return values[0] if len(values) == 1 else values


class _Through(nn.Module):
    """A model whose gradient is filtered at the output of a layer."""

    def __init__(self, model: nn.Module, layer: nn.Module,
                 keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if all(module is not layer for module in model.modules()):
            raise ValueError(f"The layer {type(layer).__name__} is no module of this "
                             f"{type(model).__name__}.")
        self.model = model
        self.training = model.training  # of this module alone
        self._layer, self._keep = [layer], keep  # in a list, which makes it no second submodule

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """The model's outputs."""

        def filtered(module: nn.Module, given: Any, result: Any) -> Tensor:
            if not isinstance(result, Tensor):
                raise TypeError("The layer must return one tensor; it returns a "
                                f"{type(result).__name__}.")
            return _Filter.apply(result, self._keep)

        handle = self._layer[0].register_forward_hook(filtered)
        try:
            return self.model(*arguments, **keywords)
        finally:
            handle.remove()


class _Filter(torch.autograd.Function):
    """The identity, with a filter in its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.keep = keep
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.keep(gradient), None
