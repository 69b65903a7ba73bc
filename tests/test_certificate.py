"""Certificates answer for every point of their box: the truth here is enumeration, not the formula
again.
"""

import itertools
import json
import math
import time

import numpy as np
import pytest
import torch

from lirpa_explain.certificates import Certificate
from lirpa_explain.certificates.box import absolute_box, ordered_box

NORMS = (1, 2, math.inf)


def make(lower, upper, nominal, **changes):
    words = {
        "attribution": "NoiseTunnel(IntegratedGradients)",
        "method": "CROWN",
        "perturbation": "every x' with |x' - x|_inf ≤ 0.01",
        "dtype": "float64",
        "elapsed_s": 0.1 + 0.2,
    }
    return Certificate(lower, upper, nominal, **(words | changes))


# ---------------------------------------------------------------- boxes


def generic_box(n, d):
    """Overlapping intervals without ties."""
    lower = torch.randn(n, d, dtype=torch.float64)
    width = torch.rand(n, d, dtype=torch.float64) * 1.5
    return lower, lower + width, lower + width * torch.rand_like(width)


def integer_box(n, d):
    """Few values, so that bounds, nominals and zeros tie; about a third of the features have width
    0.
    """
    lower = torch.randint(-3, 3, (n, d))
    width = torch.randint(0, 3, (n, d))
    nominal = lower + (torch.rand(n, d) * (width + 1)).long()
    return lower.double(), (lower + width).double(), nominal.double()


def half_degenerate_box(n, d):
    lower, upper, nominal = generic_box(n, d)
    fixed = torch.rand(n, d) < 0.5
    return torch.where(fixed, nominal, lower), torch.where(fixed, nominal, upper), nominal


def point_box(n, d):
    nominal = torch.randn(n, d, dtype=torch.float64)
    return nominal, nominal, nominal


def zero_box(n, d):
    return (torch.zeros(n, d, dtype=torch.float64),) * 3


BOXES = (generic_box, integer_box, half_degenerate_box, point_box, zero_box)


@pytest.fixture(params=BOXES, ids=lambda box: box.__name__)
def box(request):
    torch.manual_seed(0)
    return request.param


# ---------------------------------------------------------------- the truth, slowly


def points_of(lower, upper):
    """Return points of one box (P, D): every corner, zeros where possible, ties, and random
    ones.
    """
    ends = torch.stack([lower, upper, torch.zeros_like(lower).clamp(lower, upper)])  # (3, D)
    grid = torch.tensor(list(itertools.product(range(3), repeat=len(lower))))  # (3^D, D)
    corners = ends[grid, torch.arange(len(lower))]
    levels = torch.cat([lower, upper, -lower, -upper])[:, None]
    ties = levels.clamp(lower, upper)  # as many features as possible at the level of one bound
    interior = lower + (upper - lower) * torch.rand(100, len(lower), dtype=lower.dtype)
    return torch.cat([corners, ties, interior])


def possible_top_sets(points, k):
    """Return every set that is a top k of one of the points, for some way of breaking ties."""
    found = []
    for chosen in itertools.combinations(range(points.shape[1]), k):
        others = [j for j in range(points.shape[1]) if j not in chosen]
        if not others or (points[:, chosen].amin(1) >= points[:, others].amax(1)).any():
            found.append(set(chosen))
    return found


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "signed"])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 6])
def test_ranks_are_exactly_those_of_all_points(box, d, absolute):
    lower, upper, nominal = box(12, d)
    cert = make(lower, upper, nominal)
    size = torch.abs if absolute else torch.clone
    points = [size(points_of(*bounds)) for bounds in zip(lower, upper, strict=True)]
    for k in range(1, d + 1):
        mask, overlap = cert.top_k(k, absolute), cert.top_k_overlap(k, absolute)
        top = size(nominal).topk(k).indices.tolist()
        for n in range(len(lower)):
            sets = possible_top_sets(points[n], k)
            assert set(mask[n].nonzero().flatten().tolist()) == set.intersection(*sets)
            assert overlap[n] == min(len(chosen & set(top[n])) for chosen in sets)


def test_ranks_against_a_dense_grid():
    """No corner is singled out here: every feature takes 13 values of its interval, in all
    combinations.
    """
    torch.manual_seed(1)
    lower, upper, nominal = integer_box(25, 4)
    steps = torch.linspace(0, 1, 13, dtype=torch.float64)[:, None]  # with ends, middles and thirds
    grid = torch.tensor(list(itertools.product(range(13), repeat=4)))
    cert = make(lower, upper, nominal)
    for n in range(len(lower)):
        points = (lower[n] + steps * (upper[n] - lower[n]))[grid, torch.arange(4)]
        for k in (1, 2, 3):
            sets = possible_top_sets(points, k)
            top = set(nominal.topk(k).indices[n].tolist())
            certain = cert.top_k(k, absolute=False)[n]
            assert set(certain.nonzero().flatten().tolist()) == set.intersection(*sets)
            assert cert.top_k_overlap(k, absolute=False)[n] == min(len(chosen & top)
                                                                   for chosen in sets)


@pytest.mark.parametrize("d", [1, 4, 6])
def test_sign_is_the_one_that_all_points_share(box, d):
    lower, upper, nominal = box(12, d)
    sign = make(lower, upper, nominal).sign()
    assert sign.dtype == torch.int8
    for n in range(len(lower)):
        seen = points_of(lower[n], upper[n]).sign()  # (P, D)
        agreed = torch.where((seen == seen[0]).all(0), seen[0], 0)
        assert sign[n].tolist() == agreed.tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 4, 6])
def test_max_change_is_attained_and_never_exceeded(box, d, norm):
    lower, upper, nominal = box(12, d)
    change = make(lower, upper, nominal).max_change(norm)
    for n in range(len(lower)):
        steps = (points_of(lower[n], upper[n]) - nominal[n]).numpy()
        np.testing.assert_allclose(change[n], np.linalg.norm(steps, ord=norm, axis=1).max(),
                                   rtol=1e-12)


def test_width_is_the_range_of_the_points(box):
    lower, upper, nominal = box(12, 4)
    width = make(lower, upper, nominal).width
    for n in range(len(lower)):
        points = points_of(lower[n], upper[n])
        torch.testing.assert_close(width[n], points.amax(0) - points.amin(0))


def test_absolute_box_is_the_range_of_the_absolute_points(box):
    lower, upper, _ = box(12, 4)
    low, high = absolute_box(lower, upper)
    for n in range(len(lower)):
        points = points_of(lower[n], upper[n]).abs()
        assert (low[n].tolist(), high[n].tolist()) == (points.amin(0).tolist(),
                                                       points.amax(0).tolist())


# ---------------------------------------------------- bounds that rounding or overflow spoiled


def test_ends_crossed_by_rounding_certify_no_rank():
    lower = torch.tensor([[1.0 + 1e-7, 1.0, 0.0]])
    cert = make(lower, torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert cert.lower[0, 0] > cert.upper[0, 0]
    assert not cert.top_k(1).any()
    assert cert.top_k_overlap(1).tolist() == [0]
    assert make(torch.tensor([[1e-9]]), torch.tensor([[-1e-9]]),
                torch.zeros(1, 1)).sign().tolist() == [[0]]


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_nan_bounds_nothing(side, absolute):
    nominal = torch.tensor([[3.0, 2.0, 1.0]])
    bounds = {"lower": nominal.clone(), "upper": nominal.clone()}
    bounds[side][0, 2] = math.nan
    cert = make(**bounds, nominal=nominal)
    assert not cert.top_k(1, absolute).any()  # the third may be the largest
    assert cert.top_k(2, absolute).tolist() == [[True, False, False]]
    assert cert.top_k_overlap(2, absolute).tolist() == [1]
    assert cert.sign().tolist()[0][:2] == [1, 1]
    assert not cert.contains(nominal)


def test_ordered_box_contains_both_readings():
    lower, upper = (torch.tensor([[0.0, 2.0, math.nan, 1.0]]),
                    torch.tensor([[1.0, 1.0, 1.0, math.nan]]))
    lower, upper = ordered_box(lower, upper)
    assert lower.tolist() == [[0.0, 1.0, -math.inf, -math.inf]]
    assert upper.tolist() == [[1.0, 2.0, math.inf, math.inf]]


# ---------------------------------------------------------------- contains


def test_contains_every_point_of_the_box_and_none_outside(box):
    lower, upper, nominal = box(8, 4)
    cert = make(lower, upper, nominal)
    for point in torch.stack([points_of(*bounds) for bounds in zip(lower, upper, strict=True)],
                             dim=1):
        assert cert.contains(point, rtol=1e-15).all()
    for feature in range(4):
        for outside in (upper + 1e-6, lower - 1e-6):
            moved = nominal.clone()
            moved[:, feature] = outside[:, feature]
            assert not cert.contains(moved).any()


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float64", 1e-9), ("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 1e-2)]
)
def test_default_tolerance_follows_the_dtype_and_the_largest_bound(dtype, rtol):
    bounds = torch.tensor([[-100.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    cert = make(bounds, bounds, bounds, dtype=dtype)
    step = torch.tensor([[0.0, 100.0], [0.0, 0.0]], dtype=torch.float64)
    assert cert.contains(bounds + 0.9 * rtol * step).tolist() == [True, True]
    assert cert.contains(bounds - 1.1 * rtol * step).tolist() == [False, True]
    assert cert.contains(bounds + 0.9 * rtol * step, rtol=0).tolist() == [False, True]


def test_an_infinite_bound_does_not_excuse_the_others():
    lower, upper = torch.tensor([[0.0, -math.inf]]), torch.tensor([[1.0, math.inf]])
    cert = make(lower, upper, torch.zeros(1, 2))
    for rtol in (None, 0):
        assert cert.contains(torch.tensor([[1.0, 1e30]]), rtol)
        assert not cert.contains(torch.tensor([[1.1, 0.0]]), rtol)
        assert not cert.contains(torch.tensor([[0.5, math.nan]]), rtol)


# ---------------------------------------------------------------- tuples of inputs


def test_a_tuple_is_ranked_and_measured_as_one_example():
    torch.manual_seed(0)
    whole = generic_box(5, 7)
    parts = [(t[:, :4].reshape(5, 2, 2), t[:, 4:]) for t in whole]
    one, many = make(*whole), make(*parts)

    def joined(parts):
        assert [part.shape for part in parts] == [(5, 2, 2), (5, 3)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    assert joined(many.width).equal(one.width)
    assert joined(many.sign()).equal(one.sign())
    for k in range(1, 8):
        for absolute in (True, False):
            assert joined(many.top_k(k, absolute)).equal(one.top_k(k, absolute))
            assert many.top_k_overlap(k, absolute).equal(one.top_k_overlap(k, absolute))
    for norm in NORMS:
        assert many.max_change(norm).equal(one.max_change(norm))
    assert many.contains(many.nominal).all()
    outside = (many.nominal[0], many.nominal[1] + torch.tensor([[9.0], [0], [0], [0], [0]]))
    assert many.contains(outside).tolist() == [False, True, True, True, True]


def test_inputs_without_feature_dimensions_have_one_feature():
    nominal = torch.tensor([1.0, -2.0])
    cert = make(nominal - 1.5, nominal + 1.5, nominal)
    assert cert.sign().tolist() == [0, -1]
    assert cert.top_k(1).tolist() == [True, True]
    assert cert.max_change().tolist() == [1.5, 1.5]


# ---------------------------------------------------------------- gradients, size


@pytest.mark.parametrize("norm", NORMS)
def test_width_and_max_change_are_differentiable(norm):
    torch.manual_seed(0)
    lower, upper, nominal = (t.requires_grad_() for t in generic_box(3, 4))
    assert torch.autograd.gradcheck(lambda *box: make(*box).width, (lower, upper, nominal))
    assert torch.autograd.gradcheck(lambda *box: make(*box).max_change(norm),
                                    (lower, upper, nominal))


def test_bounds_with_a_graph_answer_everything():
    torch.manual_seed(0)
    cert = make(*(t.requires_grad_() for t in generic_box(3, 4)))
    answers = (cert.sign(), cert.top_k(2), cert.top_k_overlap(2), cert.contains(cert.nominal))
    assert not any(answer.requires_grad for answer in answers)
    assert "mean width" in repr(cert)


def test_an_imagenet_attribution_is_ranked_quickly():
    torch.manual_seed(0)
    nominal = torch.randn(1, 3, 224, 224)
    cert = make(nominal - 1e-3, nominal + 1e-3, nominal)
    start = time.perf_counter()
    for k in (1, 1000, 150528 // 2, 150528):
        assert cert.top_k(k).sum() <= cert.top_k_overlap(k)  # what is certain stays
    assert time.perf_counter() - start < 2


# ---------------------------------------------------------------- repr, save, load


def test_repr_says_what_is_certified():
    nominal = torch.tensor([[2.0, -2.0, 0.5, 0.0]])
    assert repr(make(nominal - 1, nominal + 1, nominal, elapsed_s=1.25)).splitlines() == [
        "Certificate of NoiseTunnel(IntegratedGradients)",
        "  method        CROWN, float64, 1.25 s",
        "  perturbation  every x' with |x' - x|_inf ≤ 0.01",
        "  shape         (1, 4)",
        "  mean width    2",
        "  signs         66.7% of the entries that are not 0 certified",
    ]
    pair = (nominal, nominal[:, None])
    assert "shape         a tuple of (1, 4), (1, 1, 4)" in repr(make(pair, pair, pair))


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


def assert_identical(one, other):
    assert type(one) is type(other)
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_identical(*pair)
    elif isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert bits(one).equal(bits(other))
        assert not other.requires_grad
    else:
        assert one == other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_answer_everything(dtype):
    nominal = torch.tensor([[4.0, -2.0, 0.5]], dtype=dtype)
    cert = make(nominal - 1, nominal + 1, nominal, dtype=str(dtype).removeprefix("torch."))
    assert cert.sign().tolist() == [[1, -1, 0]]
    assert cert.top_k(1, absolute=False).tolist() == [[True, False, False]]
    assert cert.top_k_overlap(2).tolist() == [1]
    assert cert.max_change(1).tolist() == [3]
    assert cert.contains(nominal)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "no-delta"])
@pytest.mark.parametrize("pair", [True, False], ids=["tuple", "single"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16,
                                   torch.float8_e5m2], ids=str)
def test_save_and_load_keep_every_bit(tmp_path, dtype, pair, delta):
    torch.manual_seed(0)
    tensor = torch.randn(3, 2, 5)
    tensor[..., 0], tensor[..., 1] = math.nan, -0.0
    tensor = tensor.to(dtype)
    value = (tensor, tensor[:, 0, ::2]) if pair else tensor.transpose(1, 2)  # not contiguous either
    if not pair and dtype != torch.float8_e5m2:
        value = value.clone().requires_grad_()
    cert = make(
        value,
        value,
        value,
        dtype=str(dtype).removeprefix("torch."),
        convergence_delta=tensor[:, 0, 2] if delta else None,
        versions={"torch": "2.13.0+cpu", "captum": "0.9.0"},
    )
    path = tmp_path / "certificate.of.cats"
    cert.save(str(path))
    assert list(tmp_path.iterdir()) == [path]
    loaded = Certificate.load(path)
    for name in Certificate.__dataclass_fields__:
        assert_identical(getattr(cert, name), getattr(loaded, name))


class Unpickled(Exception):
    """Raised by a file that was allowed to run code."""


class Bomb:
    def __reduce__(self):
        return exec, ("raise Unpickled",)


def saved_arrays(path):
    nominal = torch.ones(1, 2)
    make(nominal, nominal, nominal).save(path)
    with np.load(path) as archive:
        return dict(archive)


def write_foreign(path):
    np.savez(path, lower=np.zeros(2), metadata=np.array("{}"))


def write_pickle_npz(path):
    np.savez(path, lower=np.array([Bomb()], dtype=object))


def write_certificate_with_pickle(path):
    np.savez(path, **(saved_arrays(path) | {"lower": np.array([Bomb()], dtype=object)}))


def write_pickle(path):
    path.write_bytes(b"\x80\x04cos\nsystem\n.")


def write_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros((3, 2)))


def write_text(path):
    path.write_text("lower, upper\n")


def write_nothing(path):
    path.write_bytes(b"")


def write_half_a_certificate(path):
    saved_arrays(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "write",
    [
        write_foreign,
        write_pickle_npz,
        write_certificate_with_pickle,
        write_pickle,
        write_npy,
        write_text,
        write_nothing,
        write_half_a_certificate,
    ],
    ids=lambda write: write.__name__,
)
def test_load_refuses_what_is_not_a_certificate(tmp_path, write):
    path = tmp_path / "file.npz"
    write(path)
    with pytest.raises(ValueError,
                       match=r"file\.npz is not a certificate .*; pass a file that Certificate"):
        Certificate.load(path)


def test_load_refuses_another_format(tmp_path):
    path = tmp_path / "future.npz"
    arrays = saved_arrays(path)
    header = json.loads(str(arrays["lirpa_explain.Certificate"])) | {"format": 99}
    np.savez(path, **(arrays | {"lirpa_explain.Certificate": np.array(json.dumps(header))}))
    with pytest.raises(ValueError,
                       match="is a certificate of format 99; this version .* reads format 2"):
        Certificate.load(path)


def test_load_of_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Certificate.load(tmp_path / "nowhere.npz")


# ---------------------------------------------------------------- bad arguments

ONES = torch.ones(2, 3)


@pytest.mark.parametrize("method", ["top_k", "top_k_overlap"])
@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k is 0, but an example has 3 features; pass 1 <= k <= 3"),
        (4, ValueError, "k is 4, but an example has 3 features; pass 1 <= k <= 3"),
        (2.0, TypeError, "k is 2.0, a float; pass an int"),
        (True, TypeError, "k is True, a bool; pass an int"),
    ],
)
def test_k_must_be_a_number_of_features(method, k, error, message):
    with pytest.raises(error, match=message):
        getattr(make(ONES, ONES, ONES), method)(k)


@pytest.mark.parametrize("norm", [0, 3, "inf", -math.inf])
def test_norm_must_be_a_known_one(norm):
    with pytest.raises(ValueError, match=f"norm is {norm!r}; pass 1, 2 or math.inf"):
        make(ONES, ONES, ONES).max_change(norm)


def test_contains_wants_an_attribution_of_the_same_shape():
    cert, pair = make(ONES, ONES, ONES), make((ONES, ONES), (ONES, ONES), (ONES, ONES))
    with pytest.raises(ValueError,
                       match=r"attribution has the shape \(2, 2\), but .* has \(2, 3\)"):
        cert.contains(ONES[:, :2])
    with pytest.raises(ValueError,
                       match=r"has the shape a tuple of \(2, 3\), but .* has \(2, 3\);"):
        cert.contains((ONES,))
    with pytest.raises(ValueError,
                       match=r"attribution has the shape \(2, 3\), but .* has a tuple of"):
        pair.contains(ONES)
    with pytest.raises(TypeError,
                       match="attribution holds a list; pass a Tensor, or a tuple of Tensors"):
        cert.contains([ONES])


def test_bounds_must_have_the_shape_of_the_nominal():
    with pytest.raises(ValueError, match=r"upper has the shape \(2, 1\), but .* \(2, 3\)"):
        make(ONES, ONES[:, :1], ONES)
    with pytest.raises(TypeError, match="nominal holds a ndarray"):
        make(ONES, ONES, ONES.numpy())
