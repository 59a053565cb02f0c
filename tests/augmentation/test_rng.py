from __future__ import annotations

import numpy as np

from finetune.augmentation.sampling import splitmix64, uniforms


def test_splitmix64_gives_the_published_first_numbers_of_seed_1234567() -> None:
    # Reference output of the generator's C source (Vigna, splitmix64.c) for this seed.
    golden, state, stream = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(5):
        stream.append(int(splitmix64(np.array([state], dtype=np.uint64))[0]))
        state = (state + golden) % 2**64
    assert stream == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_a_photos_numbers_do_not_depend_on_the_batch() -> None:
    whole = uniforms(3, 7, np.arange(100), 12)
    np.testing.assert_array_equal(uniforms(3, 7, [42], 12)[0], whole[42])
    np.testing.assert_array_equal(uniforms(3, 7, np.arange(99, -1, -1), 12)[::-1], whole)


def test_more_numbers_leave_the_first_as_they_were() -> None:
    np.testing.assert_array_equal(uniforms(0, 0, [5], 30)[:, :8], uniforms(0, 0, [5], 8))


def test_seed_epoch_and_index_each_change_every_number() -> None:
    base = uniforms(1, 2, [3], 20)
    for other in (uniforms(2, 2, [3], 20), uniforms(1, 3, [3], 20), uniforms(1, 2, [4], 20)):
        assert (base != other).all()
    # No two of them stand for each other.
    assert (uniforms(2, 1, [3], 20) != base).all()


def test_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniforms(0, 0, np.arange(20_000), 6)
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    # Chi-squared of 19 degrees of freedom: 43.8 is passed once in 1000.
    assert (((counts - 1000) ** 2 / 1000).sum(axis=1) < 43.8).all()
    related = np.corrcoef(np.concatenate([numbers[:-1], numbers[1:]], axis=1).T) - np.eye(12)
    assert np.abs(related).max() < 5 / np.sqrt(20_000)


def test_negative_and_large_seeds_are_taken() -> None:
    assert uniforms(-1, 0, [0], 1).shape == (1, 1)
    assert uniforms(2**62, 10**6, [2**40], 1).shape == (1, 1)
