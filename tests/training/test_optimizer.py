from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import list_optimizers, param_groups_layer_decay
from torch import nn

from finetune.errors import ConfigError, RunError
from finetune.models.heads import head_parameters
from finetune.models.stages import backbone_stages, norm_parameters
from finetune.training.averaging import WeightAverage
from finetune.training.checkpoints import TrainState
from finetune.training.optimizer import (
    PACKAGES,
    UNSUPPORTED,
    Rates,
    check_optimizer,
    default_lr,
    make_optimizer,
    network_groups,
    parameter_groups,
    set_lr,
)
from finetune.training.schedule import Schedule

USABLE = [
    name
    for name in [*list_optimizers(), "lookahead_adamw"]
    # Kron compiles its steps, which takes a minute; its state is like the others'.
    if not name.startswith((*PACKAGES, "kron")) and name not in UNSUPPORTED
]


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # A bias before a batch norm has no gradient but rounding, and may stay where it is.
        layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)]
        # As on a GPU or in a training: how a kernel's numbers lie in memory is part of the state.
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def state_with(optimizer: str, *, ema: float | None = None) -> TrainState:
    module = net()
    groups = parameter_groups(
        module.get_submodule("3").parameters(), part="head", lr=0.01, weight_decay=0.05
    )
    groups += parameter_groups(
        [*module.get_submodule("0").parameters(), *module.get_submodule("1").parameters()],
        part="backbone",
        lr=0.003,
        weight_decay=0.05,
    )
    average = None if ema is None else WeightAverage(module, ema)
    return TrainState(module, make_optimizer(groups, optimizer), average=average)


def steps(state: TrainState, numbers: range) -> None:
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(4, 3, 6, 6, generator=generator)
        set_lr(state.optimizer, Schedule(steps=8, warmup=0.25), number)
        state.module(images).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.average is not None:
            state.average.update(state.module, number)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USABLE)
def test_every_optimizer_goes_on_from_a_checkpoint_to_the_last_bit(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.safetensors"
    with torch.random.fork_rng():
        straight = state_with(name, ema=0.9)
        torch.manual_seed(5)
        steps(straight, range(8))
        stopped = state_with(name, ema=0.9)
        torch.manual_seed(5)
        steps(stopped, range(3))
        stopped.save(path)
        resumed = state_with(name, ema=0.9)
        torch.manual_seed(99)
        steps(resumed, range(7, 8))  # traces of another life
        resumed.load(path)
        saved = path.read_bytes()
        resumed.save(path)
        assert path.read_bytes() == saved
        steps(resumed, range(3, 8))
    assert straight.average is not None
    assert resumed.average is not None
    for key, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[key]), key
        assert torch.equal(straight.average.tensors[key], resumed.average.tensors[key]), key
    start = net().state_dict()
    assert not any(torch.equal(v, start[k]) for k, v in resumed.module.state_dict().items())


def test_half_precision_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = state_with("adamw")
    steps(state, range(2))
    parameter = state.module.get_parameter("0.weight")
    odd = {
        "moment": torch.randn(4, 3, 3, 3).bfloat16().to(memory_format=torch.channels_last),
        "list": [torch.ones(2, dtype=torch.float64), None],
        "counts": (1, 2.5, {"deep": torch.tensor(7, dtype=torch.int16)}),
        "nan": float("nan"),
    }
    state.optimizer.state[parameter] |= odd
    state.save(tmp_path / "last.safetensors")
    fresh = state_with("adamw")
    fresh.load(tmp_path / "last.safetensors")
    found = fresh.optimizer.state[fresh.module.get_parameter("0.weight")]
    assert found["moment"].dtype == torch.bfloat16
    assert found["moment"].stride() == odd["moment"].stride()  # type: ignore[attr-defined]
    assert torch.equal(found["moment"], odd["moment"])  # type: ignore[arg-type]
    assert found["list"][0].dtype == torch.float64
    assert found["list"][1] is None
    assert found["counts"][:2] == (1, 2.5)
    assert found["counts"][2]["deep"].dtype == torch.int16
    assert found["nan"] != found["nan"]


def test_state_that_no_file_can_hold_is_named(tmp_path: Path) -> None:
    state = state_with("adamw")
    steps(state, range(1))
    state.optimizer.state[state.module.get_parameter("0.weight")]["odd"] = object()
    with pytest.raises(TypeError, match="is object, which a checkpoint cannot store"):
        state.save(tmp_path / "last.safetensors")


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    state = state_with("adamw")
    steps(state, range(1))
    state.save(tmp_path / "last.safetensors")
    other = nn.Linear(2, 2)
    groups = parameter_groups(other.parameters(), part="head", lr=0.1, weight_decay=0)
    with pytest.raises(RunError, match="cannot be resumed"):
        TrainState(other, make_optimizer(groups)).load(tmp_path / "last.safetensors")


def test_an_unknown_optimizer_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as error:
        check_optimizer("adamwv")
    assert str(error.value).startswith(
        "--optimizer adamwv: timm has no such optimizer; did you mean adamw"
    )
    with pytest.raises(ConfigError) as error:
        check_optimizer("qqqqqqqqqqqq")
    assert str(error.value) == (
        "--optimizer qqqqqqqqqqqq: timm has no such optimizer; choose, for example, adamw, "
        "sgd, lamb, muon, lion, adafactor."
    )


def test_optimizers_that_cannot_be_used_here_say_why() -> None:
    with pytest.raises(ConfigError) as error:
        check_optimizer("adahessian")
    assert str(error.value) == (
        "--optimizer adahessian needs second derivatives, which this loop does not compute."
    )
    with pytest.raises(ConfigError) as error:
        check_optimizer("fusedlamb", "cpu")
    assert str(error.value) == "--optimizer fusedlamb needs CUDA and the package apex."


def test_a_usual_rate_goes_with_the_kind_of_optimizer() -> None:
    assert default_lr("adamw") == default_lr("adafactor") == default_lr("lookahead_radam") == 0.001
    assert default_lr("sgd") == default_lr("lookahead_sgd") == default_lr("nesterov") == 0.01
    assert default_lr("lion") < default_lr("adamw") < default_lr("lamb")


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_convnext"])
def test_layer_decay_is_that_of_timm(model: str) -> None:
    module = timm.create_model(model, num_classes=4)
    asked = set(module.no_weight_decay()) if hasattr(module, "no_weight_decay") else set()
    theirs: dict[int, tuple[float, float]] = {}
    for group in param_groups_layer_decay(
        module, weight_decay=0.05, layer_decay=0.7, no_weight_decay_list=asked
    ):
        for parameter in group["params"]:
            theirs[id(parameter)] = (group["lr_scale"], group["weight_decay"])
    head = {id(p) for p in head_parameters(module)}
    rates = Rates(head=0.01, backbone=0.01, layer_decay=0.7, weight_decay=0.05)
    groups = network_groups(module, rates)
    seen = 0
    for group in groups:
        for parameter in group["params"]:
            seen += 1
            scale, decay = theirs[id(parameter)]
            assert group["base_lr"] == pytest.approx(0.01 * scale, rel=1e-12)
            assert group["weight_decay"] == (decay if parameter.ndim > 1 else 0)
            assert group["part"] == ("head" if id(parameter) in head else "backbone")
    assert seen == len(list(module.parameters()))


def test_layer_decay_is_the_formula_on_a_resnet() -> None:
    module = timm.create_model("test_resnet", num_classes=4)
    rates = Rates(head=1.0, backbone=0.5, layer_decay=0.5, weight_decay=0.0)
    found = {
        id(p): group["base_lr"] for group in network_groups(module, rates) for p in group["params"]
    }
    blocks = [block for number in range(1, 5) for block in getattr(module, f"layer{number}", [])]
    for depth, block in enumerate(reversed(blocks), start=1):
        for parameter in block.parameters():
            assert found[id(parameter)] == pytest.approx(0.5 * 0.5**depth, rel=1e-12)
    stem = 0.5 * 0.5 ** (len(blocks) + 1)
    for parameter in module.conv1.parameters():
        assert found[id(parameter)] == pytest.approx(stem, rel=1e-12)


def test_stages_that_open_late_have_groups_of_their_own() -> None:
    module = timm.create_model("test_resnet", num_classes=4)
    stages = backbone_stages(module)
    steps = [10 * n for n in range(len(stages), 0, -1)]
    first = {name: step for stage, step in zip(stages, steps, strict=True) for name in stage}
    rates = Rates(head=0.1, backbone=0.01, weight_decay=0.05)
    optimizer = make_optimizer(network_groups(module, rates, first_steps=first))
    names = {id(p): name for name, p in module.named_parameters()}
    schedule = Schedule(steps=100, warmup=0.0, shape="constant")
    for step in (0, 15, 35, 99):
        set_lr(optimizer, schedule, step)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                expected = 0.01 * (step >= first[name]) if name in first else 0.1
                assert group["lr"] == pytest.approx(expected), (name, step)


def test_norm_layers_can_be_left_out() -> None:
    module = timm.create_model("test_resnet", num_classes=4)
    never = norm_parameters(module)
    rates = Rates(head=0.1, backbone=0.01, weight_decay=0.05)
    groups = network_groups(module, rates, frozen=never)
    names = {id(p): name for name, p in module.named_parameters()}
    trained = {names[id(p)] for group in groups for p in group["params"]}
    assert trained == set(names.values()) - never
    assert never


def test_a_position_embedding_does_not_decay() -> None:
    module = timm.create_model("test_vit", num_classes=4)
    rates = Rates(head=0.1, backbone=0.01, weight_decay=0.05)
    decays: dict[int, Any] = {
        id(p): group["weight_decay"]
        for group in network_groups(module, rates)
        for p in group["params"]
    }
    assert decays[id(module.pos_embed)] == 0
    assert decays[id(module.patch_embed.proj.weight)] == 0.05
    assert decays[id(module.head.weight)] == 0.05


def test_muon_leaves_the_head_to_adamw() -> None:
    body, head = nn.Linear(32, 32), nn.Linear(32, 16)
    groups = parameter_groups(head.parameters(), part="head", lr=0.01, weight_decay=0.05)
    groups += parameter_groups(body.parameters(), part="backbone", lr=0.01, weight_decay=0.05)
    optimizer = make_optimizer(groups, "muon")
    head(body(torch.ones(4, 32))).square().sum().backward()
    optimizer.step()
    used = {part: set(optimizer.state[layer.weight]) for part, layer in [("b", body), ("h", head)]}
    assert "momentum_buffer" in used["b"]
    assert "exp_avg_sq" not in used["b"]
    assert "exp_avg_sq" in used["h"]
    assert "momentum_buffer" not in used["h"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_on_cuda_adamw_is_fused_and_state_comes_back_to_its_device(
    name: str, tmp_path: Path
) -> None:
    def on_cuda() -> TrainState:
        module = net().cuda()
        groups = parameter_groups(module.parameters(), part="head", lr=0.01, weight_decay=0.05)
        return TrainState(module, make_optimizer(groups, name))

    def step(state: TrainState) -> None:
        generator = torch.Generator("cuda").manual_seed(1)
        images = torch.randn(4, 3, 6, 6, generator=generator, device="cuda")
        state.module(images).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()

    state, fresh = on_cuda(), on_cuda()
    if name == "adamw":
        assert all(group["fused"] for group in state.optimizer.param_groups)
    step(state)
    state.save(tmp_path / "last.safetensors")
    fresh.load(tmp_path / "last.safetensors")
    for one, other in zip(state.module.parameters(), fresh.module.parameters(), strict=True):
        ours, theirs = state.optimizer.state[one], fresh.optimizer.state[other]
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            if isinstance(value, torch.Tensor):
                assert theirs[key].device == value.device
                assert theirs[key].stride() == value.stride()
                assert torch.equal(theirs[key], value)
    step(fresh)
