from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from finetune.models.heads import FeatureHeads, chosen_head
from finetune.training.optimizer import make_optimizer

STRENGTHS = (0.05, 0.5)


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 8)) * 4 + 3 * np.eye(3, 8)[targets] + 5
    return torch.tensor(features, dtype=torch.float32), torch.from_numpy(targets)


def trained(
    features: torch.Tensor, targets: torch.Tensor, strengths: tuple[float, ...], steps: int
) -> FeatureHeads:
    heads = FeatureHeads(features.mean(0), features.std(0, correction=0), 3, strengths=strengths)
    optimizer = make_optimizer(heads.parameter_groups(lr=0.02), "adam")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        loss = functional.cross_entropy(heads(features), torch.cat([targets] * len(heads)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return heads


def test_heads_side_by_side_are_heads_alone(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    both = trained(*data, STRENGTHS, 30)
    for index, strength in enumerate(STRENGTHS):
        alone = trained(*data, (strength,), 30)
        assert torch.allclose(both[index].linear.weight, alone[0].linear.weight, atol=1e-5)
        assert torch.allclose(both[index].linear.bias, alone[0].linear.bias, atol=1e-5)
    assert not torch.allclose(both[0].linear.weight, both[1].linear.weight, atol=1e-2)


def test_each_head_is_scikit_learns_logistic_regression(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    features, targets = data
    heads = trained(features, targets, STRENGTHS, 1500)
    standard = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    for head, strength in zip(heads, STRENGTHS, strict=True):
        model = LogisticRegression(C=1 / (strength * len(targets)), tol=1e-8, max_iter=5000)
        model.fit(standard, targets)
        expected = model.predict_log_proba(standard)
        log_probabilities = head(features).log_softmax(1).detach().numpy()
        assert np.abs(log_probabilities - expected).max() < 0.01


def test_rows_stand_head_by_head(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, _ = data
    heads = trained(*data, STRENGTHS, 5)
    with torch.no_grad():
        together = heads(features).view(2, 60, 3)
        for index, head in enumerate(heads):
            assert torch.equal(together[index], head(features))


def test_the_lowest_loss_is_chosen_and_the_simplest_of_equals() -> None:
    heads = FeatureHeads(torch.zeros(2), torch.ones(2), 2, strengths=(0.1, 0.2, 0.3))
    assert heads.choose([0.5, 0.4, 0.6]) is heads[1]
    assert heads.choose([0.4, 0.4, 0.6]) is heads[1]
    assert int(heads.state_dict()["chosen"]) == 1


def test_a_checkpoint_gives_back_its_chosen_head(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    heads = trained(*data, STRENGTHS, 5)
    heads.choose([1.0, 0.5])
    found = chosen_head(heads.state_dict())
    assert found is not None
    with torch.no_grad():
        assert torch.equal(found(data[0]), heads[1](data[0]))
    assert chosen_head({"fc.weight": torch.zeros(2, 2)}) is None
