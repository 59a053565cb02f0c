from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional

from finetune.models.linear_solver import LinearHead, LinearSolver, standardization
from finetune.tasks.losses import binary_cross_entropy


def problem(labels: int = 4, photos: int = 60, width: int = 12) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    targets = rng.permutation(np.arange(photos) % labels)
    centers = rng.normal(0, 1, (labels, width))
    features = centers[targets] + rng.normal(0, 1.5, (photos, width))
    scales = 10.0 ** rng.uniform(-1, 2, width)
    return torch.from_numpy(features * scales + 3).float(), torch.from_numpy(targets)


def scaled(features: Tensor, asked: Tensor | None = None) -> NDArray[np.float64]:
    """Features as the penalty sees them, in float64; of other photos on the same scale."""
    x = features.double().numpy()
    variance = x.var(0)
    shrunken = (len(x) * variance + 100 * variance.mean()) / (len(x) + 100)
    of = x if asked is None else asked.double().numpy()
    found: NDArray[np.float64] = (of - x.mean(0)) / np.sqrt(shrunken)
    return found


def probe_of(features: Tensor, targets: Tensor, **more: LinearHead | None) -> LinearSolver:
    return LinearSolver(
        features.clone(), targets, outputs=4, loss=functional.cross_entropy, start=more.get("start")
    )


def scikit_learns(
    features: Tensor, targets: Tensor, strength: float
) -> tuple[Callable[[Tensor], np.ndarray], float]:
    """Probabilities and objective of scikit-learn's minimum, in float64."""
    x = scaled(features)
    model = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=20_000)
    model.fit(x, targets.numpy())
    shares = model.predict_proba(x)[np.arange(len(x)), targets.numpy()]
    objective = -np.log(shares).mean() + strength / 2 * np.square(model.coef_).sum()

    def probabilities(asked: Tensor) -> np.ndarray:
        found: np.ndarray = model.predict_proba(scaled(features, asked))
        return found

    return probabilities, float(objective)


@pytest.mark.parametrize("strength", [0.001, 0.03, 1.0])
@pytest.mark.parametrize("width", [12, 200], ids=["more photos", "more features"])
def test_the_minimum_is_scikit_learns_logistic_regression(strength: float, width: int) -> None:
    features, targets = problem(width=width)
    probe = probe_of(features, targets)
    expected, lowest = scikit_learns(features, targets, strength)
    assert probe.solve(strength).objective == pytest.approx(lowest, abs=1e-4)
    solution = probe.solve(strength, tolerance=1e-6)
    new = features.flip(0) * 1.1
    found = probe.head(solution)(new).softmax(1)
    np.testing.assert_allclose(found, expected(new), atol=5e-3)
    # The coordinates and the raw features give the same logits.
    everything = torch.arange(len(features))
    logits = probe.head(solution)(features)
    torch.testing.assert_close(probe.logits(solution, everything), logits, atol=1e-3, rtol=1e-3)


def test_a_minimum_does_not_depend_on_where_it_starts() -> None:
    features, targets = problem()
    probe = probe_of(features, targets)
    cold = probe.solve(0.01, tolerance=1e-6)
    warm = probe.solve(0.01, start=probe.solve(1.0), tolerance=1e-6)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-3, rtol=1e-3)
    # And from a neighbor it is found in fewer passes.
    assert probe.solve(0.009, start=cold).evals < probe.solve(0.009).evals


def test_some_rows_are_fitted_as_if_they_were_alone() -> None:
    features, targets = problem(photos=90)
    rows = torch.arange(0, 90, 2)
    probe = probe_of(features, targets)
    solution = probe.solve(0.05, rows=rows)
    # Rows share the standardization of all, so the reference is given the same scale.
    x = scaled(features)
    model = LogisticRegression(C=1 / (0.05 * len(rows)), tol=1e-10, max_iter=20_000)
    model.fit(x[rows], targets[rows].numpy())
    held_out = torch.arange(1, 90, 2)
    found = probe.logits(solution, held_out).softmax(1)
    np.testing.assert_allclose(found, model.predict_proba(x[held_out]), atol=5e-3)


def test_the_first_rows_are_fitted_as_if_they_were_alone() -> None:
    features, targets = problem(photos=90)
    probe = probe_of(features, targets)
    x, first = scaled(features), np.arange(45)
    model = LogisticRegression(C=1 / (0.05 * len(first)), tol=1e-10, max_iter=20_000)
    model.fit(x[first], targets[first].numpy())
    shares = model.predict_proba(x[first])[first, targets[first].numpy()]
    objective = -np.log(shares).mean() + 0.05 / 2 * np.square(model.coef_).sum()
    for rows in (torch.arange(45), torch.arange(44, -1, -1)):
        solution = probe.solve(0.05, rows=rows, tolerance=1e-6)
        # float32 cannot tell objectives apart that differ by less.
        assert solution.objective == pytest.approx(objective, rel=1e-6)
        found = probe.logits(solution, torch.arange(90)).softmax(1)
        np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-3)


def test_several_labels_are_as_many_regressions() -> None:
    features, one = problem()
    targets = torch.stack([one == 0, (one == 1) | (one == 2), one != 3], 1).float()

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        return binary_cross_entropy(logits, truth, label_smoothing=0.0)

    probe = LinearSolver(features.clone(), targets, outputs=3, loss=loss)
    logits = probe.head(probe.solve(0.05))(features)
    x = scaled(features)
    for label in range(3):
        model = LogisticRegression(C=1 / (0.05 * len(one)), tol=1e-10, max_iter=10_000)
        expected = model.fit(x, targets[:, label].numpy()).predict_proba(x)[:, 1]
        np.testing.assert_allclose(logits[:, label].sigmoid(), expected, atol=5e-3)


def test_a_start_is_what_the_penalty_pulls_towards() -> None:
    features, _ = problem(photos=80)
    rng = np.random.default_rng(2)
    start = LinearHead(torch.from_numpy(rng.normal(0, 0.1, (1, 12))).float(), torch.tensor([0.5]))
    values = torch.from_numpy(rng.normal(0, 1, (80, 1))).float()

    def squares(logits: Tensor, truth: Tensor) -> Tensor:
        return (logits - truth).square().sum(1).mean() / 2

    probe = LinearSolver(features.clone(), values, outputs=1, loss=squares, start=start)
    found = probe.head(probe.solve(0.3, tolerance=1e-6))
    # Ridge regression of what the start leaves over.
    x = scaled(features)
    left = (values - start(features)).double().numpy()
    ridge = Ridge(alpha=0.3 * len(x)).fit(x, left)
    expected = start(features).double().numpy() + ridge.predict(x).reshape(-1, 1)
    np.testing.assert_allclose(found(features), expected, atol=3e-3)
    still = probe.head(probe.solve(1e9))
    torch.testing.assert_close(still.weight, start.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("photos", [60, 8], ids=["more photos", "more features"])
def test_a_constant_feature_has_weight_zero(photos: int) -> None:
    features, targets = problem(photos=photos)
    features[:, 3] = 7.0
    features[:, 4] = 1e4 + torch.arange(photos) * 1e-3  # rounding errors and little else
    features[:, 5] *= 1e-6
    probe = probe_of(features, targets)
    head = probe.head(probe.solve(0.01))
    assert torch.equal(head.weight[:, 3:6], torch.zeros(4, 3))
    assert torch.isfinite(head.weight).all()


def test_deviations_of_few_photos_are_shrunk_towards_the_common_one() -> None:
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.normal(4, 1, (10_000, 12)) * rng.uniform(0.5, 2, 12)).float()
    for photos in (5, 10_000):
        some = features[:photos]
        mean, scale = standardization(some)
        np.testing.assert_allclose(mean, some.double().numpy().mean(0), rtol=1e-5)
        np.testing.assert_allclose((some - mean) * scale, scaled(some), atol=1e-4)
    # All photos give each feature's own deviation, five photos nearly the same one to all.
    np.testing.assert_allclose(1 / scale, features.double().numpy().std(0), rtol=0.03)
    few = 1 / standardization(features[:5])[1]
    assert few.max() / few.min() < 1.5


@pytest.mark.parametrize("width", [12, 200], ids=["more photos", "more features"])
@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_a_discriminant_is_scikit_learns_with_a_shrunken_covariance(
    width: int, shrinkage: float
) -> None:
    features, targets = problem(width=width, photos=90)
    probe = probe_of(features, targets)
    rows = torch.arange(0, 90, 2)
    found = probe.discriminant(shrinkage, rows=rows)
    x = scaled(features)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    model.fit(x[rows], targets[rows].numpy())
    logits = probe.logits(found, torch.arange(90))
    expected = model.predict_log_proba(x)
    np.testing.assert_allclose(logits.log_softmax(1), expected, atol=2e-2 * abs(expected).max())
    raw = probe.head(found)(features)
    torch.testing.assert_close(raw, logits, atol=1e-2, rtol=1e-3)


def test_a_discriminant_knows_nothing_of_a_label_without_photos() -> None:
    features, targets = problem(photos=60)
    probe = probe_of(features, targets)
    rows = torch.nonzero(targets != 2).flatten()
    found = probe.discriminant(0.3, rows=rows)
    assert torch.equal(found.weight[2], torch.zeros_like(found.weight[2]))
    assert torch.isfinite(found.bias).all()


def test_a_label_without_photos_costs_no_passes() -> None:
    features, targets = problem(photos=120)
    rows = torch.nonzero(targets != 3)[:, 0]
    probe = probe_of(features, targets)
    solution = probe.solve(0.01, rows=rows)
    assert solution.evals <= probe.solve(0.01).evals + 5
    shares = probe.logits(solution, rows).softmax(1)
    assert float(shares[:, 3].max()) < 1e-4
    x = scaled(features)
    model = LogisticRegression(C=1 / (0.01 * len(rows)), tol=1e-10, max_iter=20_000)
    model.fit(x[rows], targets[rows].numpy())
    np.testing.assert_allclose(shares[:, :3], model.predict_proba(x[rows]), atol=5e-3)
