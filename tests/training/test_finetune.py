from __future__ import annotations

import pytest

from finetune.training.finetune import opening_epochs, size_at


@pytest.mark.parametrize(
    ("stages", "epochs", "expected"),
    [
        (5, 12, (6, 5, 4, 3, 2)),
        (5, 10, (5, 4, 3, 2, 1)),
        (4, 8, (4, 3, 2, 1)),
        (12, 12, (6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1)),
        (2, 3, (2, 1)),
        (5, 2, (1, 1, 1, 1, 1)),
        (5, 1, (0, 0, 0, 0, 0)),
    ],
)
def test_stages_open_from_the_head_backwards(
    stages: int, epochs: int, expected: tuple[int, ...]
) -> None:
    assert opening_epochs(stages, epochs) == expected


def test_every_stage_trains_and_none_before_the_one_after_it() -> None:
    for stages in range(1, 15):
        for epochs in range(1, 30):
            opens = opening_epochs(stages, epochs)
            assert len(opens) == stages
            assert all(0 <= epoch < epochs for epoch in opens)
            assert list(opens) == sorted(opens, reverse=True)
            # The head has the first epoch for itself wherever there are two.
            assert min(opens) >= (epochs > 1)


@pytest.mark.parametrize(
    ("epochs", "start", "full", "expected"),
    [
        (8, 128, 224, [128, 128, 160, 160, 192, 192, 224, 224]),
        (4, 128, 224, [128, 160, 192, 224]),
        (1, 128, 224, [224]),
        (2, 128, 224, [128, 224]),
        (4, 24, 40, [24, 24, 32, 40]),
    ],
)
def test_photos_grow_to_their_full_size(
    epochs: int, start: int, full: int, expected: list[int]
) -> None:
    sizes = [size_at(epoch, epochs=epochs, start=start, full=full) for epoch in range(epochs)]
    assert sizes == expected


def test_sizes_never_shrink_and_end_at_the_full_one() -> None:
    for epochs in range(1, 40):
        for start, full in [(96, 224), (100, 224), (30, 48), (64, 65)]:
            sizes = [size_at(e, epochs=epochs, start=start, full=full) for e in range(epochs)]
            assert sizes == sorted(sizes)
            assert sizes[-1] == full
            assert all(start <= size <= full for size in sizes)
