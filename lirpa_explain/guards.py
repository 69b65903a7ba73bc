"""What calls of the caller's model may change, in it and in the process, put back afterwards."""

import contextlib
import random
import sys
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from .errors import TrainingModeError, UnsupportedOperation

CONTAINERS = (dict, OrderedDict, list, set, deque)
"""Classes, exactly these, of which an attribute's contents are put back, and not only the
attribute."""

RANDOM_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU)
"""Layers that draw or read the batch in training mode."""

OURS = ("lirpa_explain", "auto_LiRPA")
"""Packages whose modules keep things between calls."""


def model_of(forward: Any) -> nn.Module | None:
    """The model that a forward function is, or is a method of; None if it is another function."""
    model = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    return model if isinstance(model, nn.Module) else None


@contextlib.contextmanager
def isolated(device: torch.device, *owners: Any) -> Iterator[None]:
    """Leave the random generators of torch, numpy and Python as they were, and inference mode,
    which forbids gradients.

    Args:
        device: of the inputs; of GPUs, the generators of all are left, since a model may draw on
            another one.
        owners: Captum objects and models that are left as they were as well; see `untouched`.
    """
    states = np.random.get_state(), random.getstate()
    gpus = (range(torch.cuda.device_count())
            if device.type == "cuda" or torch.cuda.is_initialized() else [])
    with torch.inference_mode(False), torch.random.fork_rng(devices=gpus), \
            untouched(*owners) if owners else contextlib.nullcontext():
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


@contextlib.contextmanager
def untouched(*owners: Any) -> Iterator[None]:
    """Put back what calls within change in models: attributes, hooks, buffers, modes.

    Args:
        owners: Captum objects, models, methods of these; models of other functions are found when
            they are first called, so that whatever hooks or replaces something in a model must be
            done to one of the owners.

    Raises:
        UnsupportedOperation: a model gives its parameters other values whenever it is called.
        ValueError: a model has parameters or buffers without values, or that nothing can be
            differentiated by.
    """
    kept, outer = Kept(), _ACTIVE.get()
    for owner in (*owners, *(outer.roots if outer else ())):
        kept.add(owner)
    thread = threading.get_ident()

    def met(module: nn.Module, _: Any) -> None:
        if (threading.get_ident() == thread
                and type(module).__module__.partition(".")[0] not in OURS):
            kept.add(module)

    handle = nn.modules.module.register_module_forward_pre_hook(met)
    token = _ACTIVE.set(kept)
    try:
        with contextlib.nullcontext() if outer else as_written(kept.roots):
            yield
    finally:
        _ACTIVE.reset(token)
        handle.remove()
        changed = kept.restore()
    if changed:
        raise UnsupportedOperation(f"The model gives {changed} of its parameters other values "
                                   "whenever it is called. Do that once before, and after each "
                                   "step of training, and not in forward.")


@contextlib.contextmanager
def no_training_layers() -> Iterator[None]:
    """Refuse layers that are random or depend on the batch in training mode, before they run and
    change anything.
    """
    thread = threading.get_ident()

    def check(module: nn.Module, _: Any) -> None:
        if threading.get_ident() != thread:
            return  # somebody else's model
        if module.training and isinstance(module,
                                          RANDOM_IN_TRAINING) and getattr(module, "p", 1) > 0:
            raise TrainingModeError(
                f"The model is in training mode, in which its layer {module} is random or depends "
                "on the other examples: call model.eval() first.")

    handle = nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def evaluating(forward: Any) -> Iterator[None]:
    """Put a function's model and all its modules into eval mode, and each back into its own mode
    afterwards.
    """
    model = model_of(forward)
    training = [] if model is None else [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def as_written(models: list[Any]) -> Iterator[None]:
    """Run what torch.compile has compiled as it was written, which can be recorded, and leaves
    hooks alone.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        yield
        return
    told = dynamo.config.error_on_nested_fx_trace
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, dynamo.config, "error_on_nested_fx_trace", told)
        dynamo.config.error_on_nested_fx_trace = False
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(model, dynamo.eval_frame.OptimizedModule) for model in models):
            stack.enter_context(warnings.catch_warnings())
            # of global hooks, such as ours
            warnings.filterwarnings("ignore", "Using `torch.compile")
        yield


class Kept:
    """The state of models and Captum objects at the time when they were added.

    It is the attributes of all their modules, what containers among these hold (hooks, submodules,
    parameters, buffers, lists of a module's own), and of their tensors identity, entries, version,
    `requires_grad` and gradient.
    """

    def __init__(self) -> None:
        self.roots: list[Any] = []
        self._met: dict[int, Any] = {}
        self._containers: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        self._tensors: list[KeptTensor] = []

    def __contains__(self, part: Any) -> bool:
        return id(part) in self._met

    def add(self, owner: Any) -> None:
        """Keep the state of a model, a Captum object, or a method of one; nothing of what was added
        before.
        """
        owner = owner if isinstance(owner, nn.Module | Attribution) else model_of(owner)
        if owner is None or owner in self:
            return
        self.roots.append(owner)
        for part in owner.modules() if isinstance(owner, nn.Module) else (owner,):
            if part not in self:
                self._met[id(part)] = part
                check_has_values(part)
                self._contents(vars(part))
                if isinstance(part, torch.jit.ScriptModule):  # which keeps them elsewhere
                    self._all(part.buffers(recurse=False))
                for value in vars(part).values():
                    if type(value) in CONTAINERS:
                        self._contents(value)
                    elif isinstance(part, Attribution):
                        self.add(value)

    def _contents(self, container: Any) -> None:
        if not container:  # as most are
            self._empty.append(container)
            return
        self._containers.append((container, container.copy()))
        self._all(container.values() if isinstance(container, dict) else container)

    def _all(self, values: Any) -> None:
        for value in values:
            if isinstance(value, Tensor) and value not in self:
                self._met[id(value)] = value
                self._tensors.append(KeptTensor(value))

    def restore(self) -> int:
        """Put everything back; how many parameters had been replaced by other values."""
        for container in self._empty:
            container.clear()
        for container, was in self._containers:
            _refill(container, was)
        return sum(tensor.restore() for tensor in self._tensors)


def _refill(container: Any, was: Any) -> None:
    """Make a container hold again what a copy of it holds, in place: others may refer to it."""
    if isinstance(container, dict):
        for key in [key for key in container if key not in was]:
            del container[key]
        for key, value in was.items():
            if key not in container or container[key] is not value:
                container[key] = value
    elif isinstance(container, set):
        if container != was:
            container.clear()
            container.update(was)
    elif len(container) != len(was) or any(a is not b for a, b in zip(container, was, strict=True)):
        container.clear()
        container.extend(was)


_ACTIVE: ContextVar[Kept | None] = ContextVar("what is put back", default=None)


class KeptTensor:
    """A tensor's memory, version, `requires_grad` and gradient, and a copy of its entries if it is
    no parameter.

    To keep parameters' entries would double what a model takes; a forward pass writes them as
    `parameter.data = ...` at most, which leaves the old entries where they were.

    Args:
        tensor: any tensor; of those that are not dense, the entries are not kept.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.is_leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.is_plain = is_plain(tensor)
        self.copy: Tensor | None = None
        if self.is_plain:
            self.data = tensor.data
            if type(tensor) is Tensor and 0 not in tensor.stride():
                self.copy, self.number = self.data.clone(), tensor._version
                self.version = torch.autograd._unsafe_preserve_version_counter(tensor)

    def restore(self) -> bool:
        """Put it back; whether it is a parameter that had been replaced by other values."""
        tensor, is_replaced = self.tensor, False
        if self.is_plain:
            if not _is_same_memory(tensor, self.data):
                is_replaced = isinstance(tensor,
                                         nn.Parameter) and not torch.equal(tensor, self.data)
                tensor.data = self.data
            if self.copy is not None:
                if not torch.equal(self.data, self.copy):
                    self.data.copy_(self.copy)
                # its entries are again those that it had in that version
                if tensor._version != self.number:
                    self.version.__exit__(None, None, None)
        if self.is_leaf and tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        return is_replaced


def check_has_values(module: Any) -> None:
    """Refuse parameters and buffers that have no values yet, or that nothing can be differentiated
    through.

    Raises:
        ValueError: there are some; the message says what to do.
    """
    if not isinstance(module, nn.Module):
        return
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None:
            continue
        whose = f"The {name} of the model's layer {type(module).__name__}"
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{whose} is not initialised: call the model once, so that its lazy "
                             "layers know their sizes.")
        if tensor.is_meta:
            raise ValueError(f"{whose} is on the device meta, which has no values: load the "
                             "weights, for instance by model.to_empty(device=...) and "
                             "model.load_state_dict(...).")
        if tensor.is_inference() and tensor.is_floating_point():
            raise ValueError(f"{whose} was made under torch.inference_mode, so that no gradient "
                             "goes through it: make the model outside of it, or under "
                             "torch.no_grad.")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has entries in memory that can be read and written."""
    return not (tensor.is_inference() or tensor.is_meta or tensor.is_quantized or tensor.is_nested
                or tensor.layout is not torch.strided
                or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__)


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.data_ptr(), b.dtype, b.shape,
                                                            b.stride())
