"""L2-regularized linear classifiers on fixed features, solved to their minimum.

The objective of a head with weight ``W (C, F)`` and bias ``b (C,)`` is

    mean loss(X W' + b, targets) + strength / 2 * |W|^2,

with ``X`` the features after `standardization`. With cross-entropy it is scikit-learn's
``LogisticRegression(C=1 / (strength * N))`` on them. It is convex: the minimum depends on no seed
and no learning rate.

It is found by L-BFGS (Nocedal and Wright 2006, algorithms 7.5 and 3.5) in coordinates in which the
curvature is nearly the same in all directions. The Hessian is close to the product of the features'
covariance and the labels' ``f (1 - f)`` (Boehning 1992, "Multinomial logistic regression
algorithm"), so the features are rotated to their principal axes once, which leaves the penalty as
it is, and each coordinate is scaled by ``1 / sqrt(variance * f (1 - f) + strength)``. Some ten to
thirty passes over the photos then do for any strength. With fewer photos than features the axes
are found among the photos, and only as many coordinates remain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.models.threads import cpu_threads, threads_for_products

Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of logits ``(N, C)`` and targets."""

MAX_EVALS = 200
"""Largest number of passes over the photos for one strength."""

CHUNK = 8192
"""Photos that are rotated at a time."""

SHRINKAGE = 100
"""Photos that the common variance of all features counts for; see `standardization`."""

ROUNDING, CONSTANT = 1e-5, 1e-3
"""Relative deviations below which a feature is constant; see `standardization`."""

SMALLEST_SHARE = 1e-3
"""Least share of the photos assumed for a label when its curvature is estimated."""

NO_SHARE = 1e-6
"""Share of the photos assumed at first for a label without a photo."""


@dataclass(frozen=True)
class LinearHead:
    """Linear layer on raw features.

    Attributes:
        weight: ``(C, F) float32``.
        bias: ``(C,) float32``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Returns logits ``(N, C)`` of features ``(N, F)``."""
        return torch.addmm(self.bias, features, self.weight.T)


@dataclass(frozen=True)
class Solution:
    """Minimum for one strength, in the coordinates of its problem.

    Attributes:
        weight: ``(C, R)``.
        bias: ``(C,)``.
        objective: Value of the objective; NaN for a discriminant, which has none.
        evals: Evaluations of the objective that it took.
    """

    weight: Tensor
    bias: Tensor
    objective: float
    evals: int


class LinearSolver:
    """Features in coordinates that make many fits on parts of them fast.

    Args:
        features: ``(N, F) float32``; overwritten.
        targets: ``(N,) int64``, or ``(N, C) float`` where a photo may have several labels.
        outputs: C.
        loss: Mean loss, convex in the logits.
        start: Head that the penalty pulls towards, instead of zero.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        *,
        outputs: int,
        loss: Loss,
        start: LinearHead | None = None,
    ) -> None:
        self.targets = targets
        self.outputs = outputs
        self.loss = loss
        self.start = start
        self.offset = None if start is None else start(features)  # (N, C)
        self.mean, self.scale = standardization(features)
        features.sub_(self.mean).mul_(self.scale)
        self.coordinates, self.axes, self.variance = _principal_axes(features)
        self.curvature = _label_curvature(targets, outputs).to(features)

    def solve(
        self,
        strength: float,
        *,
        rows: Tensor | None = None,
        start: Solution | None = None,
        tolerance: float = 1e-5,
    ) -> Solution:
        """Returns the minimum for a strength.

        Args:
            strength: L2 strength, at least 0.
            rows: ``(K,) int64``, the photos to fit on; None: all.
            start: Solution of another strength or other photos to start from.
            tolerance: Largest entry of the gradient, in the scaled coordinates, at which it stops.
        """
        coordinates, targets, offset = self.coordinates, self.targets, self.offset
        if rows is not None:
            # The first photos need no copy: a training part stands before its validation part.
            leading = torch.equal(rows, torch.arange(len(rows), device=rows.device))
            coordinates = coordinates[: len(rows)] if leading else coordinates[rows]
            targets = targets[rows]
            offset = None if offset is None else offset[rows]
        curvature = torch.outer(self.curvature, self.variance)
        scale = (curvature + max(strength, 1e-9)).rsqrt()  # (C, R)
        bias_scale = self.curvature.rsqrt()
        point = torch.zeros(self.outputs, len(self.variance) + 1, device=coordinates.device)
        if start is not None:
            point[:, :-1] = start.weight / scale
            point[:, -1] = start.bias / bias_scale
        elif offset is None:
            # The bias of a label without a photo has no minimum, and would cost many passes.
            point[:, -1] = _prior(targets, self.outputs).to(point) / bias_scale
        evals = 0

        def objective() -> Tensor:
            nonlocal evals
            evals += 1
            weight = point[:, :-1] * scale
            bias = point[:, -1] * bias_scale
            logits = torch.addmm(bias, coordinates, weight.T)
            if offset is not None:
                logits += offset
            logits.requires_grad_()
            with torch.enable_grad():
                fit = self.loss(logits, targets)
                (slope,) = torch.autograd.grad(fit, logits)
            penalty = strength * weight
            point.grad = torch.cat(
                [
                    (slope.T @ coordinates + penalty) * scale,
                    (slope.sum(0) * bias_scale)[:, None],
                ],
                dim=1,
            )
            return fit.detach() + (penalty * weight).sum() / 2

        solver = torch.optim.LBFGS(
            [point],
            max_iter=MAX_EVALS,
            max_eval=MAX_EVALS,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )
        with cpu_threads(threads_for_products(*coordinates.shape, self.outputs)):
            solver.step(objective)  # type: ignore[no-untyped-call]
            used = evals
            return Solution(
                weight=point[:, :-1] * scale,
                bias=point[:, -1] * bias_scale,
                objective=float(objective()),
                evals=used,
            )

    def discriminant(self, shrinkage: float, *, rows: Tensor | None = None) -> Solution:
        """Returns the linear discriminant analysis with a shrunken covariance.

        ``W = S^-1 M`` and ``b = -M S^-1 M / 2 + log prior`` with M the labels' means and
        ``S = (1 - shrinkage) S_w + shrinkage tr(S_w) / F I``, S_w the covariance within labels
        (Friedman 1989, "Regularized Discriminant Analysis"). A label without a photo has its mean
        at the origin and half a photo.

        Args:
            shrinkage: In (0, 1].
            rows: As for `solve`.
        """
        coordinates, targets = self.coordinates, self.targets
        if rows is None:
            rows = torch.arange(len(targets), device=targets.device)
        targets = targets[rows]
        counts = torch.bincount(targets, minlength=self.outputs).double()
        sums = torch.zeros(self.outputs, coordinates.shape[1], device=coordinates.device)
        # In chunks: a copy of the photos would be the largest array of a training.
        chunks = list(zip(torch.split(rows, CHUNK), torch.split(targets, CHUNK), strict=True))
        for some, labels in chunks:
            sums.index_add_(0, labels, coordinates[some])
        means = sums / counts.clamp_min(1)[:, None].float()
        width = coordinates.shape[1]
        covariance = torch.zeros(width, width, dtype=torch.float64, device=coordinates.device)
        for some, labels in chunks:
            centered = coordinates[some] - means[labels]
            covariance += (centered.T @ centered).double()
        covariance /= len(targets)
        common = covariance.trace() / self.axes.shape[0]
        covariance *= 1 - shrinkage
        covariance.diagonal().add_(shrinkage * common.clamp_min(torch.finfo(torch.float32).tiny))
        factor = torch.linalg.cholesky(covariance)
        weight = torch.cholesky_solve(means.double().T, factor).T
        prior = (counts.clamp_min(0.5) / len(targets)).log()
        bias = prior - (weight * means.double()).sum(1) / 2
        return Solution(weight=weight.float(), bias=bias.float(), objective=math.nan, evals=1)

    def logits(self, solution: Solution, rows: Tensor) -> Tensor:
        """Returns the logits ``(K, C)`` of some of the photos."""
        found = torch.addmm(solution.bias, self.coordinates[rows], solution.weight.T)
        return found if self.offset is None else found + self.offset[rows]

    def head(self, solution: Solution) -> LinearHead:
        """Returns a solution as a linear layer on raw features."""
        weight = (solution.weight @ self.axes.T).double() * self.scale.double()
        bias = solution.bias.double() - weight @ self.mean.double()
        if self.start is not None:
            weight = weight + self.start.weight.double()
            bias = bias + self.start.bias.double()
        return LinearHead(weight.float(), bias.float())


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean ``(F,)`` and one over the shrunken deviation ``(F,)``, 0 for a constant feature.

    The deviations of few photos say little: divided by them, the features that happen to vary least
    weigh most. So each variance v is shrunk towards the mean V of all,
    ``(N v + SHRINKAGE V) / (N + SHRINKAGE)``, as in an empirical Bayes estimate (Efron and Morris
    1973). By `benchmarks/few_photos.py` heads of 1 to 10 photos a label gain much by it, and larger
    ones lose nothing.

    A feature counts as constant where its deviation is below `ROUNDING` of its mean, or below
    `CONSTANT` of the deviation of all features: scaled up, rounding errors would be its content.
    """
    variance, mean = torch.var_mean(features, 0, correction=0)
    deviation = variance.sqrt()
    usual = CONSTANT * variance.mean().sqrt()
    varies = deviation > torch.maximum(ROUNDING * mean.abs(), usual)
    count = len(features)
    shrunken = (count * variance + SHRINKAGE * variance.mean()) / (count + SHRINKAGE)
    return mean, torch.where(varies, shrunken.rsqrt(), 0.0)


def _principal_axes(standard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotates standardized features ``(N, F)``, which are overwritten where N >= F.

    Returns:
        Coordinates ``(N, R)``, orthonormal axes ``(F, R)``, and variances ``(R,)``.
    """
    count, width = standard.shape
    if count < width:
        values, vectors = torch.linalg.eigh((standard @ standard.T).double())
        kept = values > values[-1] * 1e-6
        roots = values[kept].sqrt()
        vectors = vectors[:, kept]
        axes = (standard.T.double() @ (vectors / roots)).float()
        return (vectors * roots).float(), axes, (values[kept] / count).float()
    values, vectors = torch.linalg.eigh((standard.T @ standard).double() / count)
    axes = vectors.float()
    for start in range(0, count, CHUNK):
        standard[start : start + CHUNK] = standard[start : start + CHUNK] @ axes
    return standard, axes, values.clamp_min(0).float()


def _shares(targets: Tensor, outputs: int) -> Tensor:
    """Returns the share of the photos with each label, ``(C,) float64``."""
    if targets.ndim == 1:
        return torch.bincount(targets, minlength=outputs).double() / len(targets)
    return targets.double().mean(0)


def _prior(targets: Tensor, outputs: int) -> Tensor:
    """Returns the logits ``(C,)`` of the labels' shares of the photos."""
    share = _shares(targets, outputs).clamp(NO_SHARE, 1 - NO_SHARE)
    return share.log() if targets.ndim == 1 else share.logit()


def _label_curvature(targets: Tensor, outputs: int) -> Tensor:
    """Returns ``f (1 - f)`` of the share f of photos with each label, ``(C,)``."""
    share = _shares(targets, outputs).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    return share * (1 - share)
