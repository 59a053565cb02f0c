from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import unicodedata
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.demo_data import SPECIES, DemoCollection, draw_bird, draw_collection, draw_unseen
from finetune.demo_data.collection import Shot, plan_shots
from finetune.errors import CollectionError, ConfigError


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jpg"))
    }


def test_a_script_without_a_guard_may_draw_with_several_processes(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "import pathlib, sys\n"
        "from finetune.demo_data import draw_collection\n"
        "birds = draw_collection(pathlib.Path(sys.argv[1]), species=2, photos_per_species=2,\n"
        "                        size=(64, 48), flaws=False, workers=2)\n"
        "print(len(birds.photos), __file__ == sys.argv[0])\n"
    )
    result = subprocess.run(
        [sys.executable, script, tmp_path / "birds"], capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("4 True\n", "")


def test_every_species_has_a_folder_with_its_photos(small_collection: DemoCollection) -> None:
    folders = {
        path.name: len(list(path.glob("*.jpg"))) for path in small_collection.folder.iterdir()
    }
    expected = {species.name: 8 for species in SPECIES}
    expected["dusk finch"] += 1
    expected["カワセミ"] += 1
    assert folders == expected
    assert all(unicodedata.is_normalized("NFC", name) for name in folders)


def test_truth_names_every_file_on_disk(small_collection: DemoCollection) -> None:
    on_disk = set(digests(small_collection.folder))
    assert {photo.path for photo in small_collection.photos} | set(
        small_collection.corrupt
    ) == on_disk
    assert len(small_collection.photos) == 65


def test_photos_open_upright_in_the_size_that_truth_states(
    small_collection: DemoCollection,
) -> None:
    for photo in small_collection.photos:
        with Image.open(small_collection.folder / photo.path) as image:
            assert image.getexif()[0x0112] == photo.orientation
            assert ImageOps.exif_transpose(image).size == (photo.width, photo.height)
            stamp = image.getexif().get_ifd(0x8769)[0x9003]
        assert stamp == photo.taken_at.replace("-", ":").replace("T", " ")
        left, top, right, bottom = photo.box
        assert 0 <= left < right <= photo.width
        assert 0 <= top < bottom <= photo.height


def test_one_photo_is_filed_under_two_labels(small_collection: DemoCollection) -> None:
    assert small_collection.filed_twice is not None
    first, second = small_collection.filed_twice
    assert first.startswith("ember finch/")
    assert second.startswith("dusk finch/")
    files = digests(small_collection.folder)
    assert files[first] == files[second]
    assert len(set(files.values())) == len(files) - 1
    assert {p.species for p in small_collection.photos if p.path in (first, second)} == {
        "ember finch"
    }


def test_the_corrupt_file_is_a_jpeg_that_breaks_off(small_collection: DemoCollection) -> None:
    (corrupt,) = small_collection.corrupt
    with Image.open(small_collection.folder / corrupt) as image:
        assert image.format == "JPEG"
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_shots_of_a_burst_are_near_duplicates_and_other_photos_are_not(
    small_collection: DemoCollection,
) -> None:
    bursts: dict[int, list[int]] = {}
    for photo in small_collection.photos:
        with Image.open(small_collection.folder / photo.path) as image:
            bits = imagehash.phash(ImageOps.exif_transpose(image)).hash.ravel()
        bursts.setdefault(photo.encounter, []).append(bits)
    within = [
        np.count_nonzero(a != b)
        for shots in bursts.values()
        for k, a in enumerate(shots)
        for b in shots[k + 1 :]
    ]
    firsts = [shots[0] for shots in bursts.values()]
    between = [np.count_nonzero(a != b) for k, a in enumerate(firsts) for b in firsts[k + 1 :]]
    assert len(within) >= 8
    assert np.median(within) <= 6
    assert np.median(between) >= 20


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        draw_collection(
            tmp_path / name,
            species=2,
            photos_per_species=3,
            size=(96, 64),
            seed=seed,
            workers=workers,
        )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert not set(digests(tmp_path / "a").values()) & set(digests(tmp_path / "c").values())


def test_without_flaws_the_collection_is_clean(tmp_path: Path) -> None:
    demo_collection = draw_collection(
        tmp_path, species=3, photos_per_species=5, size=(96, 64), flaws=False, workers=1
    )
    assert demo_collection.filed_twice is None
    assert demo_collection.corrupt == ()
    assert len(set(digests(tmp_path).values())) == len(demo_collection.photos) == 15
    assert {photo.orientation for photo in demo_collection.photos} == {1}


def test_a_single_species_is_filed_once(tmp_path: Path) -> None:
    demo_collection = draw_collection(tmp_path, species=1, photos_per_species=2, size=(64, 64))
    assert demo_collection.filed_twice is None
    assert len(demo_collection.corrupt) == 1


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    draw_collection(
        tmp_path,
        species=2,
        photos_per_species=2,
        size=(64, 64),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_unseen_photos_take_the_species_in_turn_and_are_in_no_collection(
    small_collection: DemoCollection, tmp_path: Path
) -> None:
    photos = draw_unseen(tmp_path, count=10, seed=5, size=(150, 100))
    assert [photo.path for photo in photos[:2]] == ["unseen_01.jpg", "unseen_02.jpg"]
    assert [photo.species for photo in photos[:8]] == [species.name for species in SPECIES]
    assert photos[8].species == SPECIES[0].name
    fresh = digests(tmp_path)
    assert len(set(fresh.values())) == 10
    assert not set(fresh.values()) & set(digests(small_collection.folder).values())


def test_a_bird_is_drawn_alike_from_an_equal_generator() -> None:
    one, box = draw_bird("カワセミ", np.random.default_rng(3), (120, 80))
    again, same_box = draw_bird("カワセミ", np.random.default_rng(3), (120, 80))
    other, _ = draw_bird("カワセミ", np.random.default_rng(4), (120, 80))
    assert one.size == (120, 80)
    assert one.tobytes() == again.tobytes()
    assert box == same_box
    assert one.tobytes() != other.tobytes()


def test_an_unknown_species_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as error:
        draw_bird("dodo", np.random.default_rng(0))
    assert str(error.value) == (
        "The demo data has no species 'dodo'. Choose one of: カワセミ, mallard, ember finch, "
        "grey heron, barn swallow, crested tit, dusk finch, marsh teal."
    )


def test_every_bad_number_is_named_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        draw_collection(tmp_path, species=9, photos_per_species=0, size=(20, 400))
    assert str(error.value) == (
        "The demo data cannot be drawn: species must be 1 to 8, not 9; the number of photos must "
        "be at least 1, not 0; the size must be at least 32x32 pixels, not 20x400."
    )


def test_a_folder_with_photos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(CollectionError) as error:
        draw_collection(tmp_path, species=1, photos_per_species=1, size=(64, 64))
    assert str(error.value) == (
        f"{tmp_path} is not an empty folder, and drawn birds must not mix with other photos. "
        f"Choose a new folder."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jpg"]


def test_drawing_needs_no_torch() -> None:
    code = "import sys, finetune.demo_data; print('torch' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def planned(photos: int = 40, *, flaws: bool = True) -> list[Shot]:
    return plan_shots(8, photos, 0, (1200, 800), flaws)


@pytest.mark.parametrize("photos", [1, 3, 8, 40])
@pytest.mark.parametrize("flaws", [True, False])
def test_each_species_gets_its_number_of_photos(photos: int, flaws: bool) -> None:
    shots = planned(photos, flaws=flaws)
    assert [sum(shot.species == kind for shot in shots) for kind in range(8)] == [photos] * 8


def test_file_names_are_unique_and_numbered_in_the_order_of_the_shots() -> None:
    shots = planned()
    assert len({shot.path.rpartition("/")[2] for shot in shots}) == len(shots)
    for camera in (0, 1):
        mine = [shot for shot in shots if shot.camera == camera]
        assert [shot.taken_at for shot in mine] == sorted(shot.taken_at for shot in mine)
        numbers = [int(shot.path[-8:-4]) for shot in mine]
        assert numbers == list(range(numbers[0], numbers[0] + len(mine)))


def test_a_burst_takes_seconds_and_encounters_are_a_minute_apart() -> None:
    shots = planned()
    for before, after in itertools.pairwise(shots):
        seconds = (after.taken_at - before.taken_at).total_seconds()
        if before.number == after.number:
            assert 0 < seconds < 3
            assert before.encounter == after.encounter
        else:
            assert seconds > 50


def test_about_a_quarter_of_the_photos_come_in_bursts() -> None:
    shots = planned(200)
    counts: dict[int, int] = {}
    for shot in shots:
        counts[shot.number] = counts.get(shot.number, 0) + 1
    in_bursts = sum(count for count in counts.values() if count > 1) / len(shots)
    assert 0.15 < in_bursts < 0.4
    assert max(counts.values()) <= 4


def test_even_a_small_collection_has_photos_stored_sideways_and_upside_down() -> None:
    assert {shot.orientation for shot in planned(2)} >= {1, 3, 6, 8}


def test_without_flaws_all_is_stored_upright_and_nothing_is_taken_twice() -> None:
    shots = planned(flaws=False)
    assert {shot.orientation for shot in shots} == {1}
    assert len({shot.number for shot in shots}) == len(shots)


def test_sideways_photos_are_portraits() -> None:
    for shot in planned():
        portrait = shot.size == (800, 1200)
        assert portrait == (shot.orientation in (6, 8))
