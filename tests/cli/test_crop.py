from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from finetune.curation.crop_policy import CropPolicyConfig, read_policy
from finetune.demo_data import draw_collection
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.crops import Crop, load_image
from finetune.photos.decode.exif import read_exif
from finetune.photos.scan import scan


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_collection(
        folder, species=2, photos_per_species=2, seed=1, size=(300, 200), flaws=False, workers=1
    )
    return folder


@pytest.fixture
def birds(drawn: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(drawn, tmp_path / "photos"))


def crops_of(folder: Path) -> dict[str, Crop | None]:
    return {photo.path: photo.crop for photo in scan(folder).photos}


def test_crops_are_proposed_accepted_shown_and_written(
    run: Callable[..., Result], birds: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in birds.rglob("*.jpg")}
    page, picture, copies = tmp_path / "a.html", tmp_path / "a.png", tmp_path / "copies"
    result = run(
        "crop",
        birds,
        "--output",
        page,
        "--output",
        picture,
        "--write",
        copies,
        "--size",
        64,
        "--json",
    )
    document = json.loads(result.stdout)
    assert document["proposed"] == 4
    kept = crops_of(birds)
    for entry in document["crops"]:
        assert entry["by"] == "model"
        assert Crop.from_dict(entry["crop"]) == kept[entry["path"]]
    assert page.read_text(encoding="utf-8").count("<img ") == 8
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
    written = sorted(copies.rglob("*.jpg"))
    assert len(written) == 4
    for path in written:
        original = birds / path.relative_to(copies)
        with Image.open(path) as copy, Image.open(original) as photo:
            assert copy.size == (64, 64)
            assert read_exif(copy).taken_at == read_exif(photo).taken_at is not None
            expected = load_image(original, size=64, crop=kept[str(path.relative_to(copies))])
            # JPEG loses a little of each pixel, hardly anything of their means.
            difference = np.asarray(copy, float) - expected
            assert abs(difference.mean()) < 2
            assert np.abs(difference).mean() < 6
    assert {path: path.read_bytes() for path in birds.rglob("*.jpg")} == before


def test_a_crop_by_a_person_is_never_replaced(run: Callable[..., Result], birds: Path) -> None:
    photo, mine = scan(birds).photos[0], Crop(center_x=0.1, side=0.2)
    with open_catalog(birds) as catalog, catalog.writer("crop", [photo.digest]) as writer:
        writer.set_crop(photo.digest, mine)
    result = run("crop", birds, "--method", "center")
    assert "3 photos with a proposed crop." in result.stdout
    assert "1 photo with your own crop, which was kept." in result.stdout
    assert crops_of(birds)[photo.path] == mine
    result = run("crop", birds, "--clear", "--yes")
    assert "3 proposed crops removed." in result.stdout
    assert [path for path, square in crops_of(birds).items() if square] == [photo.path]


def test_accepted_crops_are_kept_and_can_be_undone(run: Callable[..., Result], birds: Path) -> None:
    run("crop", birds, "--method", "center")
    result = run("crop", birds, "--accept")
    assert "4 crops accepted." in result.stdout
    assert "There is no proposed crop to remove." in run("crop", birds, "--clear", "--yes").stdout
    assert "Undone: crop 4 photos." in run("crop", birds, "--undo").stdout
    assert "4 proposed crops removed." in run("crop", birds, "--clear", "--yes").stdout
    assert "There is no proposed crop to remove." in run("crop", birds, "--clear", "--yes").stdout
    assert set(crops_of(birds).values()) == {None}


def test_accept_proposes_where_nothing_was_proposed(
    run: Callable[..., Result], birds: Path
) -> None:
    result = run("crop", birds, "--method", "center", "--accept", "--json")
    document = json.loads(result.stdout)
    assert (document["proposed"], document["accepted"]) == (4, 4)
    assert {entry["by"] for entry in document["crops"]} == {"person"}


def test_the_collection_remembers_the_method_as_long_as_it_has_crops(
    run: Callable[..., Result], birds: Path
) -> None:
    run("crop", birds, "--method", "center")
    assert read_policy(birds) == CropPolicyConfig(method="center")
    run("crop", birds, "--accept")
    run("crop", birds, "--clear", "--yes")
    assert read_policy(birds) == CropPolicyConfig(method="center")
    run("crop", birds, "--undo")
    run("crop", birds, "--clear", "--yes")
    assert read_policy(birds) is None


def test_clear_asks_first(run: Callable[..., Result], birds: Path) -> None:
    run("crop", birds, "--method", "center")
    result = run("crop", birds, "--clear", stdin="n\n")
    assert "Remove 4 proposed crops?" in result.output
    assert "Nothing was changed." in result.stdout
    assert set(crops_of(birds).values()) == {Crop()}


def test_undo_does_not_touch_labels(run: Callable[..., Result], birds: Path) -> None:
    photo = scan(birds).photos[0]
    with open_catalog(birds) as catalog:
        catalog.set_labels([photo.digest], ["heron"])
    result = run("crop", birds, "--undo")
    assert "Your last change was not of crops" in result.stdout
    assert scan(birds).photos[0].labels == ("heron",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "magic"], "--method magic is not one of saliency, center, detector."),
        (
            ["--method", "detector"],
            "--method detector needs the weights of a torchvision detector: --detector FILE. "
            "Without them, use --method saliency.",
        ),
        (
            ["--method", "center", "--detector", "x.pth"],
            "--detector has no effect with --method center; leave one out.",
        ),
        (["--accept", "--clear"], "--accept, --clear and --undo exclude each other."),
        (["--size", "64"], "--size sets the size of written copies; also give --write DIR."),
    ],
)
def test_contradicting_options_are_refused(
    flags: list[str], message: str, error_of: Callable[..., str], birds: Path
) -> None:
    assert error_of("crop", birds, *flags) == message
