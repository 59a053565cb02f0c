from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.photos.preprocessing import Preprocessing
from finetune.training import batch_size_choice
from finetune.training.batch_size_choice import try_batch_sizes, with_batch_size
from finetune.training.defaults import DatasetSize, with_mode

SPEC = Preprocessing(size=32)


@pytest.fixture
def module() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)


def settled(module: nn.Module, **flags: object) -> tuple[TrainConfig, list[str]]:
    asked = resolve({}, {"device": "cpu", "mode": "full", **flags})
    config, _ = with_mode(asked, DatasetSize(photos=4000, labels=3))
    return with_batch_size(config, asked, module, SPEC, 4000)


def test_on_the_cpu_it_is_the_reference(module: nn.Module) -> None:
    config, notes = settled(module)
    assert (config.training.batch_size, config.training.lr) == (32, 0.001)
    assert notes == []


@pytest.mark.parametrize(
    ("flags", "lr", "note"),
    [
        (
            {"batch_size": 8},
            0.0005,
            "Learning rate 0.0005 for 8 photos a step: 0.001 is meant for 32, and goes with them "
            "by the square root.",
        ),
        (
            {"batch_size": 32, "accumulate": 4},
            0.002,
            "Learning rate 0.002 for 128 photos a step: 0.001 is meant for 32, and goes with them "
            "by the square root.",
        ),
    ],
)
def test_a_batch_that_a_person_gives_moves_the_learning_rate(
    module: nn.Module, flags: dict[str, object], lr: float, note: str
) -> None:
    config, notes = settled(module, **flags)
    assert config.training.lr == pytest.approx(lr)
    assert notes == [note]


def test_sgds_learning_rate_goes_in_proportion(module: nn.Module) -> None:
    usual, _ = settled(module, optimizer="sgd")
    config, notes = settled(module, optimizer="sgd", batch_size=64)
    assert config.training.lr == pytest.approx(2 * (usual.training.lr or 0))
    assert notes[0].endswith("is meant for 32, and goes with them in proportion.")


def test_a_learning_rate_that_a_person_gives_stays(module: nn.Module) -> None:
    config, notes = settled(module, batch_size=8, lr=0.01)
    assert (config.training.lr, notes) == (0.01, [])


def test_on_a_gpu_it_is_tried(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size_choice, "choose_device", lambda asked: torch.device("cuda"))
    tried: list[int] = []

    def attempt(*args: object, most: int) -> int:
        tried.append(most)
        return min(most, 64)

    monkeypatch.setattr(batch_size_choice, "try_batch_sizes", attempt)
    config, notes = settled(module)
    assert tried == [128], "4,000 photos are worth 20 steps of 128, and no more"
    assert config.training.batch_size == 64
    assert notes[0] == "Batch size 64: the most that memory holds."
    assert notes[1].startswith("Learning rate 0.00141 for 64 photos a step")
    monkeypatch.setattr(batch_size_choice, "try_batch_sizes", lambda *args, most: most)
    _, notes = settled(module)
    assert notes[0] == "Batch size 128: enough for 4,000 photos, and memory holds them."


class Tight(nn.Module):
    """A network that has memory for so many photos."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits: Tensor = self.fc(self.norm(pixels).mean((2, 3)))
        return logits


@pytest.mark.parametrize("mode", ["full", "head"])
def test_trying_leaves_the_network_as_it_was(mode: str) -> None:
    module = Tight(most=70)
    module.norm.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    config = resolve({}, {"device": "cpu", "mode": mode})
    assert try_batch_sizes(module, SPEC, torch.device("cpu"), config, most=256) == 64
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in module.parameters())
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    assert [name for name, needed in wanted.items() if not needed] == ["norm.weight"]
