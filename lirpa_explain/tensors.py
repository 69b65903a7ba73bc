"""Tensors whose entries can be read, and what other kinds there are."""

from collections.abc import Callable

import torch
from torch import Tensor

KINDS: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (lambda x: x.is_nested, "a nested tensor", "Pad it: torch.nested.to_padded_tensor(x, 0.0); "
     "what tells the model where goes to additional_forward_args."),
    (lambda x: type(x).__name__ == "MaskedTensor", "a masked tensor",
     "Give x.to_tensor(0.0); a mask that the model reads goes to additional_forward_args."),
    (lambda x: x.is_meta, "a tensor on the device meta, which has no values", "Make or load it on "
     "the CPU or a GPU."),
    (lambda x: x.layout is not torch.strided, "a sparse tensor, or one in mkldnn's layout",
     "Give x.to_dense()."),
    (lambda x: x.is_complex(), "a complex tensor", "Give torch.view_as_real(x), if the model takes "
     "that."),
    (lambda x: x.is_quantized, "a quantized tensor", "Give x.dequantize()."),
    (lambda x: type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__,
     "a tensor of a class with operations of its own", "Give a plain tensor."),
)
"""Kinds of tensors that are refused: how to tell, what they are, and what to give instead."""


def check_kind(tensor: Tensor, name: str) -> None:
    """Refuse a tensor that is not dense and real.

    Args:
        tensor: any tensor.
        name: of the argument.

    Raises:
        TypeError: says what it is, and what to give instead.
    """
    for is_one, words, advice in KINDS:
        if is_one(tensor):
            raise TypeError(f"{name} must be dense and real; given: {words} "
                            f"({type(tensor).__name__}). {advice}")


def plain(tensor: Tensor) -> Tensor:
    """The values of a tensor, without auto_LiRPA's subclass and without history."""
    return tensor.detach().as_subclass(Tensor)
