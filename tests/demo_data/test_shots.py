from __future__ import annotations

import itertools

import pytest

from finetune.demo_data.shots import plan_shots

SIZE = (1200, 800)


def planned(photos: int = 40, *, flaws: bool = True, seed: int = 0):
    return plan_shots(8, photos, seed, SIZE, flaws)


@pytest.mark.parametrize("photos", [1, 3, 8, 40])
@pytest.mark.parametrize("flaws", [True, False])
def test_each_species_gets_its_number_of_photos(photos, flaws):
    shots = planned(photos, flaws=flaws)
    assert [sum(shot.species == kind for shot in shots) for kind in range(8)] == [photos] * 8


def test_file_names_are_unique_and_numbered_in_the_order_of_the_shots():
    shots = planned()
    assert len({shot.path.rpartition("/")[2] for shot in shots}) == len(shots)
    for camera in (0, 1):
        mine = [shot for shot in shots if shot.camera == camera]
        assert [shot.taken_at for shot in mine] == sorted(shot.taken_at for shot in mine)
        numbers = [int(shot.path[-8:-4]) for shot in mine]
        assert numbers == list(range(numbers[0], numbers[0] + len(mine)))


def test_a_burst_takes_seconds_and_encounters_are_a_minute_apart():
    shots = planned()
    for before, after in itertools.pairwise(shots):
        seconds = (after.taken_at - before.taken_at).total_seconds()
        if before.number == after.number:
            assert 0 < seconds < 3
            assert before.encounter == after.encounter
        else:
            assert seconds > 50


def test_about_a_quarter_of_the_photos_come_in_bursts():
    shots = planned(200)
    counts: dict[int, int] = {}
    for shot in shots:
        counts[shot.number] = counts.get(shot.number, 0) + 1
    in_bursts = sum(count for count in counts.values() if count > 1) / len(shots)
    assert 0.15 < in_bursts < 0.4
    assert max(counts.values()) <= 4


def test_even_a_small_collection_has_photos_stored_sideways_and_upside_down():
    assert {shot.orientation for shot in planned(2)} >= {1, 3, 6, 8}


def test_without_flaws_all_is_stored_upright_and_nothing_is_taken_twice():
    shots = planned(flaws=False)
    assert {shot.orientation for shot in shots} == {1}
    assert len({shot.number for shot in shots}) == len(shots)


def test_sideways_photos_are_portraits():
    for shot in planned():
        portrait = shot.size == (800, 1200)
        assert portrait == (shot.orientation in (6, 8))
