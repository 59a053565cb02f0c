from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from finetune.photos.decode.exif import Exif, read_exif


def read_back(fields: dict[int, object], details: dict[int, object] | None = None) -> Exif:
    exif = Image.Exif()
    exif.update(fields)
    exif.get_ifd(ExifTags.IFD.Exif).update(details or {})
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        image.load()
        return read_exif(image)


MAKE, MODEL, DATE_TIME = 0x010F, 0x0110, 0x0132
ORIGINAL, DIGITIZED, SUBSECOND = 0x9003, 0x9004, 0x9291


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 90D", "Canon EOS 90D"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("Panasonic", "DMC-FZ30", "Panasonic DMC-FZ30"),
        ("Apple", "", "Apple"),
        ("", "X100", "X100"),
        ("SONY   \0\0rubbish", "DSC\x07A7 ", "SONY DSC A7"),
        ("", "", None),
    ],
)
def test_camera_names_the_maker_once(make, model, camera):
    assert read_back({MAKE: make, MODEL: model}).camera == camera


@pytest.mark.parametrize(
    ("text", "taken_at"),
    [
        ("2008:10:22 16:28:39", "2008-10-22T16:28:39"),
        ("2008-10-22T16:28:39", "2008-10-22T16:28:39"),
        ("2008:10:22 16:28:39\0\0", "2008-10-22T16:28:39"),
        ("0000:00:00 00:00:00", None),
        ("2008:13:22 16:28:39", None),
        ("2008:10:22 25:28:39", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
    ],
)
def test_time_is_read_tolerantly(text, taken_at):
    assert read_back({}, {ORIGINAL: text}).taken_at == taken_at


def test_fraction_of_a_second_is_kept():
    exif = read_back({}, {ORIGINAL: "2008:10:22 16:28:39", SUBSECOND: "340"})
    assert exif.taken_at == "2008-10-22T16:28:39.34"


@pytest.mark.parametrize("fraction", ["", "00", "   ", "abc", "²"])
def test_meaningless_fraction_is_left_out(fraction):
    exif = read_back({}, {ORIGINAL: "2008:10:22 16:28:39", SUBSECOND: fraction})
    assert exif.taken_at == "2008-10-22T16:28:39"


def test_exposure_time_wins_over_the_time_of_editing():
    exif = read_back({DATE_TIME: "2020:01:01 00:00:00"}, {ORIGINAL: "2008:10:22 16:28:39"})
    assert exif.taken_at == "2008-10-22T16:28:39"


def test_other_times_stand_in_where_there_is_no_exposure_time():
    assert read_back({DATE_TIME: "2020:01:01 00:00:00"}).taken_at == "2020-01-01T00:00:00"
    unset = {ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: "2009:10:22 16:28:39"}
    assert read_back({}, unset).taken_at == "2009-10-22T16:28:39"


def test_image_without_exif_has_none_of_it():
    assert read_exif(Image.new("RGB", (4, 4))) == Exif(orientation=1, taken_at=None, camera=None)


@settings(max_examples=200, deadline=None)
@given(block=st.binary(max_size=200))
def test_no_block_of_bytes_makes_it_raise(block):
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = b"Exif\0\0" + block
    assert isinstance(read_exif(image), Exif)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_no_flipped_byte_makes_it_raise(position, value):
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[0x0112] = "Canon", "EOS", 6
    exif.get_ifd(ExifTags.IFD.Exif)[ORIGINAL] = "2008:10:22 16:28:39"
    block = bytearray(exif.tobytes())
    block[position % len(block)] = value
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = bytes(block)
    assert 1 <= read_exif(image).orientation <= 8


def test_block_that_cannot_be_parsed_at_all_counts_as_none(monkeypatch):
    def fail(self: object) -> None:
        raise KeyError(0)

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_exif(Image.new("RGB", (4, 4))) == Exif()


@pytest.mark.shared
def test_real_camera_files_give_time_and_camera(shared_photos):
    folder = shared_photos / "odd" / "exif"
    found = {}
    for name in ("jpg_Canon_PowerShot_S40.jpg", "jpg_gps_DSCN0010.jpg", "jpg_Nikon_D70.jpg"):
        with Image.open(folder / name) as image:
            found[name] = read_exif(image)
    assert found == {
        "jpg_Canon_PowerShot_S40.jpg": Exif(
            taken_at="2003-12-14T12:01:44", camera="Canon PowerShot S40"
        ),
        "jpg_gps_DSCN0010.jpg": Exif(taken_at="2008-10-22T16:28:39", camera="NIKON COOLPIX P6000"),
        "jpg_Nikon_D70.jpg": Exif(taken_at="2008-03-15T09:52:01", camera="NIKON D70"),
    }
