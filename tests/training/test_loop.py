from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from torch import nn

from finetune.errors import ConfigError, StorageError
from finetune.tasks.base import Objective
from finetune.tasks.single_label import SingleLabel
from finetune.training import checkpoints as state_module
from finetune.training.averaging import best_first, decay_at
from finetune.training.checkpoints import TrainState, read_position, remove_partial_files
from finetune.training.events import EpochDone, Event, Note, Validated
from finetune.training.validation import SHARPNESS, score_outputs

Toys = Callable[..., Any]


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    found = dict(state.module.state_dict())
    if state.average is not None:
        found |= {f"average.{name}": value for name, value in state.average.tensors.items()}
    return found


def assert_same_bytes(one: TrainState, other: TrainState) -> None:
    ours, theirs = tensors_of(one), tensors_of(other)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.numpy().tobytes() == theirs[name].numpy().tobytes(), name


def epochs_of(events: list[Event]) -> list[EpochDone]:
    return [event for event in events if isinstance(event, EpochDone)]


def test_the_weights_of_the_latest_checkpoints_are_kept(toy: Toys, tmp_path: Path) -> None:
    settings = {"checkpoint_steps": 2, "keep_checkpoints": 3}
    whole = toy(
        "whole", ema=0.9, loop_config={**settings, "steps_folder": tmp_path / "whole-steps"}
    )
    assert whole.steps_per_epoch == 4
    state = whole.train()
    names = [f"step-{step:06d}.safetensors" for step in (8, 10, 12)]
    assert sorted(file.name for file in (tmp_path / "whole-steps").iterdir()) == names
    last = load_file(tmp_path / "whole-steps" / names[-1])
    assert all(torch.equal(value, last[name]) for name, value in state.average.tensors.items())
    # A training that is resumed has the same files.
    cut = toy("cut", ema=0.9, loop_config={**settings, "steps_folder": tmp_path / "cut-steps"})
    cut.train(stop=lambda state: state.position.epoch == 1 and state.position.step == 3)
    cut.train()
    for name in names:
        assert (tmp_path / "cut-steps" / name).read_bytes() == (
            tmp_path / "whole-steps" / name
        ).read_bytes()


@pytest.mark.parametrize("batches", [2, 3])
def test_accumulated_batches_make_the_step_of_the_large_batch(toy: Toys, batches: int) -> None:
    # Without chance and batch norm, a step is a function of its photos alone. 26 photos are no
    # whole number of steps, and the last step has an incomplete batch.
    changes = {"norm": False, "dropout": 0.0}
    many = toy("many", batch_size=4, accumulate=batches, **changes)
    large = toy("large", batch_size=4 * batches, **changes)
    assert many.steps_per_epoch == large.steps_per_epoch
    one, other = many.train(), large.train()
    for name, value in one.module.state_dict().items():
        assert value.numpy() == pytest.approx(other.module.state_dict()[name].numpy(), abs=1e-5)
    for left, right in zip(epochs_of(many.events), epochs_of(large.events), strict=True):
        assert left.train_loss == pytest.approx(right.train_loss, abs=1e-6)
        assert left.train_accuracy == right.train_accuracy


def test_a_step_clips_as_torch_does(toy: Toys) -> None:
    small = 0.01
    changes = {"norm": False, "dropout": 0.0, "epochs": 1, "batch_size": 26, "optimizer": "sgd"}
    clipped = toy("clipped", loop_config={"clip_norm": small}, **changes)
    by_hand = clipped.state()
    numbers = next(clipped.numbers(by_hand).batches(0, 0))
    loss = (
        SingleLabel()
        .objective(label_smoothing=0.1)
        .loss(by_hand.module(numbers.inputs), numbers.targets)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(by_hand.module.parameters(), small)
    assert norm > 10 * small
    by_hand.optimizer.step()
    for name, value in clipped.train().module.state_dict().items():
        assert value.numpy() == pytest.approx(by_hand.module.state_dict()[name].numpy(), abs=1e-7)


def test_a_gradient_shorter_than_the_norm_is_left_alone(toy: Toys) -> None:
    assert_same_bytes(toy("plain").train(), toy("clipped", loop_config={"clip_norm": 1e6}).train())
    assert not torch.equal(
        toy("again").train().module[0].weight,
        toy("short", loop_config={"clip_norm": 1e-3}, optimizer="sgd").train().module[0].weight,
    )


def test_the_average_is_what_is_validated_and_kept(toy: Toys) -> None:
    run = toy(ema=0.8)
    seen: list[np.ndarray] = []

    def look(event: Event) -> None:
        run.events.append(event)
        if isinstance(event, Validated):
            seen.append(event.module.get_parameter("0.weight").detach().numpy().copy())

    state = run.train(callback=look)
    assert state.average is not None
    # An average by hand of the weights after each step, from the same training without one.
    plain = toy("plain")
    expected: dict[str, np.ndarray] = {}
    trail = _trail_of_weights(plain)
    for update, weights in enumerate(trail):
        decay = decay_at(update, 0.8)
        for name, value in weights.items():
            before = expected.get(name, value)
            expected[name] = decay * before + (1 - decay) * value
    for name, value in expected.items():
        assert state.average.tensors[name].numpy() == pytest.approx(value, abs=1e-6)
    assert seen[-1] == pytest.approx(expected["0.weight"], abs=1e-6)
    best = load_file(run.folder / "best.safetensors")
    best_epoch = state.position.best_epoch
    assert best["0.weight"].numpy() == pytest.approx(seen[best_epoch - 1], abs=0)
    assert not np.allclose(seen[-1], state.module[0].weight.detach().numpy())


def _trail_of_weights(run: Any) -> list[dict[str, np.ndarray]]:
    trail: list[dict[str, np.ndarray]] = []
    state = run.state()
    step = state.optimizer.step

    def stepped(*args: Any, **keywords: Any) -> Any:
        result = step(*args, **keywords)
        found = state.module.state_dict().items()
        trail.append({n: v.numpy().astype(np.float64) for n, v in found if v.is_floating_point()})
        return result

    state.optimizer.step = stepped
    run.train(state=state)
    return trail


def test_patience_ends_a_training_that_gets_no_better(toy: Toys) -> None:
    # A rate this high never gets anywhere after the first epochs.
    run = toy(epochs=40, lr=3.0, optimizer="sgd", loop_config={"patience": 3})
    state = run.train()
    done = epochs_of(run.events)
    best = max(
        range(len(done)), key=lambda i: (done[i].validation_accuracy, -done[i].validation_loss)
    )
    assert len(done) == state.position.epoch == best + 1 + 3 < 40
    assert [e.text for e in run.events if isinstance(e, Note)] == [
        f"No epoch after epoch {best + 1} was better, so the training ended after {len(done)} of "
        "40 epochs (--patience 3)."
    ]
    # Resumed, it knows that it is over.
    run.events.clear()
    again = run.train()
    assert again.position == state.position
    assert epochs_of(run.events) == []


def test_own_metrics_are_in_the_epochs(toy: Toys) -> None:
    def macro_f1(logits: Any, targets: Any) -> float:
        return float(f1_score(targets, logits.argmax(1), average="macro"))

    run = toy(loop_config={"metrics": {"macro_f1": macro_f1, "photos": lambda z, y: len(y)}})
    run.train()
    done = epochs_of(run.events)
    validated = [e for e in run.events if isinstance(e, Validated)]
    assert [e.epoch for e in validated] == [e.epoch for e in done] == [1, 2, 3]
    for event, epoch in zip(validated, done, strict=True):
        outputs = event.validation.outputs
        expected = f1_score(outputs.targets, outputs.logits.argmax(1), average="macro")
        assert epoch.metrics == {"macro_f1": expected, "photos": 26.0}
        assert event.validation.accuracy == epoch.validation_accuracy


def test_a_metric_that_is_no_number_is_named(toy: Toys) -> None:
    run = toy(loop_config={"metrics": {"shape": lambda logits, targets: logits.shape}})
    with pytest.raises(ConfigError) as error:
        run.train()
    assert str(error.value) == "The metric 'shape' returned tuple; it must return one number."


def test_the_loss_is_what_the_plan_says(toy: Toys) -> None:
    def squares(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (logits - nn.functional.one_hot(targets, 3)).square().mean()

    objective = Objective(
        loss=squares,
        correct=lambda logits, targets: (logits.argmax(1) != targets).sum(),
        score=lambda logits, targets: (float(squares(logits, targets)), 0.25),
    )
    run = toy(loop_config={"objective": objective})
    run.train()
    done = epochs_of(run.events)
    assert done[-1].train_loss < done[0].train_loss < 1.5
    assert {e.validation_accuracy for e in done} == {0.25}
    plain = toy("plain")
    plain.train()
    assert done[0].train_accuracy != epochs_of(plain.events)[0].train_accuracy


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema": 0.9},
    "accumulate": {"accumulate": 2, "batch_size": 4},
    "muon and clip": {"optimizer": "muon", "loop_config": {"clip_norm": 0.5}},
    "soup": {"ema": 0.7, "loop_config": {"soup": 2}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_training_stopped_at_any_step_goes_on_to_the_same_bytes(
    toy: Toys, options: dict[str, Any]
) -> None:
    options = {"epochs": 2, **options}
    whole = toy("whole", **copy.deepcopy(options))
    expected = whole.train()
    steps = whole.epochs * whole.steps_per_epoch
    for step in range(1, steps):
        run = toy(f"stopped-{step}", **copy.deepcopy(options))

        def there(state: TrainState, step: int = step) -> bool:
            position = state.position
            done: int = position.epoch * run.steps_per_epoch + position.step  # noqa: B023
            return done >= step

        stopped = run.train(stop=there)
        assert stopped.position.epoch < 2
        resumed = run.train()
        assert_same_bytes(resumed, expected)
        for file in ("best.safetensors", "last.safetensors"):
            theirs = load_file(whole.folder / file)
            for name, value in load_file(run.folder / file).items():
                assert torch.equal(value, theirs[name]), (file, name)
        ours, other = resumed.position, expected.position
        ours.seconds = other.seconds = 0.0
        assert ours == other


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpoints_come_as_often_as_asked_for_and_all_of_them_resume(
    toy: Toys, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy("whole", ema=0.9)
    expected = whole.train()
    run = toy("often", ema=0.9, loop_config={"checkpoint_steps": every})
    written: list[tuple[int, int]] = []
    kept: list[bytes] = []
    save = TrainState.save

    def saved(self: TrainState, path: Any) -> None:
        save(self, path)
        written.append((self.position.epoch, self.position.step))
        kept.append(path.read_bytes())

    monkeypatch.setattr(TrainState, "save", saved)
    assert_same_bytes(run.train(), expected)
    monkeypatch.undo()
    steps = run.steps_per_epoch
    within = [step for step in range(1, steps) if step % every == 0]
    assert written == [
        place for epoch in range(3) for place in [*((epoch, s) for s in within), (epoch + 1, 0)]
    ]
    for place, content in zip(written[:-1], kept, strict=False):
        again = toy(f"from-{place}", ema=0.9)
        again.folder.mkdir()
        (again.folder / "last.safetensors").write_bytes(content)
        assert_same_bytes(again.train(), expected)


def test_checkpoints_come_by_the_clock(toy: Toys) -> None:
    loop_config = toy().make_plan()
    assert not loop_config.checkpoint_due(7, 1e9)
    timed = toy(loop_config={"checkpoint_seconds": 90.0}).make_plan()
    assert not timed.checkpoint_due(7, 89.9)
    assert timed.checkpoint_due(7, 90.0)
    run = toy("run", loop_config={"checkpoint_seconds": 0.0}, epochs=1)
    seen: list[tuple[int, int]] = []

    def look(state: TrainState) -> bool:
        file = run.folder / "last.safetensors"
        if file.is_file():
            position = read_position(file)
            seen.append((position.epoch, position.step))
        return False

    run.train(stop=look)
    assert seen == [(0, 1), (0, 2), (1, 0)]


def test_a_half_written_checkpoint_is_never_picked_up(
    toy: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = toy("whole").train()
    run = toy("broken", loop_config={"checkpoint_steps": 1})
    plain, count = save_file, [0]

    def dies_half_way(tensors: Any, path: Any, metadata: Any = None) -> None:
        plain(tensors, path, metadata=metadata)
        if "last" in path.name:
            count[0] += 1
            if count[0] == 6:
                half = path.read_bytes()[: path.stat().st_size // 2]
                # What a kill leaves behind: half a file under the name of the one being written.
                path.with_name(".last.safetensors.killed.part").write_bytes(half)
                path.write_bytes(half)
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module, "save_file", dies_half_way)
    with pytest.raises(StorageError, match="the disk is full"):
        run.train()
    monkeypatch.undo()
    leftover = run.folder / ".last.safetensors.killed.part"
    assert leftover.is_file()
    position = read_position(run.folder / "last.safetensors")
    assert (position.epoch, position.step) == (1, 1)
    assert_same_bytes(run.train(), expected)
    remove_partial_files(run.folder)
    assert sorted(file.name for file in run.folder.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
    ]


def test_a_soup_keeps_the_best_epochs_and_never_makes_validation_fall(toy: Toys) -> None:
    run = toy(epochs=8, loop_config={"soup": 3}, lr=0.2)
    state = run.train()
    done = [event for event in run.events if isinstance(event, Validated)]
    ranked = best_first(state.position.candidates, run.make_plan().rank)

    def worth(event: Validated) -> tuple[float, float, int]:
        """Accuracy, and of equals the log loss when the logits are as sure as suits them."""
        said = event.validation.outputs
        logits = said.logits.astype(np.float64)
        losses = [log_loss(said.targets, softmax(logits * f, axis=1)) for f in SHARPNESS]
        return -np.mean(logits.argmax(1) == said.targets), min(losses), event.epoch

    assert [c.epoch for c in ranked] == [event.epoch for event in sorted(done, key=worth)[:3]]
    assert sorted(file.name for file in run.folder.glob("epoch-*")) == sorted(
        f"epoch-{c.epoch}.safetensors" for c in ranked
    )
    note = next(e.text for e in run.events if isinstance(e, Note))
    assert note.startswith("Soup: ")
    best = load_file(run.folder / "best.safetensors")
    judged = run.state()
    judged.module.load_state_dict(best)
    outputs = score_outputs(run.numbers(judged).validate(), SingleLabel().objective())
    assert outputs.accuracy >= ranked[0].accuracy
    if "the mean of epochs" in note:
        names = note.split(" epochs ")[1].split(" is kept")[0].replace(" and ", ", ").split(", ")
        files = [load_file(run.folder / f"epoch-{name}.safetensors") for name in names]
        mean = np.mean([f["0.weight"].numpy().astype(np.float64) for f in files], axis=0)
        assert best["0.weight"].numpy() == pytest.approx(mean, abs=1e-7)
