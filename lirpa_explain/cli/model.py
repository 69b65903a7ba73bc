"""The user's model, found by name, and the Captum attribution of it."""

import importlib
import inspect
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn

from ..attributions import ATTRIBUTIONS
from ..decision.search import BoundarySearch
from ..interchange import load_onnx

FIRST = ("forward_func", "model", "layer", "attribution_method", "device_ids")
"""Arguments of Captum's constructors that are given otherwise than by --set."""


def load_model(name: str, state_dict: Path | None = None, dtype: torch.dtype = torch.float32,
               device: str = "cpu") -> nn.Module:
    """Import a model, in evaluation mode.

    Args:
        name: `module:attribute`, a model or a function without arguments that returns one; the
            current directory is searched too. Or the path of an ONNX file.
        state_dict: a file with its weights; only tensors are read from it.
        dtype: of its parameters.
        device: where it runs.

    Raises:
        TypeError: what is named is no model, nor a function that returns one.
        ValueError: there is no such model, or the weights do not fit, with what to change.
        OSError: the file cannot be read.
    """
    if name.endswith(".onnx"):
        return _from_onnx(name, state_dict).to(device=device, dtype=dtype).eval()
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise ValueError(f"--model {name} is not of the form module:function, such as "
                         "nets:make_net, nor the path of an .onnx file.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's code may raise anything, here and below
        raise ValueError(f"{module_name} cannot be imported: {_where(error)}") from error
    found = getattr(module, attribute, None)
    if found is None:
        raise ValueError(f"{module_name} has no {attribute!r}; name a model in it, or a function "
                         "that returns one.")
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise TypeError(f"{name} is a {type(found).__name__}; name an nn.Module, or a function "
                            "that returns one.")
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"{name}() fails: {_where(error)}") from error
    if not isinstance(found, nn.Module):
        raise TypeError(f"{name}() returns a {type(found).__name__}; it must return an nn.Module.")
    if state_dict is not None:
        _load_weights(found, state_dict)
    return found.to(device=device, dtype=dtype).eval()


def _from_onnx(path: str, state_dict: Path | None) -> nn.Module:
    if state_dict is not None:
        raise ValueError("An ONNX file holds its weights: leave --state-dict out.")
    try:
        return load_onnx(path)
    except ImportError as error:
        raise ValueError(str(error)) from error


def _where(error: Exception) -> str:
    """An error of the user's code, and the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        weights = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of weights alone; write it with "
                         "torch.save(model.state_dict(), path).") from error
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"The weights of {path} do not fit the model: {error}") from error


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """A layer by its name in `model.named_modules()`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    layers = dict(model.named_modules())
    if name not in layers or not name:
        known = [known for known in layers if known]
        raise ValueError(f"The model has no layer {name!r}; it has {', '.join(known[:20])}"
                         f"{', ...' * (len(known) > 20)}.")
    return layers[name]


def make_attribution(name: str, model: nn.Module, layer: str | None, noise_tunnel: bool,
                     keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A Captum attribution by the name of its class.

    Args:
        name: of a class in `ATTRIBUTIONS`.
        model: what is explained.
        layer: the name of a layer, for classes that want one.
        noise_tunnel: whether to put it into a NoiseTunnel.
        keywords: of the class and of its `attribute`.

    Returns:
        The attribution, and those keywords that the class itself does not take.

    Raises:
        ValueError: there is no such class, or a layer is missing or superfluous.
    """
    kinds = {kind.__name__: kind for kind in ATTRIBUTIONS if kind is not NoiseTunnel}
    if name not in kinds:
        hint = " (NoiseTunnel is --noise-tunnel)" if name == NoiseTunnel.__name__ else ""
        raise ValueError(f"There is no attribution {name!r}{hint}; there are {', '.join(kinds)}.")
    kind: Any = kinds[name]
    parameters = inspect.signature(kind).parameters
    if ("layer" in parameters) != (layer is not None):
        raise ValueError(f"{name} needs a layer: give --layer NAME." if layer is None else
                         f"{name} takes no layer: leave --layer out.")
    own = {key: keywords[key] for key in keywords if key in parameters and key not in FIRST}
    rest = {key: keywords[key] for key in keywords if key not in own}
    if isinstance(own.get("search"), dict):
        own["search"] = BoundarySearch(**own["search"])
    chosen = (model,) if layer is None else (model, find_layer(model, layer))
    attribution = kind(*chosen, **own)
    return NoiseTunnel(attribution) if noise_tunnel else attribution, rest


def takes_target(attribution: Any) -> bool:
    """Whether an attribution explains one of several outputs."""
    inner = getattr(attribution, "attribution_method", attribution)
    return "target" in inspect.signature(inner.attribute).parameters


def predicted(model: nn.Module, inputs: Tensor, batch_size: int) -> Tensor | None:
    """The class with the largest output for each input, (N,); None if there is one output alone.

    Raises:
        ValueError: the model cannot be called on the inputs, or its outputs are not (N, classes).
    """
    try:
        with torch.no_grad():
            outputs = torch.cat([model(rows) for rows in inputs.split(batch_size)])
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"The model cannot be called on inputs of shape {tuple(inputs.shape)}: "
                         f"{_where(error)}") from error
    if outputs.ndim == 1:
        return None
    if outputs.ndim != 2:
        raise ValueError(f"The model's output has the shape {tuple(outputs.shape)}; a predicted "
                         "class needs (examples, classes). Give --target.")
    return outputs.argmax(1)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What a model's outputs depend on: its parameters and buffers, its modules, and the files
    these are written in.
    """
    modules = {type(part).__module__
               for part in model.modules() if not type(part).__module__.startswith("torch.")}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {"weights of the model": dict([*model.named_parameters(), *model.named_buffers()]),
            "code of the model": [repr(model), *(Path(file).read_bytes()
                                                 for file in sorted(filter(None, files)))]}
