"""What cannot be bounded, why, and what to do instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """One row of the table.

    Args:
        operations: names of ATen operations, without their overloads.
        what: it, for people.
        why: there are no bounds.
        instead: what to do.
        anywhere: whether a model that contains it is refused for it, whatever else in it may have
            no bounds.
    """

    operations: tuple[str, ...]
    what: str
    why: str
    instead: str
    anywhere: bool = False

    @property
    def words(self) -> str:
        """The row as a sentence."""
        return f"{self.what}: {self.why}. Instead: {self.instead}"


REFUSALS = (
    Refusal(("_pack_padded_sequence",), "packed sequences", "they lay the steps of all examples of "
            "a batch behind each other", "run the layer on the padded sequence, and take each "
            "example's last step by `h[torch.arange(len(h)), lengths - 1]`", anywhere=True),
    Refusal(("_fft_r2c", "_fft_c2r", "_fft_c2c", "view_as_complex", "complex", "polar", "angle"),
            "complex numbers, `torch.fft`, `torch.stft`", "they have no order to be bounded in",
            "multiply by matrices of cosines and sines, or convolve with them"),
    Refusal(("_linalg_svd", "_linalg_eigh", "linalg_inv_ex", "linalg_qr", "linalg_lu_factor_ex",
             "linalg_cholesky_ex",
             "_linalg_solve_ex", "_linalg_det", "_linalg_slogdet", "linalg_matrix_exp"),
            "decompositions and inverses of matrices that depend on the input", "no relaxation of "
            "them is known here", "those of parameters or constants are no matter; else leave them "
            "out of what is explained"),
    Refusal(("grid_sampler_2d", "grid_sampler_3d"), "sampling at places that depend on the input",
            "which pixels are read changes with the input", "sample at fixed places by "
            "`F.interpolate` or indices"),
)
"""Operations without bounds that people ask for."""


def refusal_of(operation: str) -> Refusal | None:
    """The row of an operation or its gradient, if there is one.

    Example:
        >>> refusal_of("_fft_r2c").what
        'complex numbers, `torch.fft`, `torch.stft`'
    """
    return next((row for row in REFUSALS if operation.removesuffix("_backward") in row.operations),
                None)
