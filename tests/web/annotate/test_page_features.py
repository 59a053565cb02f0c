"""Cohorts, zoom, comparison, label management, search and languages in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from finetune.demo_data import draw_collection
from finetune.web.annotate import watch
from finetune.web.annotate.photo_state import CohortOffer, Suggestions

pytestmark = pytest.mark.browser

Serve = Callable[..., Any]
Flat = tuple[Path, dict[str, str]]


def toast(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#toast p')?.textContent.includes(text)", arg=text
    )


def offer(server: Any, label: str, count: int, labels: tuple[str, ...] = ()) -> list[Any]:
    """Offers a cohort, as the worker would, of the last photos in the list."""
    states = [s for s in server.session.index.states() if s.problem is None and not s.group]
    chosen = states[-count:]
    server.session.index.cohort = CohortOffer(
        number=1, ids=tuple(state.id for state in chosen), labels=labels or (label,) * count
    )
    shares = {state.id: Suggestions(ranked=((label, 0.9),), share=0.96) for state in chosen}
    server.session.index.update_suggestions(shares)
    return chosen


def test_a_labels_exactly_the_ticked_photos_of_a_cohort(
    serve: Serve, open_page: Callable[..., Any], flat: Flat
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["heron", "wren"])
    states = offer(server, "wren", 12)
    page = open_page(server.address)
    page.wait_for_selector(".cohort")
    assert page.locator(".cohort .tile.in").count() == 12
    assert "12 photos look like" in page.inner_text(".cohort .strip-head")
    assert "96\u202f%" in page.inner_text(".cohort .strip-head")
    boxes = page.locator(".cohort .tile").evaluate_all(
        "tiles => tiles.map((tile) => { const box = tile.getBoundingClientRect();"
        " return [box.top, box.bottom, box.left, box.right]; })"
    )
    assert all(0 <= top < bottom <= 800 and 0 <= left < right for top, bottom, left, right in boxes)
    page.wait_for_timeout(500)  # a key at once could be meant for the photo before
    page.click(f'.cohort .tile[title="{states[2].path}"]')
    for key in ",5,":
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelectorAll('.cohort .tile.in').length === 10")
    page.keyboard.press("a")
    toast(page, "Accept 'wren' for 10 photos")
    labels = server.labels()
    expected = {state.path for place, state in enumerate(states) if place not in (2, 4)}
    assert {path for path, given in labels.items() if given == ("wren",)} == expected
    page.keyboard.press("u")
    toast(page, "Undone")
    assert set(server.labels().values()) == {()}


def test_photos_of_several_labels_are_accepted_together_each_with_its_own(
    serve: Serve, open_page: Callable[..., Any], flat: Flat
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["heron", "wren"])
    labels = ("wren", "", "heron") * 4
    states = offer(server, "wren", 12, labels)
    page = open_page(server.address)
    page.wait_for_selector(".cohort")
    assert "12 photos probably show what they say" in page.inner_text(".cohort .strip-head")
    tags = page.locator(".cohort .tile .tag").all_inner_texts()
    assert tags == ["heron"] * 4 + ["wren"] * 4 + ["none of the labels"] * 4
    page.wait_for_timeout(500)  # a key at once could be meant for the photo before
    page.click(f'.cohort .tile[title="{states[0].path}"]')
    page.keyboard.press("a")
    toast(page, "for 11 photos")
    with server.catalog() as catalog:
        given = catalog.assigned_labels()
    wanted = {
        state.digest: (label,) if label else ()
        for state, label in zip(states[1:], labels[1:], strict=True)
    }
    assert given == wanted


def test_a_cohort_can_be_dismissed_and_none_of_the_labels_can_be_one(
    serve: Serve, open_page: Callable[..., Any], flat: Flat
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["heron", "wren"])
    states = offer(server, "", 11)
    page = open_page(server.address)
    page.wait_for_selector(".cohort")
    page.wait_for_timeout(500)  # a key at once could be meant for the photo before
    page.keyboard.press("a")
    toast(page, "Accept none of the labels for 11 photos")
    with server.catalog() as catalog:
        assert set(catalog.assigned_labels().values()) == {()}
    found = {photo.path: photo.confirmed for photo in _photos(server)}
    assert {path for path, confirmed in found.items() if confirmed} == {s.path for s in states}


def _photos(server: Any) -> Any:
    with server.catalog() as catalog:
        return catalog.collection(server.root).photos


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Three photos of 2400 x 1600 pixels, the first two with a camera and a place."""
    folder = tmp_path / "large"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        small = Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8))
        exif = Image.Exif()
        if number < 2:
            exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon", "Canon EOS R7"
            exif[ExifTags.Base.DateTime] = f"2024:05:0{number + 1} 12:30:00"
            exif[ExifTags.IFD.Exif] = {
                ExifTags.Base.ExposureTime: 0.002,
                ExifTags.Base.FNumber: 7.1,
                ExifTags.Base.DateTimeOriginal: f"2024:05:0{number + 1} 12:30:00",
            }
            exif[ExifTags.IFD.GPSInfo] = {
                ExifTags.GPS.GPSLatitudeRef: "S",
                ExifTags.GPS.GPSLatitude: (35.0, 30.0, 0.0),
                ExifTags.GPS.GPSLongitudeRef: "E",
                ExifTags.GPS.GPSLongitude: (139.0, 0.0, 36.0),
            }
        picture = small.resize((2400, 1600), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", exif=exif)
    return folder


def test_zoom_reaches_the_pixels_of_the_original_and_stays_while_stepping(
    serve: Serve, open_page: Callable[..., Any], large: Path
) -> None:
    server = serve(large, labels=["a"])
    page = open_page(server.address + "#view=single&show=all&sort=path")
    page.wait_for_selector(".holder .photo")
    page.keyboard.press("z")
    page.wait_for_selector(".frame.zoomed .full.loaded")
    assert page.get_attribute(".frame", "data-zoom") == "100"
    size = page.evaluate(
        "() => { const full = document.querySelector('.full');"
        " return [full.naturalWidth, full.getBoundingClientRect().width]; }"
    )
    assert size == [2400, pytest.approx(2400, abs=2)]
    frame = page.locator(".frame").bounding_box()
    page.mouse.move(frame["x"] + 300, frame["y"] + 200)
    page.mouse.down()
    page.mouse.move(frame["x"] + 200, frame["y"] + 150, steps=3)
    page.mouse.up()
    page.wait_for_timeout(200)
    place = page.get_attribute(".frame", "data-center")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('.photo[alt^="1.jpg"]')
    page.wait_for_selector(".frame.zoomed")
    page.wait_for_selector(f'.frame[data-center="{place}"][data-zoom="100"]')
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => Number(document.querySelector('.frame').dataset.zoom) > 150")
    page.keyboard.press("z")
    page.wait_for_selector(".frame:not(.zoomed)")
    page.locator(".holder").dblclick()
    page.wait_for_selector(".frame.zoomed")


def test_camera_place_and_search(
    serve: Serve, open_page: Callable[..., Any], large: Path, wait_until: Callable[..., Any]
) -> None:
    server = serve(large, labels=["a"])
    page = open_page(server.address + "#view=single&show=all&sort=path")
    page.keyboard.press("i")
    text = page.inner_text("dialog")
    for part in ("Canon EOS R7", "1/500 s", "f/7.1", "-35.50000, 139.01000"):
        assert part in text
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    wait_until(lambda: len(server.session.places()) == 2)
    page.keyboard.press("p")
    page.locator(".map .dot").click()
    page.wait_for_selector(".cell.loaded")
    assert page.locator(".cell:not([hidden])").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelectorAll('.cell:not([hidden])').length === 3")
    page.keyboard.press("]")
    page.keyboard.press("]")
    toast(page, "Give 1 photo 2 stars")
    for words, found in (("canon 2024-05-02", 1), ("eos", 2), ("**", 1), ("nothing", 0)):
        page.keyboard.press("Control+f")
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(words)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "count => document.querySelectorAll('.cell:not([hidden])').length === count", arg=found
        )
    page.keyboard.press("Control+f")
    page.keyboard.press("Escape")
    page.select_option("#sort", "time")
    page.wait_for_selector(".day")
    assert page.locator(".day").all_inner_texts()[:2] == [
        "May 1, 2024 · 1 photo",
        "May 2, 2024 · 1 photo",
    ]
    assert page.locator(".timeline button").count() == 3


@pytest.fixture
def bursts(tmp_path: Path) -> Path:
    """Photos of which some are near-duplicates."""
    folder = tmp_path / "bursts"
    draw_collection(folder, species=2, photos_per_species=9, size=(160, 120), seed=3, workers=1)
    return folder


def test_bursts_are_stacked_compared_and_corrected(
    serve: Serve, open_page: Callable[..., Any], bursts: Path, wait_until: Callable[..., Any]
) -> None:
    server = serve(bursts)
    index = server.session.index
    page = open_page(server.address + "#view=grid&show=all&sort=path")
    page.wait_for_selector(".cell.stacked")
    stacked = page.locator(".cell.stacked").first
    count = int(stacked.locator(".stack").inner_text())
    assert count >= 2
    stacked.click()
    page.keyboard.press("b")
    page.wait_for_selector(".compare")
    shown = page.locator(".compared").count()
    assert shown == min(count, 4)
    assert page.locator(".compared meter").count() == shown
    page.keyboard.press("z")
    page.wait_for_function(
        "count => document.querySelectorAll('.compared .frame.zoomed').length === count", arg=shown
    )
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    toast(page, "Reject 1 photo")
    page.wait_for_selector(".compared.out.current")
    page.keyboard.press("x")
    toast(page, "Restore 1 photo")
    page.keyboard.press("k")
    toast(page, f"Keep one of {count} photos")
    page.keyboard.press("u")
    toast(page, "Undone: keep one of")
    page.keyboard.press("Escape")
    page.wait_for_selector(".holder .photo")
    shown_id = page.evaluate("() => new URLSearchParams(location.hash.slice(1)).get('at')")
    group = index.get(shown_id).group
    page.keyboard.press("Shift+J")
    toast(page, "Take 1 photo out of the group")
    wait_until(lambda: index.get(shown_id).group is None)
    page.keyboard.press("u")
    wait_until(lambda: index.get(shown_id).group == group)


def test_labels_are_renamed_and_merged_from_the_page(
    serve: Serve, open_page: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    before = server.labels()
    first, second, *_ = server.session.index.labels
    page = open_page(server.address)
    page.on("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("m")
    name = page.get_by_label(f"Name of {first}")
    name.fill("grebe")
    name.press("Enter")
    toast(page, f"Rename the label {first!r} to 'grebe'")
    assert server.session.index.labels[0] == "grebe"
    merged = page.get_by_label(f"Name of {second}")
    merged.fill("grebe")
    merged.press("Enter")
    toast(page, f"Rename the label {second!r} to 'grebe'")
    assert second not in server.session.index.labels
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    assert f"rename the label {first!r} to 'grebe'" in page.inner_text(".history")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    for _ in range(2):
        page.keyboard.press("u")
        toast(page, "Undone: rename")
    page.wait_for_function("() => document.querySelector('#undo').disabled")
    assert server.labels() == before


def test_doubted_labels_are_confirmed_and_leave_the_list(
    serve: Serve, open_page: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    index = server.session.index
    doubted = [state for state in index.states() if state.problem is None][:3]
    other = index.labels[-1]
    index.update_suggestions(
        {s.id: Suggestions(ranked=((other, 0.9),), disagreement=0.9) for s in doubted}
    )
    page = open_page(server.address)
    options = page.locator("#filter option").all_inner_texts()
    assert "possible label errors (3)" in options
    index.jobs.check.state = "done"
    page.select_option("#filter", "errors")
    page.click("#to-single")
    page.wait_for_selector(".suggestion .warning")
    page.keyboard.press("Enter")
    toast(page, "Confirm the label of 1 photo")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#filter option')]"
        ".some((option) => option.textContent === 'possible label errors (2)')"
    )
    confirmed = [found for found in _annotations(server).values() if "confirmed" in found.decisions]
    assert len(confirmed) == 1


def _annotations(server: Any) -> Any:
    with server.catalog() as catalog:
        return catalog.annotations()


def test_new_and_removed_photos_appear_within_seconds(
    serve: Serve,
    open_page: Callable[..., Any],
    flat: Flat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.3)
    folder, _ = flat
    server = serve(folder)
    page = open_page(server.address)
    before = len(server.session.index)
    source = sorted(folder.glob("*.jpg"))[0]
    Image.open(source).transpose(Image.Transpose.ROTATE_90).save(folder / "new.jpg")
    text = "count => document.querySelector('#tally').textContent.includes(` ${count} photos`)"
    readable = sum(state.problem is None for state in server.session.index.states())
    page.wait_for_function(text, arg=readable + 1)
    assert len(server.session.index) == before + 1
    (folder / "new.jpg").unlink()
    page.wait_for_function(text, arg=readable)


def test_the_last_label_shows_a_card_with_the_next_commands(
    serve: Serve, open_page: Callable[..., Any], large: Path
) -> None:
    server = serve(large, labels=["a", "b"])
    page = open_page(server.address)
    page.keyboard.press("t")
    for key in "121":
        name = page.inner_text(".caption .file")
        page.keyboard.press(key)
        page.wait_for_function(
            "name => document.querySelector('.caption .file')?.textContent !== name"
            " || document.querySelector('.done')",
            arg=name,
        )
    card = page.locator(".done")
    card.wait_for()
    assert "All 3 photos are labeled." in card.inner_text()
    assert f"finetune train {large}" in card.inner_text()


def test_japanese_and_an_input_method(
    serve: Serve, open_page: Callable[..., Any], flat: Flat
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["heron"])
    page = open_page(server.address, locale="ja-JP")
    assert page.get_attribute("html", "lang") == "ja"
    assert page.get_attribute("#search", "placeholder") == "検索"
    page.keyboard.press("t")
    devices = page.context.new_cdp_session(page)
    # While an input method composes, its keys set no label and do not end the input.
    page.keyboard.press("/")
    devices.send(
        "Input.imeSetComposition", {"text": "カワ", "selectionStart": 2, "selectionEnd": 2}
    )
    devices.send(
        "Input.dispatchKeyEvent",
        {"type": "rawKeyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229},
    )
    assert page.input_value("#finder") == "カワ"
    devices.send("Input.insertText", {"text": "カワセミ"})
    assert set(server.labels().values()) == {()}
    page.keyboard.press("Enter")
    toast(page, "1枚に'カワセミ'のラベル")
    devices.send(
        "Input.dispatchKeyEvent",
        {"type": "rawKeyDown", "key": "Process", "code": "Digit1", "windowsVirtualKeyCode": 229},
    )
    page.wait_for_timeout(300)
    assert sorted(server.labels().values())[-2:] == [(), ("カワセミ",)]
    english = open_page(server.address + "&lang=en", locale="ja-JP")
    assert english.get_attribute("#search", "placeholder") == "Search"


@pytest.mark.parametrize(("width", "height"), [(360, 740), (640, 400), (1280, 800)])
def test_labels_and_actions_are_visible_on_phones_and_at_200_percent(
    serve: Serve, open_page: Callable[..., Any], flat: Flat, width: int, height: int
) -> None:
    folder, _ = flat
    names = ["Yellow-bellied Flycatcher", "heron", "wren"]
    server = serve(folder, labels=names)
    offer(server, "wren", 12)
    touch = width == 360
    page = open_page(
        server.address,
        viewport={"width": width, "height": height},
        has_touch=touch,
        is_mobile=touch,
    )
    page.wait_for_selector(".holder .photo")
    for selector in (".holder", "#labels .label", ".commands button", ".cohort .primary", "#jobs"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None, selector
        assert box["x"] >= -1, selector
        assert box["y"] >= -1, selector
        assert box["x"] + box["width"] <= width + 1, (selector, box)
        assert box["y"] + box["height"] <= height + 1, (selector, box)
    assert page.locator(".holder").bounding_box()["height"] > 60
    assert page.locator("#labels kbd").first.is_visible() is not touch
    counts = page.locator("#labels .count")
    assert counts.first.bounding_box()["width"] > 0
    if touch:
        page.click("#to-grid")
        page.wait_for_selector(".cell.loaded")
        cell = page.locator('.cell[aria-posinset="1"]').bounding_box()
        devices = page.context.new_cdp_session(page)
        point = {"x": cell["x"] + 40, "y": cell["y"] + 60}
        devices.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        page.wait_for_timeout(700)
        devices.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_selector('.cell[aria-selected="true"]')
        page.locator('.cell[aria-posinset="2"]').tap()
        page.wait_for_function(
            "() => document.querySelectorAll('.cell[aria-selected=\"true\"]').length === 2"
        )


def test_a_page_goes_on_after_the_server_was_killed(
    open_page: Callable[..., Any], flat: Flat, tmp_path: Path
) -> None:
    from tests.web.annotate.reconnect import free_port, killed_at_exit

    folder, _ = flat
    shutil.rmtree(folder / ".finetune", ignore_errors=True)
    port = free_port()
    with killed_at_exit(folder, port) as address:
        page = open_page(address, server_dies=True)
        page.keyboard.press("t")
        page.keyboard.press("1")
        toast(page, "Label 1 photo as 'a'")
    toast(page, "finetune annotate has stopped")
    with killed_at_exit(folder, port):
        toast(page, "Reconnected")
        page.keyboard.press("2")
        toast(page, "Label 1 photo as 'b'")
    token = folder / ".finetune" / "annotate.token"
    assert token.stat().st_mode & 0o777 == 0o600
