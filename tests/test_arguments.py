"""What certify() is given: what it refuses and why, and the different ways of saying the same
thing.

A refusal is a ValueError, a TypeError or one of our errors, and leaves no trace (see
tests/test_state.py).
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from auto_LiRPA import BoundedTensor, PerturbationLpNorm
from auto_LiRPA.perturbations import PerturbationL0Norm, PerturbationSynonym
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.masked import masked_tensor

import lirpa_explain as lx
from tests.reference import sample_ball
from tests.test_state import unchanged

METHODS = ("IBP", "CROWN-IBP", "CROWN")
NAN, INF = math.nan, math.inf


def net(middle=None):
    """A seeded float64 net 3 -> 2 in eval mode, with the given layer in its middle."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(3, 4), nn.Tanh(), middle or nn.Identity(), nn.Linear(4, 2)
    return nn.Sequential(*layers).double().eval()


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Owner:
    """Not a module, but it has one."""

    def __init__(self, model):
        self.model = model

    def predict(self, x):
        return self.model(x)


class Digamma(nn.Module):
    def forward(self, x):
        return torch.digamma(x)


class OneBranch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class MySaliency(Saliency):
    pass


def double(*size, seed=0):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y = double(4, 3), double(4, 2, seed=1)
TENTH = torch.tensor(0.1, dtype=torch.float64)


def two_inputs(a, b):
    return torch.cat([torch.tanh(a).sum(1, keepdim=True) * b[:, :1],
                      torch.tanh(b).sum(1, keepdim=True)], 1)


# Refusals


def bad(match, error=ValueError, inputs=X, kind=Saliency, model=net, wrap=lambda model: model,
        **keywords):
    """A call that must fail; the attribution is kind(wrap(model()))."""
    return match, error, inputs, kind, model, wrap, {"eps": 0.1, "target": 0} | keywords


def box(low, high):
    return PerturbationLpNorm(norm=INF, x_L=low, x_U=high)


with np.errstate(divide="ignore"):  # auto_LiRPA divides by 1 - 1 / norm
    L1, L2 = PerturbationLpNorm(norm=1, eps=0.1), PerturbationLpNorm(norm=2, eps=0.1)
BOUNDED = BoundedTensor(X.clone(), L2)

INPUTS = {
    "integer": bad("must be float32 or float64; given: torch.int64", TypeError, X.long()),
    "half": bad("must be float32 or float64; given: torch.float16", TypeError, X.half()),
    "nan": bad("NaN or infinite", inputs=X.where(X > 0, NAN)),
    "infinite": bad("NaN or infinite", inputs=X.where(X > 0, INF)),
    "no_examples": bad("at least one example", inputs=X[:0]),
    "no_features": bad("at least one example and one feature", inputs=X[:, :0]),
    "0d": bad("at least one example", inputs=torch.tensor(1.0)),
    "list": bad("a tensor or a tuple of tensors; given: list", TypeError, [X]),
    "integer_array": bad("float32 or float64.*given: one of int64.*astype", TypeError,
                         X.long().numpy()),
    "masked_array": bad("nothing masked; given: a masked array", TypeError,
                        np.ma.array(X.numpy(), mask=X.numpy() > 0)),
    "object_array": bad("given: one of object", TypeError, X.numpy().astype(object)),
    "none": bad("a tensor or a tuple of tensors", TypeError, None),
    "empty_tuple": bad("a tensor or a tuple of tensors", TypeError, ()),
    "lengths": bad(r"shapes: \(4, 3\), \(3, 2\)", inputs=(X, Y[:3])),
    "dtypes": bad("one dtype", TypeError, (X, Y.float())),
    "dtype_of_model": bad("dtype", inputs=X.float()),
    "too_many": bad("positional argument", TypeError, (X, Y)),
    "wrong_size": bad("shapes cannot be multiplied", inputs=Y),
}

PERTURBATIONS = {
    "none": bad("exactly one way.*given: none", eps=None),
    "eps_and_perturbation": bad("exactly one way.*given: perturbation and eps", perturbation=L2),
    "eps_and_bounded": bad("exactly one way.*given: eps and a BoundedTensor", inputs=BOUNDED),
    "bounded_and_perturbation": bad("exactly one way", inputs=BOUNDED, eps=None, perturbation=L2),
    "eps_shape": bad(r"\(5,\) does not broadcast to \(4, 3\)", eps=torch.ones(5)),
    "eps_shape_l2": bad("one number an example for norm 2 and 1", eps=torch.ones(4, 3), norm=2),
    "eps_too_long": bad("eps has 2 entries for 1 inputs", eps=(0.1, 0.2)),
    "eps_too_short": bad("eps has 1 entries for 2 inputs", inputs=(X, Y), wrap=lambda _: two_inputs,
                         eps=(0.1,)),
    "eps_negative": bad("at least 0", eps=-0.1),
    "eps_negative_entry": bad("at least 0", eps=torch.tensor([0.1, -0.1, 0.1])),
    "eps_infinite": bad("must be finite", eps=INF),
    "eps_nan": bad("must be finite", eps=NAN),
    "eps_nan_entry": bad("must be finite", eps=torch.tensor([0.1, NAN, 0.1])),
    "eps_string": bad("eps must be a number or a tensor; given: str", TypeError, eps="0.1"),
    "eps_list": bad("eps must be a number or a tensor; given: list", TypeError, eps=[0.1]),
    "eps_dictionary": bad("given: dict. Radii by name: perturbation=Table", TypeError,
                          eps={"age": 0.1}),
    "eps_bool": bad("eps must be a number or a tensor; given: bool", TypeError, eps=True),
    "eps_huge": bad("too large", eps=10**400),
    "clip_shape": bad(r"broadcast to \(4, 3\)", clip=(torch.zeros(5) - 9, 9.0)),
    "eps_complex": bad("eps must be", TypeError, eps=torch.tensor(0.1j)),
    "all_fixed": bad("held fixed; perturb at least one", eps=(None,)),
    "all_perturbations_none": bad("held fixed; perturb at least one", eps=None, perturbation=(None,
    )),
    "norm_3": bad("norm must be math.inf, 2 or 1; given: 3", norm=3),
    "norm_string": bad("norm must be math.inf, 2 or 1; given: 'inf'", norm="inf"),
    "norm_3_of_perturbation": bad("norm must be", eps=None,
                                  perturbation=PerturbationLpNorm(norm=3, eps=0.1)),
    "clip_with_l2": bad("clip needs norm=math.inf", norm=2, clip=(-9, 9)),
    "clip_excludes_input": bad("reaches beyond clip", clip=(0, 1)),
    "clip_reversed": bad("reaches beyond clip", clip=(9, -9)),
    "clip_nan": bad("clip", clip=(NAN, 9)),
    "clip_number": bad("clip must be a pair", TypeError, clip=0.5),
    "clip_triple": bad("clip must be a pair", TypeError, clip=(0, 1, 2)),
    "clip_half": bad("clip", clip=(None, 9)),
    "clip_words": bad("clip", TypeError, clip=("low", "high")),
    "clip_with_perturbation": bad("clip and norm go with eps", eps=None, perturbation=L2,
                                  clip=(-9, 9)),
    "norm_with_perturbation": bad("clip and norm go with eps", eps=None, perturbation=L2, norm=2),
    "box_above_input": bad("x_L <= input <= x_U", eps=None, perturbation=box(X + 1, X + 2)),
    "box_below_input": bad("x_L <= input <= x_U", eps=None, perturbation=box(X - 2, X - 1)),
    "box_nan": bad("x_L <= input <= x_U", eps=None, perturbation=box(X.where(X > 0, NAN), X + 1)),
    "box_shape": bad("shape of the input", eps=None, perturbation=box(X[:, :2], X[:, :2])),
    "l0": bad("auto_LiRPA's PerturbationLpNorm; given: PerturbationL0Norm", TypeError, eps=None,
              perturbation=PerturbationL0Norm(eps=1)),
    "synonym": bad("auto_LiRPA's PerturbationLpNorm; given: PerturbationSynonym", TypeError,
                   eps=None, perturbation=PerturbationSynonym.__new__(PerturbationSynonym)),
    "number_as_perturbation": bad("auto_LiRPA's PerturbationLpNorm; given: float", TypeError,
                                  eps=None, perturbation=0.1),
    "list_of_perturbations": bad("auto_LiRPA's PerturbationLpNorm; given: list", TypeError,
                                 eps=None, perturbation=[L2]),
    "perturbations_too_long": bad("perturbation has 2 entries for 1 inputs", eps=None,
                                  perturbation=(L2, L2)),
}

OPTIONS = {
    "method": bad("method must be one of IBP.*given: 'backward'", method="backward"),
    "method_lower_case": bad("method must be one of IBP", method="crown"),
    "differentiable": bad("differentiable must be True or False", TypeError, differentiable="yes"),
    "spec_complex": bad("spec must be dense and real", TypeError, spec=torch.ones(1, 3) * 1j),
    "spec_list": bad("spec must be a tensor", TypeError, spec=[[1.0, 0.0, 0.0]]),
    "method_none": bad("method must be one of IBP", method=None),
    "two_quadratures": bad("Two quadratures", kind=IntegratedGradients, method="riemann_left",
                           quadrature="gausslegendre"),
    "quadrature_of_saliency": bad("Saliency.attribute rejects.*'method'", TypeError,
                                  quadrature="riemann_left"),
    **{f"batch_size_{size}": bad("batch_size must be an integer of at least 1", batch_size=size)
       for size in (0, -1, True, 2.5)},
}

MISSPELT = {
    "eps": bad("no 'epsilon', nor has certify; did you mean 'eps'", TypeError, epsilon=0.1,
               eps=None),
    "clip": bad("did you mean 'clip'", TypeError, clips=(0, 1)),
    "batch_size": bad("did you mean 'batch_size'", TypeError, batchsize=8),
    "of_captum": bad("did you mean 'n_steps'", TypeError, kind=IntegratedGradients, nsteps=5),
    "of_the_inner_attribution": bad("NoiseTunnel.attribute rejects.*did you mean 'n_steps'",
                                    TypeError, nsteps=5,
                                    kind=lambda model: NoiseTunnel(IntegratedGradients(model))),
    "of_nothing": bad("no 'wavelength', nor has certify; certify takes batch_size, boundary",
                      TypeError, wavelength=1),
}

path = functools.partial(bad, kind=IntegratedGradients)
tunnel = functools.partial(bad, kind=lambda model: NoiseTunnel(Saliency(model)))

REJECTED_BY_CAPTUM = {
    "keyword": bad("Saliency.attribute rejects.*'n_steps'", TypeError, n_steps=5),
    "keyword_of_tunnel": tunnel("NoiseTunnel.attribute rejects.*'n_samples'", TypeError,
                                n_samples=5),
    "keyword_of_none": bad("rejects.*'foo'", TypeError, foo=None),
    "target_missing": bad("Target not provided when necessary", target=None),
    "target_out_of_range": bad("index 7 is out of bounds", target=7),
    "target_negative": bad("index -3 is out of bounds", target=-3),
    "target_float": bad("Target type <class 'float'> is not valid", target=1.5),
    "target_string": bad("Target type <class 'str'> is not valid", target="0"),
    "target_list_length": bad("Target list length does not match output", target=[0, 1]),
    "target_list_out_of_range": bad("out of bounds", target=[0, 1, 2, 0]),
    "target_tuple_too_long": bad("Cannot choose target column", target=(0, 0)),
    "target_tensor_length": bad("Tensor target dimension.*is not valid",
                                target=torch.tensor([0, 1])),
    "target_float_tensor": bad("Expected dtype int", target=torch.ones(4)),
    "baseline_shape": path("Baseline can be provided as a tensor",
                           baselines=torch.zeros(3).double()),
    "baseline_rows": path("Baseline can be provided as a tensor", baselines=X[:2]),
    "baseline_list": path("must be either a torch.Tensor or a number", baselines=[0.0]),
    "baseline_tuple_length": path("baseline has 2", baselines=(0.0, 0.0)),
    "quadrature": path("Approximation method must be one for the following.*simpson",
                       quadrature="simpson"),
    "no_steps": path("number of steps has to be larger than zero", n_steps=0),
    "negative_steps": path("number of steps must be a positive", n_steps=-1),
    "one_riemann_step": path("larger than one", n_steps=1, quadrature="riemann_left"),
    "noise_type": tunnel("Noise types must be either", nt_type="foo"),
    "integer_stdevs": tunnel("stdevs must be type float", stdevs=1),
    "stdevs_length": tunnel("must be equal to the number of stdevs", stdevs=(0.1, 0.2)),
    "negative_stdevs": tunnel("std", stdevs=-0.1),
    "no_samples": tunnel("NoiseTunnel.attribute rejects", nt_samples=0),
    "unused_input": bad("appears to not have been used", inputs=(X, Y),
                        wrap=lambda model: lambda a, b: model(a)),
    "not_differentiable": bad("does not require grad",
                              wrap=lambda model: lambda x: model(x).argmax(1, True).double()),
    "detached": bad("does not require grad", wrap=lambda model: lambda x: model(x).detach()),
    "tuple_output": bad("Saliency.attribute rejects", (ValueError, TypeError),
                        wrap=lambda model: lambda x: (model(x), x)),
    "dict_output": bad("Saliency.attribute rejects", (ValueError, TypeError),
                       wrap=lambda model: lambda x: {"y": x}),
    "no_output": bad("Saliency.attribute rejects", (ValueError, TypeError),
                     wrap=lambda model: lambda x: None),
    "number_as_output": bad("Saliency.attribute rejects", (ValueError, TypeError),
                            wrap=lambda model: lambda x: 1.0),
    "sparse_output": bad("output must be dense.*to_dense", TypeError,
                         wrap=lambda model: lambda x: model(x).to_sparse()),
    "missing_key": bad("Saliency.attribute rejects.*no such key",
                       wrap=lambda model: lambda x: {}["no such key"]),
    "0d_output": bad("0-dim tensor", target=None, wrap=lambda model: lambda x: model(x).sum()),
    "model_that_raises": bad("Saliency.attribute rejects.*no such weather",
                             wrap=lambda model: _raising),
}


def _raising(x):
    raise ValueError("no such weather")


UNSUPPORTED = {
    "MySaliency": bad("MySaliency cannot be certified.*IntegratedGradients.*NoiseTunnel.*Saliency",
                      lx.UnsupportedAttribution, kind=MySaliency),
    "tunnel_of_another": bad("MySaliency cannot be certified", lx.UnsupportedAttribution,
                             kind=lambda model: NoiseTunnel(MySaliency(model))),
    "tunnel_of_tunnel": bad("NoiseTunnel within a NoiseTunnel", lx.UnsupportedAttribution,
                            kind=lambda model: NoiseTunnel(NoiseTunnel(Saliency(model)))),
    "model": bad(r"given: a model, Sequential.*Saliency\(model\)", lx.UnsupportedAttribution,
                 kind=lambda model: model),
    "class": bad(r"the class Saliency.*: Saliency\(model\)", lx.UnsupportedAttribution,
                 kind=lambda model: Saliency),
    "name": bad(r"the string 'InputXGradient'.*captum.attr.*: InputXGradient\(model\)",
                lx.UnsupportedAttribution, kind=lambda model: "InputXGradient"),
    "bound_method": bad("the method attribute of a Saliency. Pass the object",
                        lx.UnsupportedAttribution, kind=lambda model: Saliency(model).attribute),
    "inputs_first": bad("a Tensor. The attribution comes first", lx.UnsupportedAttribution,
                        kind=lambda model: X),
}


def _with_own_gradient(model, tunnel=False):
    attribution = Saliency(model)
    attribution.gradient_func = lambda *args: None
    return NoiseTunnel(attribution) if tunnel else attribution


UNSUPPORTED |= {
    "gradient_func": bad("gradient_func of its own", lx.UnsupportedAttribution,
                         kind=_with_own_gradient),
    "gradient_func_in_tunnel": bad("gradient_func of its own", lx.UnsupportedAttribution,
                                   kind=functools.partial(_with_own_gradient, tunnel=True)),
}

# Ways in which a callable can hide its module
WRAPS = {
    "module": lambda model: model,
    "method": lambda model: model.forward,
    "partial": lambda model: functools.partial(model),
    "lambda": lambda model: lambda x: model(x),
    "lambda_of_lambda": lambda model: (lambda inner: lambda x: inner(x))(lambda x: model(x)),
    "owner": lambda model: Owner(model).predict,
    "list": lambda model: (lambda models: lambda x: models[0](x))([model]),
}
LAYERS = {"dropout": nn.Dropout, "batch_norm": lambda: nn.BatchNorm1d(4), "rrelu": nn.RReLU}


def _training(layer):
    return net(layer()).train()


TRAINING = {
    f"{layer}-{wrap}": bad("model is in training mode|draws random numbers|statistics of the batch",
                           lx.TrainingModeError, model=functools.partial(_training, LAYERS[layer]),
                           wrap=WRAPS[wrap]) for layer, wrap in itertools.product(LAYERS, WRAPS)}


def layer(match, function, error=lx.UnsupportedOperation):
    """A refusal of a model with this function in its middle."""
    return bad(match, error, model=lambda: net(Function(function)))


MODELS = {
    "noise": layer("draws random numbers", lambda x: x + torch.randn_like(x), lx.TrainingModeError),
    "scaled_by_noise": layer("draws random numbers", lambda x: x * torch.rand(4),
                             lx.TrainingModeError),
    "functional_dropout": layer("draws random numbers", lambda x: F.dropout(x, 0.5),
                                lx.TrainingModeError),
    "branch": bad("decides by the values of its input", lx.UnsupportedOperation,
                  model=lambda: net(OneBranch())),
    "item": layer("decides by the values of its input", lambda x: x * x.sum().item()),
    "mean_of_batch": layer("batch|examples", lambda x: x - x.mean(0)),
    "product_of_examples": layer("batch|examples", lambda x: x @ x.T @ x),
    "flip_of_batch": layer("batch|examples|no bound operator", lambda x: x.flip(0)),
    "softmax_of_batch": layer("batch|examples|no bound operator", lambda x: x.softmax(0)),
    "sum_of_batch": layer("batch|examples|no bound operator", lambda x: x.cumsum(0)),
    "rows_of_constants": layer("batch|examples", lambda x: x * Y[:, :1]),
}

TABLES = {"inputs": INPUTS, "perturbation": PERTURBATIONS, "option": OPTIONS,
          "captum": REJECTED_BY_CAPTUM,
          "keyword": MISSPELT, "attribution": UNSUPPORTED, "training": TRAINING, "model": MODELS}
BAD = {f"{table}-{name}": row for table, rows in TABLES.items() for name, row in rows.items()}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    match, error, inputs, kind, model, wrap, keywords = BAD[name]
    model = model()
    attribution = kind(wrap(model))
    with unchanged(model, inputs), pytest.raises(error, match=f"(?s){match}"):
        lx.certify(attribution, inputs, **keywords)


FUNCTIONS = {
    "certify": lambda model, x: lx.certify(Saliency(model), x, eps=0.1, target=0),
    "certifier": lambda model, x: lx.Certifier(Saliency(model), x, target=0),
    "bounds": lambda model, x: lx.Certifier(Saliency(model), target=0).bounds(x, eps=0.1),
    "attack": lambda model,
    x: lx.attack(Saliency(model), x, eps=0.1, target=0, objective="l2", steps=1),
    "prediction": lambda model, x: lx.certify_prediction(model, x, eps=0.1),
    "radius": lambda model, x: lx.radius(lx.Certifier(Saliency(model), target=0), x,
                                         lambda c: c.sign()[:, 0] > 0, high=1.0, steps=0),
    "find": lambda model, x: lx.find_boundary(model, x),
    "gap": lambda model, x: lx.boundary_gap(lx.BoundarySaliency(model), x),
    "sensitivity": lambda model,
    x: lx.baseline_sensitivity(IntegratedGradients(model), x, eps=0.1, target=0),
    "loss": lambda model,
    x: lx.training.explanation_loss(model, x, torch.tensor([0, 1, 1, 0]), eps=0.1),
    "cross_entropy": lambda model,
    x: lx.training.certified_cross_entropy(model, x, torch.tensor([0, 1, 1, 0]), eps=0.1),
    "capture": lambda model, x: lx.capture(model, (x,)),
}

NO_VALUES = {
    "sparse": (lambda: X.to_sparse(), TypeError, "to_dense"),
    "csr": (lambda: X.to_sparse_csr(), TypeError, "to_dense"),
    "nested": (lambda: torch.nested.nested_tensor([X[0], X[1, :2]]), TypeError, "to_padded_tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([X[0], X[1, :2]], layout=torch.jagged), TypeError,
               "to_padded_tensor"),
    "masked": (lambda: masked_tensor(X, X > 0), TypeError, "to_tensor"),
    "meta": (lambda: X.to("meta"), TypeError, "device meta"),
    "fake": (lambda: FakeTensorMode().from_tensor(X), TypeError, "operations of its own"),
    "complex": (lambda: X + 1j, TypeError, "view_as_real"),
    "text": (lambda: "x", TypeError, "a tensor or a tuple of tensors; given: str|given: a tuple of "
             "str"),
    "dictionary": (lambda: {"x": X}, TypeError, "a tensor or a tuple of tensors; given: dict|a "
                   "tuple of dict"),
    "size": (lambda: double(4, 7), (ValueError, lx.UnsupportedOperation),
             "shapes cannot be multiplied"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of prototypes
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", NO_VALUES)
def test_inputs_that_have_no_values(name, function):
    make, error, match = NO_VALUES[name]
    with pytest.raises(error, match=match):
        FUNCTIONS[function](net(), make())


def made_in_inference_mode():
    with torch.inference_mode():
        return nn.Linear(3, 2, dtype=torch.float64)


MODELS_WITHOUT_VALUES = {
    "meta": (lambda: nn.Linear(3, 2, device="meta", dtype=torch.float64), "device meta.*load the "
             "weights"),
    "lazy": (lambda: nn.LazyLinear(2, dtype=torch.float64), "not initialised: call the model once"),
    "inference": (made_in_inference_mode, "inference_mode"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", MODELS_WITHOUT_VALUES)
def test_models_that_have_no_values(name, function):
    make, match = MODELS_WITHOUT_VALUES[name]
    with pytest.raises(ValueError, match=f"layer (Linear|LazyLinear).*{match}"):
        FUNCTIONS[function](make(), X)


def within(mode, function, model):
    with mode:
        return function(model, X)


SURROUNDINGS = {
    "vmap": lambda function, model: torch.func.vmap(lambda x: function(model, x[None]))(X),
    "grad": lambda function, model: torch.func.grad(lambda x: function(model, x))(X),
    "fake": functools.partial(within, FakeTensorMode(allow_non_fake_inputs=True)),
    "functional": functools.partial(within, FunctionalTensorMode()),
    "recording": lambda function, model: make_fx(lambda x: function(model, x))(X),
}


@pytest.mark.parametrize("function",
                         ["certify", "bounds", "attack", "prediction", "find", "loss", "capture"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_without_values(name, function):
    with pytest.raises(ValueError, match="call this outside"):
        SURROUNDINGS[name](FUNCTIONS[function], net())


@pytest.mark.parametrize("compiled",
                         [lambda model: torch.compile(model, backend="eager"),
                          lambda model: torch.compile(lambda x: model(x), backend="eager")])
def test_compiled_models_are_certified_as_written(compiled):
    model = net()
    plain, other = (lx.certify(Saliency(m), X, eps=0.1, target=0) for m in (model, compiled(model)))
    assert_same(plain, other)


def test_compiled_callers():
    model = net()

    def step(x):
        return lx.certify(Saliency(model), x, eps=0.1, target=0).upper + 1

    assert torch.equal(torch.compile(step, backend="eager")(X), step(X))


OUTPUTS = {"none": None, "tuple": (X,), "text": "y", "number": 1.0, "bool": X > 0,
           "complex": X + 1j, "empty": X[:, :0], "constant": X[:, :2].clone()}


@pytest.mark.parametrize("function",
                         ["attack", "prediction", "find", "loss", "cross_entropy", "capture"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_nothing_can_be_said_of(name, function):
    if (name, function) in (("constant", "prediction"), ("constant", "cross_entropy")):
        pytest.skip("is certain")
    with pytest.raises((TypeError, ValueError, lx.LirpaExplainError)):
        FUNCTIONS[function](lambda x: OUTPUTS[name], X)


@pytest.mark.parametrize("what", [None, "Saliency", Saliency, nn.Linear(3, 2), object()])
def test_attacks_need_an_attribution(what):
    with pytest.raises(TypeError, match="attribution must be an object of one of Captum's classes"):
        lx.attack(what, X, eps=0.1, objective="l2")


@pytest.mark.parametrize("y", [0, [0, 1, 1, 0], np.zeros(4), X[:, 0], X[:, 0] > 0,
                               torch.zeros(4, device="meta")])
def test_labels(y):
    with pytest.raises((TypeError, ValueError), match="y must be"):
        lx.training.certified_cross_entropy(net(), X, y, eps=0.1)


# (what follows a layer without a bound operator, what then is the first such operation that the
# gradient needs)
UNKNOWN = {"forward": (nn.Tanh(), "aten.digamma"), "backward": (nn.Identity(), "aten.polygamma")}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unsupported_operation_says_where_it_is(name):
    following, operation = UNKNOWN[name]
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Digamma(), following),
                          nn.Linear(3, 2)).double()
    with unchanged(model, X), pytest.raises(lx.UnsupportedOperation) as caught:
        lx.certify(Saliency(model), X, eps=0.1, target=0)
    for part in (operation, "module 1.0 (Digamma)", "test_arguments.py",
                 "`return torch.digamma(x)`", "register("):
        assert part in str(caught.value)


# The same thing in other words


@functools.cache
def certifier(kind, rows):
    """The model, and the certifier of its attributions for so many rows, which calls share."""
    model = net()
    return model, lx.Certifier(kind(model))


def certify(inputs=X, kind=InputXGradient, **keywords):
    model, shared = certifier(kind, len(parts(inputs)[0]))
    with unchanged(model, inputs):
        return shared.certify(inputs, **{"target": 1, **keywords})


def parts(value):
    return value if isinstance(value, tuple) else (value,)


def assert_same(first, second, rows=slice(None)):
    """Equal bounds up to rounding, of these rows of the first and of the second."""
    for name in ("lower", "upper", "nominal"):
        for one, other in zip(parts(getattr(first, name)), parts(getattr(second, name)),
                              strict=True):
            torch.testing.assert_close(one[rows], other, rtol=1e-9, atol=1e-12)


SAME = {
    "0d": {"eps": TENTH},
    "integer": {"eps": 0, "_as": 0.0},
    "each_example": {"eps": TENTH.expand(4, 1)},
    "each_feature": {"eps": TENTH.expand(3)},
    "each_entry": {"eps": TENTH.expand(4, 3)},
    "tuple": {"eps": (0.1,), "inputs": (X,)},
    "clip_far_away": {"eps": 0.1, "clip": (-99, 99)},
    "perturbation": {"perturbation": PerturbationLpNorm(norm=INF, eps=0.1)},
    "box": {"perturbation": box(X - 0.1, X + 0.1)},
    "bounded": {"inputs": BoundedTensor(X.clone(), PerturbationLpNorm(norm=INF, eps=0.1))},
    "bounded_box": {"inputs": BoundedTensor(X.clone(), box(X - 0.1, X + 0.1))},
    "l2_perturbation": {"perturbation": L2, "_norm": 2},
    "l2_bounded": {"inputs": BOUNDED, "_norm": 2},
    "l2_each_example": {"eps": TENTH.expand(4, 1), "norm": 2, "_norm": 2},
    "l1_perturbation": {"perturbation": L1, "_norm": 1},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SAME)
def test_ways_of_giving_a_ball(name, method):
    given = {key: value for key, value in SAME[name].items() if not key.startswith("_")}
    expected = certify(eps=SAME[name].get("_as", 0.1), norm=SAME[name].get("_norm", INF),
                       method=method)
    assert_same(certify(method=method, **given), expected)


@pytest.mark.parametrize("norm", [INF, 2, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_rows(method, norm):
    radii = torch.tensor([[0.0], [0.01], [0.1], [0.5]], dtype=torch.float64)
    batch = certify(eps=radii, norm=norm, method=method, target=[0, 1, 1, 0])
    for i, target in enumerate([0, 1, 1, 0]):
        row = certify(X[i: i + 1], eps=float(radii[i]), norm=norm, method=method, target=[target])
        assert_same(batch, row, rows=slice(i, i + 1))
    assert (batch.width.sum(1).diff() > 0).all()


@pytest.mark.parametrize("norm", [2, 1])
def test_radius_of_each_example_holds(norm):
    radii = torch.tensor([[0.05], [0.3], [0.1], [0.5]], dtype=torch.float64)
    certificate = certify(eps=radii, norm=norm)
    attribution = InputXGradient(net())
    for i in range(4):
        points = sample_ball(X[i: i + 1], float(radii[i]), norm, 60,
                             torch.Generator().manual_seed(0))
        for point in points:
            value = certificate.nominal.clone()
            value[i] = attribution.attribute(point.requires_grad_(), target=1)[0]
            assert certificate.contains(value).all()


CLIPS = {"numbers": (-2.2, 1.6), "0d": (X.amin(), X.amax()), "each": (X - 0.01, X + 0.01),
         "exactly": (X.amin().item(), X.amax().item())}


@pytest.mark.parametrize("name", CLIPS)
def test_clip_cuts_the_ball(name):
    clip = CLIPS[name]
    cut, whole = certify(eps=0.5, clip=clip), certify(eps=0.5)
    assert (cut.lower >= whole.lower - 1e-12).all() and (cut.upper <= whole.upper + 1e-12).all()
    assert (cut.width < whole.width - 1e-3).any()


def test_fixed_inputs():
    of_two = functools.partial(certify, (X, Y), lambda model: InputXGradient(two_inputs))
    linf = PerturbationLpNorm(norm=INF, eps=0.1)
    both, first = of_two(eps=0.1), of_two(eps=(0.1, None))
    assert_same(first, of_two(eps=(0.1, 0.0)))
    assert_same(first, of_two(perturbation=(linf, None)))
    assert_same(first, certify((BoundedTensor(X.clone(), linf), Y),
                               lambda model: InputXGradient(two_inputs)))
    assert_same(both, of_two(eps=(0.1, TENTH.expand(2)), clip=(None, (-9, 9))))
    assert all((f <= b + 1e-12).all() for f, b in zip(first.width, both.width, strict=True))
    assert any((f < b - 1e-3).any() for f, b in zip(first.width, both.width, strict=True))


@pytest.mark.filterwarnings("ignore::lirpa_explain.CaptumWarning")
@pytest.mark.parametrize("quadrature", ["riemann_right", "riemann_trapezoid", "gausslegendre"])
def test_captums_name_of_the_quadrature(quadrature):
    integrated = functools.partial(certify, X, IntegratedGradients, eps=0.1, n_steps=3)
    assert_same(integrated(method=quadrature), integrated(quadrature=quadrature, method="CROWN"))


@pytest.mark.parametrize(("kind", "keywords"),
                         [(Saliency, {}), (IntegratedGradients, {"n_steps": 4})])
def test_batch_size_does_not_matter(kind, keywords):
    expected, *others = [lx.certify(kind(net()), X, eps=0.1, target=1, batch_size=size, **keywords)
                         for size in (None, 1, 3, 1000)]
    for other in others:
        assert_same(other, expected)
