"""One regression test for each defect, a to i, of auto_LiRPA's own bounds of Jacobians."""

import importlib.util
import math
from collections.abc import Callable

import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedParameter, BoundedTensor, PerturbationLpNorm
from captum.attr import LRP, LayerActivation, Saliency
from torch import Tensor, nn

from lirpa_explain import (
    METHODS,
    Certifier,
    GradientModule,
    LirpaExplainError,
    UnsupportedAttribution,
    UnsupportedOperation,
    capture,
    certify,
)
from lirpa_explain.bounding.engine import Engine
from lirpa_explain.graph.module import Step
from tests import nets
from tests.cases import CASES, boxes, problem
from tests.tolerances import ROUNDING
from tests.truth import assert_inside, input_gradient, sample_box

TOLERANCE = ROUNDING[torch.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode and float64, with parameters and statistics of no special values."""
    generator = seeded(seed)
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        scale = 1 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.3
        tensor.data = scale * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var = module.running_var.abs() + 0.5
    return model.eval()


def mlp(*sizes: int, activation=nn.ReLU) -> nn.Module:
    return randomised(nets.mlp(*sizes, activation=activation))


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


def cotangents(outputs: Tensor, targets: list[int]) -> Tensor:
    return torch.eye(outputs.shape[1], dtype=outputs.dtype)[targets]


def sampled_gradients(model: nn.Module, x: Tensor, eps: float, targets: list[int],
                      count: int = 150) -> Tensor:
    points = sample_box(x - eps, x + eps, count, seeded(2)).flatten(0, 1)
    return input_gradient(model, (points,),
                          cotangents(model(points), targets * count))[0].unflatten(0, (count, -1))


def certifier_of(model: nn.Module, x: Tensor, targets: list[int]) -> Certifier:
    return Certifier(Saliency(model), x, abs=False, target=targets)


def assert_holds(model: nn.Module, x: Tensor, eps: float, targets: list[int],
                 certifier: Certifier | None = None, **options):
    """Assert that the plain gradient's certificate holds sampled ones, and return it."""
    certificate = (certifier or certifier_of(model, x, targets)).certify(x, eps=eps, **options)
    assert_inside(certificate, sampled_gradients(model, x, eps, targets).flatten(2))
    return certificate


# a. Batches


@pytest.mark.parametrize(("batch", "outputs"),
                         [(1, 1), (1, 3), (2, 1), (5, 1), (4, 4), (3, 5), (5, 3)])
def test_a_relu_nets_with_any_batch_and_number_of_outputs(batch, outputs):
    model, x = mlp(4, 8, 8, outputs), inputs(batch, 4)
    targets = [i % outputs for i in range(batch)]
    certifier = certifier_of(model, x, targets)
    for method in METHODS:
        wide = assert_holds(model, x, 0.2, targets, certifier, method=method)
        assert (wide.width > 1e-3).any()  # some neuron is unstable
        exact = assert_holds(model, x, 0.0, targets, certifier, method=method)
        assert exact.width.abs().max() <= TOLERANCE
        last = certifier.certify(x[-1:], eps=0.2, target=targets[-1], method=method)
        assert torch.allclose(wide.lower[-1:], last.lower, rtol=TOLERANCE, atol=TOLERANCE)
        assert torch.allclose(wide.upper[-1:], last.upper, rtol=TOLERANCE, atol=TOLERANCE)


# b, c. Functions whose derivative is taken for another's


@pytest.mark.parametrize("model", [nn.GELU(), nn.GELU(approximate="tanh")], ids=str)
def test_b_gelu_has_the_derivative_of_gelu(model):
    assert_holds(mlp(3, 6, 2, activation=lambda: model), inputs(4, 3), 0.3, [0, 1, 0, 1])


def test_c_lgamma_is_refused():
    with pytest.raises(UnsupportedOperation, match=r"aten\.(lgamma|digamma)"):
        certify(Saliency(lambda x: torch.lgamma(x).sum(1)), inputs(2, 3), eps=0.1, abs=False)


class Tan(nn.Module):
    def forward(self, x):
        return torch.tan(x / 4)


def test_b_tan_has_the_derivative_of_tan():
    assert_holds(mlp(3, 6, 2, activation=Tan), inputs(4, 3), 0.3, [0, 1, 0, 1])


def test_b_c_tanh_has_the_derivative_of_tanh():
    assert_holds(mlp(3, 6, 2, activation=nn.Tanh), inputs(4, 3), 0.3, [0, 1, 0, 1])


# d. Derivatives of bounds by the weights


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
# whose steps are constants
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"CROWN-Optimized"}))
def test_d_bounds_have_derivatives_by_every_weight(method, activation):
    model, x, h = mlp(4, 6, 5, 3, activation=activation), inputs(3, 4), 1e-6
    certifier = Certifier(Saliency(model), x, abs=False, target=[0, 1, 2], method=method,
                          differentiable=True)

    def width() -> Tensor:
        return certifier.certify(x, eps=0.2).width.mean()

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(width(), list(parameters.values()), materialize_grads=True)
    gradients = dict(zip(parameters, gradients, strict=True))
    for moved in (list(parameters), ["0.weight"], ["4.weight"]):
        generator, ends = seeded(), []
        directions = {name: torch.randn(parameters[name].shape, generator=generator, dtype=x.dtype)
                      for name in moved}
        for step in (-h, h):
            for name in moved:
                parameters[name].data += step * directions[name]
            ends.append(width().item())
            for name in moved:
                parameters[name].data -= step * directions[name]
        slope = sum((gradients[name] * directions[name]).sum().item() for name in moved)
        assert abs(slope) > 1e-3
        assert slope == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-5, abs=1e-7), moved


# e. Convolutional nets


def conv_net(*middle: nn.Module, channels: int = 3, size: int = 4, **conv: int) -> nn.Module:
    return randomised(nn.Sequential(nn.Conv2d(1, 3, 3, **conv), *middle, nn.Flatten(),
                                    nn.Linear(channels * size * size, 4)))


CONV_NETS = {
    "many-outputs": lambda: conv_net(nn.ReLU()),
    "tanh": lambda: conv_net(nn.Tanh()),
    "sigmoid": lambda: conv_net(nn.Sigmoid()),
    "stride-2": lambda: conv_net(nn.ReLU(), size=3, stride=2, padding=1),
    "two-convolutions": lambda: conv_net(nn.Tanh(), nn.Conv2d(3, 2, 3, stride=2, padding=1),
                                         nn.ReLU(), channels=2, size=2),
    "max-pool": lambda: conv_net(nn.ReLU(), nn.MaxPool2d(2), size=2),
    "max-pool-overlapping-first": lambda: conv_net(nn.MaxPool2d(3, 1), nn.ReLU(), size=2),
    "average-pool": lambda: conv_net(nn.ReLU(), nn.AvgPool2d(2), size=2),
    "global-average-pool": lambda: conv_net(nn.ReLU(), nn.AdaptiveAvgPool2d(1), size=1),
    "batch-norm": lambda: conv_net(nn.BatchNorm2d(3), nn.ReLU()),
    "leaky-relu": lambda: conv_net(nn.LeakyReLU(0.1)),
    "softplus": lambda: conv_net(nn.Softplus(beta=2)),
    "groups-and-dilation": lambda: conv_net(nn.ReLU(), nn.Conv2d(3, 3, 2, groups=3, dilation=2),
                                            size=2),
}


@pytest.mark.parametrize("name", CONV_NETS)
def test_e_convolutional_nets(name):
    model, x, targets = CONV_NETS[name](), inputs(3, 1, 6, 6), [3, 0, 2]
    certifier = certifier_of(model, x, targets)
    for method in METHODS:
        certificate = assert_holds(model, x, 0.05, targets, certifier, method=method)
        assert 1e-6 < certificate.width.mean() < 10, method


# f. Weights that are perturbed


@pytest.mark.parametrize("row", [c for c in CASES if any(a.role == "weight" for a in c.args)],
                         ids=str)
def test_f_an_operator_whose_weight_is_perturbed_refuses_or_holds(row):
    radius = 0.1
    for moving in range(sum(arg.role == "weight" for arg in row.args)):
        p = problem(row)
        name, weight = list(p.module.named_parameters())[moving]
        points = [weight.data + radius * t
                  for t in (-1, 1, 2 * torch.rand(weight.shape, generator=seeded()) - 1)]
        sides = boxes(p, "wide")
        values = []
        for point in points:
            weight.data = point
            values += [p.module(*p.inputs(*(side[i] for side in sides))) for i in (0, 1)]
        setattr(p.module, name,
                BoundedParameter(points[0] + radius, PerturbationLpNorm(norm=math.inf, eps=radius)))
        middle = [(low + high) / 2 for low, high in sides]
        balls = tuple(PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high) for low, high in sides)
        for method in METHODS:
            try:
                lower, upper = Engine(p.module, p.inputs(*middle))(p.inputs(*middle), balls, method)
            except UnsupportedOperation as error:
                assert "perturbed" in str(error)
                continue
            rounding = TOLERANCE * torch.stack(values).abs().max()
            assert all((lower - rounding <= v).all() and (v <= upper + rounding).all()
                       for v in values), (name, method)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_f_a_model_with_perturbed_parameters_is_refused(name):
    model = mlp(4, 3, 2)
    ball = PerturbationLpNorm(norm=math.inf, eps=0.1)
    setattr(model[0], name, BoundedParameter(getattr(model[0], name).data, ball))
    with pytest.raises((LirpaExplainError, TypeError, ValueError),
                       match="(?i)perturb.*parameter|parameter.*perturb"):
        certify(Saliency(model), inputs(3, 4), eps=0.1, abs=False, target=0)


def test_f_weights_that_depend_on_another_example_are_refused():
    with pytest.raises(UnsupportedOperation):
        certify(Saliency(lambda x: nn.functional.linear(x, x[:1])), inputs(3, 4), eps=0.1,
                abs=False, target=0)


# g. The bounds of a better method are better, and bounds of the gradient itself


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh])
def test_g_crown_is_nowhere_wider_than_intervals(activation):
    model, x = mlp(6, 12, 12, 3, activation=activation), inputs(4, 6)
    certifier = certifier_of(model, x, [0, 1, 2, 0])
    intervals, mixed, crown = (assert_holds(model, x, 0.1, [0, 1, 2, 0], certifier, method=method)
                               for method in ("IBP", "CROWN-IBP", "CROWN"))
    for better in (mixed, crown):
        assert (better.lower >= intervals.lower - TOLERANCE).all()
        assert (better.upper <= intervals.upper + TOLERANCE).all()
    assert crown.width.mean() < 0.9 * intervals.width.mean()
    gradient = input_gradient(model, (x,), cotangents(model(x), [0, 1, 2, 0]))[0]
    for method in METHODS:
        narrow = certifier.certify(x, eps=1e-7, method=method)
        assert ((narrow.upper - gradient).abs().max() < 1e-4
                and (narrow.lower - gradient).abs().max() < 1e-4)


# h. LeakyReLU, forward


@pytest.mark.parametrize("slope", [0.1, 1.5, -0.2])
@pytest.mark.parametrize("method", METHODS)
def test_h_forward_bounds_of_leaky_relu(method, slope):
    model, x, eps = mlp(16, 32, 32, 4, activation=lambda: nn.LeakyReLU(slope)), inputs(5, 16), 0.01
    names, steps, last = dict(model.named_parameters()), [], "x"
    for i in (0, 2, 4):
        weight, bias = names[f"{i}.weight"], names[f"{i}.bias"]
        names |= {f"{i}.weight": nn.Parameter(weight.data.T.contiguous()), f"{i}.bias": bias}
        steps += [Step("matmul", (last, f"w{i}"), f"m{i}"),
                  Step("add", (f"m{i}", f"b{i}"), f"z{i}"),
                  Step("kink", (f"z{i}",), f"a{i}", {"slope": slope})]
        last = f"a{i}"
    tensors = {f"{name[-6 if name.endswith('t') else -4]}{name[0]}": w for name, w in names.items()}
    forward = GradientModule(["x"], steps[:-1], "z4", tensors, (), ())
    assert torch.allclose(forward(x), model(x))
    ball = PerturbationLpNorm(norm=math.inf, x_L=x - eps, x_U=x + eps)
    lower, upper = Engine(forward, (x,))((x,), (ball,), method)
    values = model(sample_box(x - eps, x + eps, 1000, seeded()))
    assert (lower <= values + TOLERANCE).all() and (values <= upper + TOLERANCE).all()
    assert_holds(model, x, eps, [0, 1, 2, 3, 0], method=method)


# auto_LiRPA's own Jacobians

beside_jacobian_op = pytest.mark.skipif(importlib.util.find_spec("auto_LiRPA.jacobian") is None,
                                        reason="this auto_LiRPA has no JacobianOP: nothing to "
                                        "compare with")


class Jacobian(nn.Module):
    """The Jacobian of a model as auto_LiRPA differentiates and bounds it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        from auto_LiRPA.jacobian import JacobianOP

        return JacobianOP.apply(self.model(x.requires_grad_()), x)

    def bounds(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """By CROWN."""
        bounded = BoundedModule(self, x.clone(), bound_opts={"conv_mode": "matrix"}, device="cpu")
        return bounded.compute_jacobian_bounds(
            BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=eps)), optimize=False)


# i. Gradients of tanh and sigmoid on boxes at the negative inflection point of their derivative;
# test_inflections.py sweeps every function of one variable

INFLECTIONS = {nn.Tanh: (math.atanh(1 / math.sqrt(3)), 0.04),
               nn.Sigmoid: (2 * math.atanh(1 / math.sqrt(3)), 0.01)}
"""Where the derivative has its inflection point, and how far auto_LiRPA 0.7.1 is off at minus that,
at least."""


def one_neuron(activation: type[nn.Module]) -> nn.Module:
    model = mlp(1, 1, 1, activation=activation)
    for layer in (model[0], model[2]):
        layer.weight.data.fill_(1.0)
        layer.bias.data.zero_()
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", INFLECTIONS)
def test_i_auto_lirpa_tanh_gradient_inflection(activation, method):
    point, _ = INFLECTIONS[activation]
    shifts = torch.linspace(-1.2, 1.2, 13, dtype=torch.float64)
    for radius in (0.001, 0.01, 0.1):
        x = torch.cat([side * point + radius * shifts for side in (-1, 1)])[:, None]
        assert_holds(one_neuron(activation), x, radius, [0] * len(x), method=method)


@beside_jacobian_op
@pytest.mark.parametrize("activation", INFLECTIONS)
def test_i_jacobian_op_is_wrong_there(activation):
    """As the table of operators says; where it no longer is, the table is to be changed."""
    point, off = INFLECTIONS[activation]
    model, x = one_neuron(activation).float(), torch.tensor([[-point]])
    lower, _ = Jacobian(model).bounds(x, 0.001)
    assert lower.item() > input_gradient(model, (x,), torch.ones(1, 1))[0].item() + off


# Numbers that cancel: the sum is rounding, whose sign depends on the order of adding


def decimal_net(*layers: tuple[list[list[float]], list[float]]) -> nn.Module:
    model = mlp(*(len(weight[0]) for weight, _ in layers), 1)
    for layer, (weight, bias) in zip(model[::2], layers, strict=True):
        layer.weight.data, layer.bias.data = (torch.tensor(values, dtype=torch.float64)
                                              for values in (weight, bias))
    return model


CANCELLING = {
    "pre-activation": ([0.1, 0.2], ([[0.3, 0.2], [-0.1, 0.1], [-0.2, 0.1]], [0.2, 0.2, 0.3]),
                       ([[-0.3, 0.1, 0.2]], [0.0]), ([[0.3]], [0.1])),
    "gradient": ([0.4, 0.1], ([[-0.1, 0.1], [-0.1, 0.3], [-0.1, 0.1]], [0.0, 0.0, 0.0]),
                 ([[-0.1, 0.1, 0.1], [-0.2, 0.0, -0.2]], [0.1, -0.2]), ([[-0.3, 0.1]], [0.2])),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [0.0, 1e-12, 0.1])
@pytest.mark.parametrize("name", CANCELLING)
def test_numbers_that_cancel(name, eps, method):
    """The certificate holds at a point where autograd may have taken either side."""
    point, *layers = CANCELLING[name]
    assert_holds(decimal_net(*layers), torch.tensor([point], dtype=torch.float64), eps, [0],
                 method=method)


# What tests/fuzz.py found in this package


@pytest.mark.parametrize("choose", [
    lambda x: torch.where(x > 0.1, x, 0.3), lambda x: torch.where(x > 0.1, -0.7, x.square()),
    lambda x: x.masked_fill(x < -0.1, -0.3)])
def test_numbers_that_are_chosen_have_double_precision(choose):
    """They had single precision, so that bounds in float64 were off by 1e-8."""
    layer = randomised(nn.Linear(3, 3))
    assert_holds(nn.Sequential(layer, Applied(lambda x: x * choose(x))), inputs(4, 3), 1e-10,
                 [0, 1, 2, 0])


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", [nn.Identity(), nn.Flatten(), nn.Linear(3, 3)], ids=str)
def test_an_attribution_that_is_the_input_itself(first, method, norm):
    """In l1 and l2 balls it had no width: at the first layer's input, behind an identity."""
    model, x = randomised(nn.Sequential(first, mlp(3, 4, 2))), inputs(2, 3)
    certificate = certify(LayerActivation(model, first), x, eps=0.1, norm=norm, method=method,
                          attribute_to_layer_input=isinstance(first, nn.Linear))
    # each entry alone moves by the radius in all norms
    for side in (certificate.upper - x, x - certificate.lower):
        torch.testing.assert_close(side, torch.full_like(x, 0.1), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients")
@pytest.mark.parametrize("first", [nn.ReLU(), nn.Tanh(), nn.Sequential(nn.Dropout(), nn.ReLU())],
                         ids=str)
def test_lrp_of_a_model_that_begins_with_an_activation(first):
    """The layer behind it multiplies by the activation's result."""
    lrp, x = LRP(nn.Sequential(first, mlp(3, 5, 2)).eval()), inputs(4, 3)
    certificate = certify(lrp, x, eps=0.1, target=1)
    for point in sample_box(x - 0.1, x + 0.1, 50, seeded()):
        assert certificate.contains(lrp.attribute(point, target=1)).all()


@pytest.mark.parametrize("before", [[], [nn.Linear(3, 3)]], ids=str)
def test_lrp_of_tanh_behind_a_dropout_is_refused(before):
    """There Captum multiplies relevance by the derivative once, or never, by the dropouts."""
    model = randomised(nn.Sequential(*before, nn.Dropout(), nn.Tanh(), nn.Linear(3, 2)))
    with pytest.raises(UnsupportedAttribution, match="Dropout"):
        certify(LRP(model), inputs(4, 3), eps=0.1, target=1)


# Beside auto_LiRPA's own


@beside_jacobian_op
def test_never_wider_than_jacobian_op():
    for seed in range(3):
        model, x = randomised(mlp(5, 10, 10, 3), seed).float(), inputs(1, 5).float()
        lower, upper = Jacobian(model).bounds(x, 0.1)
        module, example = capture(model, (x,)), (x.expand(3, -1), torch.eye(3))
        ball = PerturbationLpNorm(norm=math.inf, x_L=example[0] - 0.1, x_U=example[0] + 0.1)
        ours = Engine(module, example)(example, (ball,), "CROWN")
        width, their_width = (ours[1] - ours[0]).mean().item(), (upper - lower).mean().item()
        assert 0 < width <= their_width * (1 + ROUNDING[torch.float32])
