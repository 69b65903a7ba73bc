"""Ways to train for robust explanations that prove nothing, for comparison.

Every function is `method(model, x, y, *, eps, **settings) -> scalar`, differentiable in the model's
parameters: a penalty to be added to the task's loss, or a loss in its place; `TRAINING_METHODS`
says which. Inputs are x (N, *S), targets y (N,), logits (N, C). `eps` is the radius of the l-inf
ball in which explanations shall be robust, in units of the input; `task(logits, y) -> scalar` the
task's loss. What is drawn comes from `generator`, or from torch's global generator. The model stays
in the mode it is in, no `.grad` is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..rounding import least
from .gradients import input_gradient, smooth_relu

Task = Callable[[Tensor, Tensor], Tensor]
Clip = tuple[float, float]


# In place of the task's loss


def plain(model: nn.Module, x: Tensor, y: Tensor, *, eps: float = 0.0,
          task: Task = F.cross_entropy) -> Tensor:
    """The task's loss: task(f(x), y).

    Example:
        >>> plain(nn.Flatten(), torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """
    return task(model(x), y)


def pgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 7,
        clip: Clip | None = None,
        task: Task = F.cross_entropy, generator: Generator | None = None) -> Tensor:
    """Adversarial training: max over |x' - x| <= eps of task(f(x'), y), sought by projected
    gradient ascent.

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: radius.
        steps: of length 2.5 eps / steps, from a random start.
        clip: the range of the data.
        task: the loss.
        generator: of the start.

    Source:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """
    return task(model(_worst(lambda z: task(model(z), y), x, eps, steps, clip, generator)), y)


def ig_sum_norm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, beta: float = 0.1, power: int = 1,
    path_steps: int = 5, steps: int = 3, clip: Clip | None = None, task: Task = F.cross_entropy,
    generator: Generator | None = None) -> Tensor:
    """Robust attribution regularisation, IG-SUM-NORM: max over x' of task(f(x'), y) + beta sum_i
    |IG_i(x, x')|^power.

    IG attributes the change of the loss from x to x': IG_i = (x'_i - x_i) mean_k d task / d x_i at
    the points x + (k - 1/2) / m (x' - x), k = 1 .. m.

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: radius of the ball of x'.
        beta: weight of the attribution.
        power: 1, as in the paper, or 2 for squares.
        path_steps: m.
        steps: of the ascent to x', on the whole objective.
        clip: the range of the data.
        task: the loss; a mean over the examples.
        generator: of the start.

    Source:
        Chen et al., Robust Attribution Regularization, NeurIPS 2019.
    """
    def objective(z: Tensor) -> Tensor:
        shares = (torch.arange(path_steps, device=x.device, dtype=x.dtype) + 0.5) / path_steps
        points = torch.cat([x + share * (z - x) for share in shares])
        points = points if points.requires_grad else points.requires_grad_()
        # the sum: each point has its own gradient
        loss = len(points) * task(model(points), y.repeat(path_steps))
        gradient = torch.autograd.grad(loss, points, create_graph=True)[0]
        attribution = (z - x) * gradient.reshape(path_steps, *x.shape).mean(0)
        return task(model(z), y) + beta * attribution.abs().pow(power).flatten(1).sum(1).mean()

    return objective(_worst(objective, x, eps, steps, clip, generator))


def smoothing(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, sigma: float | None = None,
              task: Task = F.cross_entropy, generator: Generator | None = None) -> Tensor:
    """Training under the noise of randomised smoothing: task(f(x + n), y) with n ~ N(0, sigma^2).

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: what sigma is if not given.
        sigma: deviation of the noise, in units of the input.
        task: the loss.
        generator: of the noise.

    Source:
        Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML
        2019.
    """
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return task(model(x + (eps if sigma is None else sigma) * noise), y)


def softplus(model: nn.Module, x: Tensor, y: Tensor, *, eps: float = 0.0, beta: float = 10.0,
             decay: float = 1e-4, task: Task = F.cross_entropy) -> Tensor:
    """A smooth net of small weights: task(f_beta(x), y) + decay / 2 sum |W|^2, f_beta with softplus
    for ReLU.

    The net so trained is f_beta: use the model under `smooth_relu(beta)`, or give it
    nn.Softplus(beta) from the start, which this function leaves as it is.

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: not used.
        beta: sharpness of the softplus.
        decay: weight decay of all parameters of 2 or more dimensions.
        task: the loss.

    Source:
        Dombrowski, Anders, Mueller and Kessel, Towards robust explanations for deep neural
        networks, Pattern Recognition 2022.
    """
    with smooth_relu(beta):
        loss = task(model(x), y)
    return loss + decay / 2 * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)


# Beside the task's loss


def hessian(model: nn.Module, x: Tensor, y: Tensor, *, eps: float = 0.0, beta: float | None = 10.0,
            step: float | None = None, generator: Generator | None = None) -> Tensor:
    """Curvature of the target's logit: mean over examples of |H v|^2, v ~ N(0, I), which estimates
    |H|_F^2.

    The Hessian of a ReLU net is 0 wherever it exists. So it is that of f with softplus_beta for
    ReLU; or, with `step`, of f itself by finite differences, (grad f(x + step v) - grad f(x)) /
    step.

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: not used.
        beta: sharpness of the softplus; None to take the model as it is, if it is smooth.
        step: of finite differences, in units of the input; then beta is not used.
        generator: of v.

    Raises:
        ValueError: the Hessian is 0 at every input, so nothing would be learnt.

    Source:
        Dombrowski et al., Pattern Recognition 2022; Joo et al., AAAI 2023; Wicker et al., ICLR
        2023.
    """
    v = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    if step is not None:
        return ((input_gradient(model, x + step * v, y) - input_gradient(model, x, y))
                / step).square().flatten(1).sum(1).mean()
    with smooth_relu(beta) if beta is not None else contextlib.nullcontext():
        z = x.detach().requires_grad_()
        along = (input_gradient(model, z, y) * v).sum()
        product = torch.autograd.grad(along, z, create_graph=True, allow_unused=True)[0]
    if product is None or not bool(product.any()):
        raise ValueError("The Hessian of this model is 0 at these inputs, as that of every ReLU "
                         "net is; pass beta, which smooths its ReLUs, or step, for finite "
                         "differences.")
    return product.square().flatten(1).sum(1).mean()


def l2_alignment(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, detach: bool = True,
                 generator: Generator | None = None) -> Tensor:
    """Change of the gradient: mean over examples of |g(x + z) - g(x)|^2, z ~ U(-eps, eps).

    g is the gradient of the target's logit.

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: radius.
        detach: hold g(x) fixed, as Joo et al. do; Wicker et al. do not.
        generator: of z.

    Source:
        Joo et al., Towards More Robust Interpretation via Local Gradient Alignment, AAAI 2023.
    """
    before, after = _pair(model, x, y, eps, detach, generator)
    return (after - before).square().sum(1).mean()


def cosine_alignment(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, detach: bool = True,
                     generator: Generator | None = None) -> Tensor:
    """Turn of the gradient: mean over examples of (1 - cos(g(x + z), g(x))) / 2, z ~ U(-eps, eps).

    Args:
        model: the classifier.
        x: (N, *S).
        y: (N,).
        eps: radius.
        detach: hold g(x) fixed.
        generator: of z.

    Source:
        Joo et al., Towards More Robust Interpretation via Local Gradient Alignment, AAAI 2023.
    """
    return (1 - F.cosine_similarity(*_pair(model, x, y, eps, detach, generator))).mean() / 2


def atex(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, smooth: int = 4,
         temperature: float = 4.0,
         teacher: nn.Module | None = None, generator: Generator | None = None) -> Tensor:
    """Adversarial training on explanations (ATEX): predictions stay the same across the direction
    that explains them.

    With s the SmoothGrad explanation of x scaled to max |s_i| = eps, a point p = x + t s along it,
    t ~ U(-1/2, 1/2), and a noise r ~ U(-eps, eps) without its part along s: the mean of
    KL(softmax(f0(p) / T), softmax(f(p + r))). No second derivative is needed.

    Args:
        model: f.
        x: (N, *S).
        y: (N,), whose logit is explained.
        eps: size of both moves.
        smooth: samples of SmoothGrad, with uniform noise of size eps.
        temperature: T, of the labels that are distilled.
        teacher: f0, a trained net as in the paper; default: the model as it is now, not
            differentiated.
        generator: of all noise.

    Source:
        Tang, Liu, Yang, Zou and Hu, Defense Against Explanation Manipulation, Frontiers in Big Data
        2022 (arXiv 2111.04303), and its code, DefIntpMan/ATEX.
    """
    s = torch.stack([input_gradient(model, x + _uniform(x, eps, generator), y, create_graph=False)
                     for _ in range(smooth)]).mean(0)
    flat = s.flatten(1)
    tiny = least(x.dtype, 0.5)
    along = eps * flat / flat.abs().amax(1, keepdim=True).clamp(min=tiny)
    unit = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=tiny)
    t = torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype) - 0.5
    p = x + (t * along).view_as(x)
    r = _uniform(x, eps, generator).flatten(1)
    r = r - (r * unit).sum(1, keepdim=True) * unit
    with torch.no_grad():
        labels = (model if teacher is None else teacher)(p).div(temperature).log_softmax(1)
    return F.kl_div(model(p + r.view_as(x)).log_softmax(1), labels, log_target=True,
                    reduction="batchmean")


# What they share


def _uniform(x: Tensor, eps: float, generator: Generator | None) -> Tensor:
    return eps * (2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1)


def _pair(model: nn.Module, x: Tensor, y: Tensor, eps: float, detach: bool,
          generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Gradients at x and at a random point of the ball, (N, D) each; the second is differentiable
    in the parameters.
    """
    before = input_gradient(model, x, y, create_graph=not detach)
    return before.flatten(1), input_gradient(model, x + _uniform(x, eps, generator), y).flatten(1)


def _worst(objective: Callable[[Tensor], Tensor], x: Tensor, eps: float, steps: int,
           clip: Clip | None, generator: Generator | None) -> Tensor:
    """A point of the ball where an objective, a mean over examples, is large: signed ascent from a
    random start.
    """
    low, high = x - eps, x + eps
    if clip is not None:
        low, high = low.clamp(*clip), high.clamp(*clip)
    z = torch.minimum(torch.maximum(x + _uniform(x, eps, generator), low), high).detach()
    for _ in range(steps):
        z.requires_grad_()
        with torch.enable_grad():
            gradient = torch.autograd.grad(objective(z), z)[0]
        z = torch.minimum(torch.maximum(z.detach() + 2.5 * eps / steps * gradient.sign(), low),
                          high)
    return z.detach()
