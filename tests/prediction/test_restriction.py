"""Labels that are possible at a place and a time of the year."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from finetune.cli import app
from finetune.errors import ConfigError
from finetune.photos.decode.decoder import photo_exif
from finetune.photos.decode.exif import Exif
from finetune.prediction.decision import restricted
from finetune.prediction.predictor import PredictConfig, Predictor
from finetune.prediction.restriction import Restriction, read_restriction


def written(folder: Path, text: str, name: str = "only.csv") -> Restriction:
    (folder / name).write_text(text, encoding="utf-8")
    return read_restriction(folder / name)


def test_a_list_names_the_possible_labels(tmp_path: Path) -> None:
    found = written(tmp_path, "\ufeffwren\n\n  カワセミ \nowl, barn\n", "list.txt")
    assert list(found.limits) == ["wren", "カワセミ", "owl, barn"]
    assert not found.needs_exif
    labels = ("wren", "heron", "カワセミ")
    assert found.possible(labels, Exif()).tolist() == [True, False, True]
    assert found.describe(labels) == (
        f"Possible by {tmp_path / 'list.txt'}: 2 of 3 labels; struck out: heron. 1 further name in "
        "the file: no label of the run."
    )


@pytest.mark.parametrize(
    ("months", "possible"),
    [
        ("", range(1, 13)),
        ("3-10", range(3, 11)),
        ("nov-feb", [11, 12, 1, 2]),
        ("April – June", [4, 5, 6]),
        ("4, 6;9", [4, 6, 9]),
        ("12-1, 7", [12, 1, 7]),
    ],
)
def test_months(tmp_path: Path, months: str, possible: list[int]) -> None:
    found = written(tmp_path, f'label,months\nwren,"{months}"\nowl,\n')
    for month in range(1, 13):
        exif = Exif(taken_at=f"2024-{month:02}-01T12:00:00")
        expected = [month in possible, True, False]
        assert found.possible(("wren", "owl", "heron"), exif).tolist() == expected
    assert found.possible(("wren",), Exif()).tolist() == [True]


@pytest.mark.parametrize(
    ("place", "possible"),
    [((50.0, 10.0), True), ((50.0, 16.0), False), ((46.0, 10.0), False), (None, True)],
)
def test_boxes(tmp_path: Path, place: tuple[float, float] | None, possible: bool) -> None:
    found = written(tmp_path, "label;box\nwren;47 5 55 15\n")
    assert found.needs_exif
    assert found.possible(("wren",), Exif(place=place)).tolist() == [possible]


def test_a_box_may_cross_the_180th_meridian_and_a_label_have_several(tmp_path: Path) -> None:
    text = 'label,months,box\ngodwit,9-3,"-47,166,-34,-175"\ngodwit,5-8,"60 -180 71 -141"\n'
    found = written(tmp_path, text)

    def possible(month: int, latitude: float, longitude: float) -> bool:
        exif = Exif(taken_at=f"2024-{month:02}-01T12:00:00", place=(latitude, longitude))
        return bool(found.possible(("godwit",), exif)[0])

    assert possible(1, -40, 175)
    assert possible(1, -40, -178)
    assert not possible(1, -40, -170)
    assert not possible(6, -40, 175)
    assert possible(6, 65, -150)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty; write one label a line."),
        ("label,month\nwren,3\n", ": the column 'month' is none of label, months, box."),
        ("label,months\n", " has no label below its first line."),
        ("label,months\nwren,13\n", ", line 2: '13' is no month; write 3-10, nov-feb, or numbers"),
        ("label,months\n,3\n", ", line 2: it has no label."),
        ("label,box\nwren,47 5 55\n", ", line 2: the box '47 5 55' must be south, west, north"),
        ("label,box\nwren,55 5 47 15\n", ", line 2: the box '55 5 47 15' must be south, west"),
    ],
)
def test_a_row_that_is_not_understood_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        written(tmp_path, text)
    assert f"--only {tmp_path / 'only.csv'}{message}" in str(error.value)


def test_probabilities_of_possible_labels_add_up_to_one() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    possible = np.array([[True, False, True], [False, True, True], [False, False, False]])
    found = restricted(shares, possible)
    np.testing.assert_allclose(found, [[5 / 7, 0, 2 / 7], [0, 0.5, 0.5], [1 / 3] * 3])


def with_exif(image: Image.Image, path: Path, month: int, place: tuple[str, str] | None) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = f"2024:{month:02}:01 12:00:00"
    if place is not None:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = place
        gps[ExifTags.GPS.GPSLatitude] = (47.0, 30.0, 0.0)
        gps[ExifTags.GPS.GPSLongitude] = (8.0, 15.0, 36.0)
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("where", "place"),
    [(("N", "E"), (47.5, 8.26)), (("S", "W"), (-47.5, -8.26)), (None, None)],
)
def test_date_and_place_come_from_exif(
    draw: Callable[..., Image.Image],
    tmp_path: Path,
    where: tuple[str, str] | None,
    place: tuple[float, float] | None,
) -> None:
    found = photo_exif(with_exif(draw(0, 1), tmp_path / "photo.jpg", 5, where))
    assert found.taken_at == "2024-05-01T12:00:00"
    assert found.place == (None if place is None else pytest.approx(place))
    assert photo_exif(tmp_path / "missing.jpg") == Exif()


def test_impossible_labels_are_struck_out_and_said(
    trained: Any, draw: Callable[..., Image.Image], tmp_path: Path
) -> None:
    summer = with_exif(draw(0, 1), tmp_path / "summer.jpg", 7, None)
    winter = with_exif(draw(0, 1), tmp_path / "winter.jpg", 1, None)
    before = Predictor.load(trained.run)(winter)
    assert before.label is not None
    other = before.ranked[1].label
    only = written(tmp_path, f"label,months\n{before.label},4-9\n{other},\n")
    config = PredictConfig(only=only, false_alarms=0, threshold=0.0)
    in_summer, in_winter = Predictor.load(trained.run, config=config).predict_batch(
        [summer, winter]
    )
    assert [one.label for one in in_summer.ranked] == [before.label, other]
    assert in_summer.struck_out == ()
    assert (in_winter.label, in_winter.ranked[0].probability) == (other, 1.0)
    struck = in_winter.to_dict()["struck_out"]
    assert struck[0]["label"] == before.label
    assert struck[0]["probability"] == pytest.approx(before.ranked[0].probability)
    # More of the probability was struck out than is left: the rest is not sure at any threshold.
    assert (in_summer.status, in_winter.status) == ("sure", "unsure")


def test_predict_says_what_it_struck_out(
    trained: Any, draw: Callable[..., Image.Image], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    draw(0, 1).save(photo)
    (tmp_path / "only.txt").write_text("bee\nwasp\n")
    command = ["predict", str(photo), "--run", str(trained.run), "--only"]
    found = CliRunner().invoke(app, [*command, str(tmp_path / "only.txt")])
    assert "1 of 2 labels; struck out: ant." in found.stderr
    assert "struck out: ant " in found.stdout
    answers = CliRunner().invoke(app, [*command, str(tmp_path / "only.txt"), "--json"])
    (answer,) = json.loads(answers.stdout)
    assert answer["ranked"][0] == {"label": "bee", "probability": 1.0}
    (tmp_path / "only.txt").write_text("wasp\n")
    wrong = CliRunner().invoke(app, [*command, str(tmp_path / "only.txt")])
    assert wrong.exit_code == 1
    assert "has none of the run's labels (ant, bee ...); its first is 'wasp'." in wrong.stderr
