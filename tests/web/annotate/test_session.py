"""A session without a browser: annotators, copies, folder labels, small copies of photos."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.errors import DecodeError
from finetune.photos.catalog.undo_log import StaleError
from finetune.photos.scan import scan
from finetune.web.annotate.actions import BadRequestError, read_action
from finetune.web.annotate.session import Session
from finetune.web.annotate.thumbnails import Thumbnails


@pytest.fixture
def photos(make_photos) -> Path:
    root = make_photos({"heron": 2, "wren": 2})
    scan(root, workers=1)
    return root


def open_session(root: Path, **options: Any) -> Session:
    return Session(root, **options)


def act(session: Session, kind: str, *paths: str, **extra: Any) -> None:
    states = [state for state in session.index.states() if state.path in paths]
    assert len(states) == len(paths)
    versions = {state.id: state.annotations.version for state in states}
    body = {"kind": kind, "photos": versions, **extra}
    session.act(read_action(body))


def shown(session: Session) -> dict[str, tuple[str, ...]]:
    states = session.index.states()
    return {state.path: state.labels(session.index.annotator)[0] for state in states}


def test_folder_labels_are_shown_until_a_person_speaks(photos: Path):
    session = open_session(photos)
    assert session.index.labels == ("heron", "wren")
    act(session, "add", "heron/000.jpg", labels=["young"])
    assert shown(session)["heron/000.jpg"] == ("heron", "young")
    act(session, "remove", "heron/000.jpg", labels=["heron"])
    assert shown(session)["heron/000.jpg"] == ("young",)
    act(session, "clear", "heron/000.jpg")
    assert shown(session)["heron/000.jpg"] == ("heron",)
    session.close()


def test_a_label_can_be_given_before_the_scan_has_read_the_photo(make_photos):
    root = make_photos({"": 2})
    session = open_session(root, labels=["wren"])
    assert all(state.digest is None for state in session.index.states())
    act(session, "label", "000.jpg", labels=["wren"])
    session.close()
    assert {p.path: p.labels for p in scan(root, workers=1).photos} == {
        "000.jpg": ("wren",),
        "001.jpg": (),
    }


def test_copies_of_a_photo_share_one_word(photos: Path):
    shutil.copyfile(photos / "heron" / "000.jpg", photos / "wren" / "copy.jpg")
    scan(photos, workers=1)
    session = open_session(photos)
    act(session, "label", "heron/000.jpg", "wren/copy.jpg", labels=["finch"])
    assert shown(session)["wren/copy.jpg"] == shown(session)["heron/000.jpg"] == ("finch",)
    first = next(e for e in session.index.states() if e.path == "heron/000.jpg")
    other = next(e for e in session.index.states() if e.path == "wren/copy.jpg")
    mixed = {"kind": "flag", "photos": {first.id: first.annotations.version, other.id: ""}}
    with pytest.raises(StaleError):
        session.act(read_action(mixed))
    session.close()


def test_annotators_do_not_see_each_other_and_a_difference_waits_to_be_settled(photos: Path):
    anna = open_session(photos, annotator="anna")
    assert set(shown(anna).values()) == {()}
    act(anna, "label", "heron/000.jpg", labels=["wren"])
    act(anna, "label", "heron/001.jpg", labels=["heron"])
    anna.close()
    ben = open_session(photos, annotator="ben")
    assert set(shown(ben).values()) == {()}
    act(ben, "label", "heron/000.jpg", labels=["finch"])
    act(ben, "label", "heron/001.jpg", labels=["heron"])
    rows = {row["path"]: row for row in ben.index.rows()}
    assert rows["heron/000.jpg"]["votes"] == {"anna": ("wren",), "ben": ("finch",)}
    assert shown(ben)["heron/000.jpg"] == ("finch",)
    ben.close()
    # The photo keeps its first label until the two are settled.
    assert {p.path: p.labels for p in scan(photos, workers=1).photos}["heron/000.jpg"] == ("wren",)
    both = open_session(photos)
    act(both, "resolve", "heron/000.jpg", labels=["finch"])
    row = next(row for row in both.index.rows() if row["path"] == "heron/000.jpg")
    assert row["resolved"]
    assert row["labels"] == ("finch",)
    both.close()


def test_an_annotator_changes_and_takes_back_their_own_word(photos: Path):
    session = open_session(photos, annotator="anna")
    act(session, "label", "heron/000.jpg", labels=["wren"])
    act(session, "label", "heron/000.jpg", labels=["finch"])
    assert scan(photos, workers=1).photos[0].labels == ("finch",)
    act(session, "clear", "heron/000.jpg")
    assert shown(session)["heron/000.jpg"] == ()
    assert scan(photos, workers=1).photos[0].labels == ("heron",)
    session.undo(session.catalog.latest()[0])
    assert shown(session)["heron/000.jpg"] == ("finch",)
    session.close()


def test_a_photo_that_is_not_there_is_refused(photos: Path):
    session = open_session(photos)
    with pytest.raises(BadRequestError, match=r"^There is no such photo\.$"):
        session.act(read_action({"kind": "flag", "photos": {"0" * 16: ""}}))
    session.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "The request must be a JSON object."),
        ({"kind": "delete"}, "'kind' is not an action."),
        ({"kind": "flag"}, "The action flag has the keys kind, photos."),
        (
            {"kind": "flag", "photos": {}},
            "'photos' must be an object with 1 to 20,000 photos.",
        ),
        (
            {"kind": "label", "photos": {"0" * 16: ""}, "labels": ["a\nb"]},
            "A label must be a single line of text.",
        ),
        (
            {"kind": "label", "photos": {"0" * 16: ""}, "labels": ["  "]},
            "A label must have 1 to 200 characters.",
        ),
        (
            {"kind": "crop", "photos": {"0" * 16: ""}, "crop": [0.5, 2, 1]},
            "A crop's center_y is 2; it must be a number from 0 to 1.",
        ),
    ],
)
def test_an_invalid_request_is_refused_with_its_reason(body: object, message: str):
    with pytest.raises(BadRequestError) as error:
        read_action(body)
    assert str(error.value) == message


def test_copies_are_upright_small_made_once_and_say_nothing_of_the_camera(tmp_path: Path):
    image = Image.new("RGB", (900, 600), (200, 30, 30))
    image.paste((30, 30, 200), (0, 0, 450, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to be upright
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    path = tmp_path / "photo.jpg"
    image.save(path, exif=exif)
    copies = Thumbnails(tmp_path / "copies")
    for kind, size in (("thumb", (213, 320)), ("view", (600, 900))):
        jpeg = copies.get(path, "ab12", kind)
        copy = Image.open(io.BytesIO(jpeg))
        assert copy.size == size
        assert not copy.getexif()
        assert b"Maker" not in jpeg
        top, bottom = copy.getpixel((10, 10)), copy.getpixel((10, copy.height - 10))
        assert top[2] > 150 > top[0]
        assert bottom[0] > 150 > bottom[2]
    path.unlink()
    assert copies.get(path, "ab12", "thumb") == copies.get(path, "ab12", "thumb")
    with pytest.raises(DecodeError):
        copies.get(path, "cd34", "thumb")


def test_a_copy_is_made_from_no_fewer_pixels_than_it_has(tmp_path: Path):
    path = tmp_path / "wide.jpg"
    Image.effect_noise((4000, 1000), 60).convert("RGB").save(path)
    jpeg = Thumbnails(tmp_path / "copies").get(path, "ab12", "view", size=(4000, 1000))
    assert Image.open(io.BytesIO(jpeg)).size == (1600, 400)


def test_a_folder_of_copies_that_cannot_be_written_costs_time_only(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (50, 40)).save(path)
    (tmp_path / "copies").write_text("a file where the folder would be")
    assert Thumbnails(tmp_path / "copies").get(path, "ab12", "thumb")[:2] == b"\xff\xd8"
