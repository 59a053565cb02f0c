"""The labeling page in a real browser, compared with the catalog on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.photos.catalog.catalog import Catalog
from tests.web.annotate.reconnect import killed_at_exit

pytestmark = pytest.mark.browser


def shown(page: Any) -> str:
    """Returns the name of the photo in the single-photo view."""
    return str(page.inner_text(".caption .file"))


def decisions(catalog: Catalog, kind: str) -> dict[str, str]:
    """Returns the decisions of one kind, by photo digest."""
    found = catalog.annotations().items()
    return {digest: one.decisions[kind] for digest, one in found if kind in one.decisions}


def toast(page: Any, text: str) -> None:
    """Waits for a message on the page."""
    page.wait_for_function(
        "text => document.querySelector('#toast p')?.textContent.includes(text)", arg=text
    )


def type_label(page: Any, label: str) -> None:
    page.keyboard.press("/")
    page.keyboard.insert_text(label)
    page.keyboard.press("Enter")


def next_shown(page: Any, before: str) -> None:
    page.wait_for_function(
        "name => document.querySelector('.caption .file')?.textContent !== name", arg=before
    )


def appeared(page: Any) -> None:
    """Waits until the current photo has been on screen for a frame."""
    page.wait_for_function("() => document.querySelector('.holder .photo')?.complete")
    page.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 50))")


def test_photos_are_labeled_by_keyboard_alone(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, truth = flat
    server = serve(folder)
    page = open_page(server.address)
    page.keyboard.press("t")  # near-duplicates one by one
    keys: dict[str, str] = {}
    given: dict[str, str] = {}
    for _ in range(16):
        name = shown(page)
        label = truth[name]
        if label in keys:
            page.keyboard.press(keys[label])
        else:
            keys[label] = str(len(keys) + 1)
            type_label(page, label)
        given[name] = label
        next_shown(page, name)
    labels = server.labels()
    copies = {photo: label for photo, label in labels.items() if label}
    assert {name: labels[name] for name in given} == {n: (label,) for n, label in given.items()}
    # A copy of a labeled file has the same label; no other photo has one.
    assert len(copies) - len(given) in (0, 1)

    page.keyboard.press("u")
    toast(page, "Undone: label 1 photo")
    undone = shown(page)
    assert server.labels()[undone] == ()
    page.keyboard.press("Shift+U")
    toast(page, "Redone: label 1 photo")
    assert server.labels()[undone] == (given[undone],)

    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#tally").startswith(f"{len(copies)} of ")
    assert server.labels() == labels


def test_undo_goes_back_to_the_first_action(
    serve: Callable[..., Any],
    open_page: Callable[..., Any],
    flat: tuple[Path, dict[str, str]],
    wait_until: Callable[..., Any],
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["a", "b"])
    page = open_page(server.address)
    for key in "t12f12x1":
        if key == "t":
            page.keyboard.press(key)
            continue
        name = shown(page)
        page.keyboard.press(key)
        if key == "f":
            toast(page, "Flag 1 photo")
        else:
            next_shown(page, name)
    for _ in range(7):
        page.keyboard.press("u")
    wait_until(lambda: server.session.catalog.latest()[0] == 0)
    assert set(server.labels().values()) == {()}
    with server.catalog() as catalog:
        assert decisions(catalog, "flag") == decisions(catalog, "exclude") == {}
    for _ in range(7):
        page.keyboard.press("Shift+U")
    wait_until(lambda: server.session.catalog.latest()[1] == 0)
    with server.catalog() as catalog:
        assert len(decisions(catalog, "flag")) == len(decisions(catalog, "exclude")) == 1
    assert sorted(filter(None, server.labels().values()))[0] == ("a",)


def test_g_selects_the_near_duplicates_and_one_key_labels_them_all(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["first", "second"])
    page = open_page(server.address)
    page.select_option("#sort", "group")
    group = page.locator('.strip[aria-label="Near-duplicates"] .thumb')
    members = group.count()
    assert members >= 2
    page.keyboard.press("t")
    assert page.locator(".thumb.selected").count() == 0
    page.keyboard.press("g")
    page.wait_for_function(
        "count => document.querySelectorAll('.thumb.selected').length === count", arg=members
    )
    page.keyboard.press("2")
    toast(page, f"Label {members} photos as 'second'")
    assert sum(label == ("second",) for label in server.labels().values()) == members
    page.keyboard.press("u")
    toast(page, "Undone")
    assert set(server.labels().values()) == {()}


def test_near_duplicates_are_labeled_together_unless_excluded(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["first", "second"])
    page = open_page(server.address)
    page.select_option("#sort", "group")
    strip = page.locator('.strip[aria-label="Near-duplicates"] .thumb')
    members, name = strip.count(), shown(page)
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    toast(page, "Label 1 photo as 'first'")
    next_shown(page, name)
    page.keyboard.press("u")
    toast(page, "Undone")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    toast(page, f"Label {members} photos as 'second'")
    assert sum(labels == ("second",) for labels in server.labels().values()) == members


def test_k_keeps_one_photo_of_a_group(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder)
    page = open_page(server.address)
    page.select_option("#sort", "group")
    members = page.locator('.strip[aria-label="Near-duplicates"] .thumb').count()
    appeared(page)
    page.keyboard.press("k")
    toast(page, "Keep one of")
    with server.catalog() as catalog:
        assert len(decisions(catalog, "exclude")) >= members - 1
        kept = {photo.path for photo in catalog.collection(folder).photos}
    assert shown(page) in kept


def test_a_crop_is_placed_by_keyboard_and_kept_after_a_reload(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder)
    page = open_page(server.address)
    name = shown(page)
    page.keyboard.press("c")
    page.wait_for_selector(".crop-box:focus")
    page.keyboard.press("c")  # center
    for key in ("-", "-", "-", "ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    toast(page, "Crop 1 photo")
    with server.catalog() as catalog:
        (photo,) = [p for p in catalog.collection(folder).photos if p.path == name]
    width, height, crop = photo.width, photo.height, photo.crop
    assert crop is not None
    assert crop.side == pytest.approx(1.05**-3, abs=1e-4)
    short = min(width, height)
    assert crop.center_x == pytest.approx(0.5 - 0.01 * short / width, abs=1e-4)
    assert crop.center_y == pytest.approx(0.5 - 0.02 * short / height, abs=1e-4)
    page.reload()
    page.wait_for_selector(".crop-layer.quiet .crop-box")
    left, top, right, bottom = crop.box(width, height)
    box = page.locator(".crop-box").bounding_box()
    holder = page.locator(".holder").bounding_box()
    scale = holder["width"] / width
    assert box["x"] - holder["x"] == pytest.approx(left * scale, abs=2)
    assert box["y"] - holder["y"] == pytest.approx(top * scale, abs=2)
    assert box["width"] == pytest.approx((right - left) * scale, abs=2)
    assert box["height"] == pytest.approx((bottom - top) * scale, abs=2)


def test_a_crop_is_dragged_and_resized_and_stays_square(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder)
    page = open_page(server.address)
    page.keyboard.press("c")
    page.wait_for_selector(".crop-box:focus")
    page.keyboard.press("c")
    before = page.locator(".crop-box").bounding_box()
    corner = page.locator(".corner.se").bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y - 100, steps=4)
    page.mouse.up()
    small = page.locator(".crop-box").bounding_box()
    assert small["width"] == pytest.approx(before["width"] - 100, abs=3)
    assert small["width"] == pytest.approx(small["height"], abs=1)
    assert small["x"] == pytest.approx(before["x"], abs=2)
    page.mouse.move(small["x"] + 30, small["y"] + 30)
    page.mouse.down()
    page.mouse.move(small["x"] + 50, small["y"] + 40, steps=4)
    page.mouse.up()
    moved = page.locator(".crop-box").bounding_box()
    assert moved["x"] - small["x"] == pytest.approx(20, abs=2)
    assert moved["y"] - small["y"] == pytest.approx(10, abs=2)
    page.keyboard.press("w")  # the whole photo
    page.keyboard.press("Enter")
    toast(page, "Crop 1 photo")
    with server.catalog() as catalog:
        (crop,) = catalog.crops().values()
    assert crop.center_x == crop.center_y == 0.5
    assert crop.side == pytest.approx(4 / 3, abs=1e-3)


def test_the_later_of_two_tabs_is_refused_and_overwrites_nothing(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server = serve(folder, labels=["first", "second"])
    one = open_page(server.address)
    two = open_page(server.origin, context=one.context)
    # The second tab gets no updates until it acts.
    two.route("**/api/photos?since=*", lambda route: route.abort())
    name = shown(one)
    assert shown(two) == name
    one.keyboard.press("1")
    next_shown(one, name)
    two.keyboard.press("2")
    toast(two, "Another window changed this first. Nothing was overwritten.")
    assert server.labels()[name] == ("first",)
    two.wait_for_function(
        "() => document.querySelector('.suggestion .assigned')?.textContent.includes('first')"
    )
    two.keyboard.press("2")
    toast(two, "Label 1 photo as 'second'")
    assert server.labels()[name] == ("second",)


def test_kill_9_loses_no_decision(
    open_page: Callable[..., Any], demo_collection: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted(demo_collection.glob("*heron/*"))):
        shutil.copyfile(path, folder / f"{number}.jpg")
    given: dict[str, tuple[str, ...]] = {}
    with killed_at_exit(folder) as address:
        page = open_page(address, server_dies=True)
        page.keyboard.press("t")  # near-duplicates one by one
        for key, label in (("1", "a"), ("2", "b"), ("1", "a"), ("2", "b")):
            name = shown(page)
            page.keyboard.press(key)
            next_shown(page, name)
            page.wait_for_function(
                "start => document.querySelector('#tally').textContent.startsWith(start)",
                arg=f"{len(given) + 1} of ",
            )
            given[name] = (label,)
    page.close()
    with Catalog(folder / ".finetune" / "catalog.sqlite3") as catalog:
        kept = catalog.assigned_labels()
    assert sorted(kept.values()) == sorted(given.values())

    with killed_at_exit(folder) as address:
        page = open_page(address, server_dies=True)
        assert page.inner_text("#tally").startswith("4 of ")
        assert shown(page) not in given
        page.keyboard.press("t")
        page.keyboard.press("1")
        toast(page, "Label 1 photo as 'a'")
    with Catalog(folder / ".finetune" / "catalog.sqlite3") as catalog:
        assert len(catalog.assigned_labels()) == 5


def test_hostile_names_are_shown_as_text(
    serve: Callable[..., Any], open_page: Callable[..., Any], demo_collection: Path, tmp_path: Path
) -> None:
    names = [
        '<img src=x onerror="window.hacked=1">.jpg',
        "カワセミ.jpg",
        "a\\b\"c'.jpg",
        "{{ 7*7 }}<script>window.hacked=1<" + "\u2044script>.jpg",
        "javascript:window.hacked=1.jpg",
    ]
    photos = sorted(path for path in demo_collection.glob("*/*") if path.is_file())
    folder = tmp_path / "<b>odd & 'quoted'"
    folder.mkdir()
    readable = [path for path in photos if path.stat().st_size > 1500]
    for name, path in zip(names, readable, strict=False):
        (folder / name).write_bytes(path.read_bytes())
    server = serve(folder)
    page = open_page(server.address + "#view=single&show=all&sort=path")
    page.keyboard.press("t")
    seen = []
    for _ in names:
        seen.append(shown(page))
        label = f"<svg onload=window.hacked=1> {len(seen)}"
        type_label(page, label)
        toast(page, f"Label 1 photo as {label!r}")
        if len(seen) < len(names):
            next_shown(page, seen[-1])
    assert sorted(seen) == sorted(names)
    assert page.inner_text(".name") == folder.name
    page.keyboard.press("v")
    page.wait_for_selector(".cell.loaded")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("svg, #side img, b script").count() == 0
    assert sorted(server.labels().values())[0] == ("<svg onload=window.hacked=1> 1",)


def test_the_grid_selects_ranges_and_labels_them(
    serve: Callable[..., Any], open_page: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    page = open_page(server.address)
    assert page.get_attribute("body", "data-view") == "grid"
    page.wait_for_selector(".cell.loaded")
    page.keyboard.press("t")  # near-duplicates one by one
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator('.cell[aria-selected="true"]').count() == 3
    type_label(page, "wren")
    toast(page, "Label 3 photos as 'wren'")
    assert sum(labels == ("wren",) for labels in server.labels().values()) == 3
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    page.keyboard.press("x")
    toast(page, "Reject 1 photo")
    with server.catalog() as catalog:
        assert list(decisions(catalog, "exclude").values()) == ["rejected"]
    cell = page.locator(".cell.out")
    assert cell.count() == 1
    assert "rejected" in (cell.get_attribute("aria-label") or "")


def test_a_label_conflict_is_resolved_by_one_key(
    serve: Callable[..., Any], open_page: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    page = open_page(server.address + "#view=single&show=conflicts&sort=path")
    choices = page.locator(".choice .assigned b")
    assert choices.count() == 2
    wanted = choices.nth(1).inner_text()
    page.keyboard.press("2")
    toast(page, "Resolve")
    with server.catalog() as catalog:
        assert set(catalog.assigned_labels().values()) == {(wanted,)}
    page.wait_for_function("() => document.querySelector('.choice') === null")


def test_every_control_has_a_name_and_can_be_reached_with_tab(
    shared_server: Any, open_page: Callable[..., Any]
) -> None:
    page = open_page(shared_server.address)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, [role=option], [tabindex]')]
            .filter((node) => node.checkVisibility())
            .filter((node) => !(node.ariaLabel || node.getAttribute('aria-label')
                || node.textContent.trim() || node.labels?.length))
            .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        outlined = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        at_body = page.evaluate("document.activeElement === document.body")
        assert at_body or outlined == "solid"
    assert {"filter", "sort", "to-grid", "to-single", "help", "finder", "grid", "label"} <= reached


def test_question_mark_lists_every_key(shared_server: Any, open_page: Callable[..., Any]) -> None:
    page = open_page(shared_server.address)
    page.keyboard.press("?")
    dialog = page.locator("dialog")
    text = dialog.inner_text()
    for key in ("1 – 9", "Enter", "Space", "Shift U", "G", "X", "F", "U", "C", "K", "A", "/"):
        assert re.search(rf"^\s*{re.escape(key)}\s*$", text, re.MULTILINE), key
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")  # the close event removes the dialog


def test_the_page_fits_wide_and_narrow_windows(
    shared_server: Any, open_page: Callable[..., Any]
) -> None:
    page = open_page(shared_server.address)
    for width in (1200, 760, 390):
        page.set_viewport_size({"width": width, "height": 780})
        for view in ("grid", "single"):
            page.click(f"#to-{view}")
            page.wait_for_selector(
                ".cell.loaded:not([hidden])" if view == "grid" else ".holder .photo"
            )
            size = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert size[0] <= size[1]
            outside = page.evaluate(
                """() => [...document.querySelectorAll('header button, header select, .frame')]
                    .filter((node) => node.checkVisibility())
                    .filter((node) => { const box = node.getBoundingClientRect();
                        return box.left < -1 || box.right > innerWidth + 1; })
                    .map((node) => node.outerHTML.slice(0, 120))"""
            )
            assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(
    shared_server: Any, open_page: Callable[..., Any], scheme: str
) -> None:
    page = open_page(shared_server.address, color_scheme=scheme)
    page.click("#to-single")
    page.wait_for_selector(".suggestion .assigned")
    texts = (".name", "#tally", ".suggestion .quiet", ".label:not(.has) .count", ".details")
    for selector in texts:
        colors = page.evaluate(
            """(selector) => { let node = document.querySelector(selector);
                const text = getComputedStyle(node).color;
                let ground = 'rgba(0, 0, 0, 0)';
                for (; node && ground === 'rgba(0, 0, 0, 0)'; node = node.parentElement)
                    ground = getComputedStyle(node).backgroundColor;
                return [text, ground]; }""",
            selector,
        )
        assert contrast(*colors) >= 4.5, (selector, colors)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two CSS colors (WCAG 2.1, relative luminance)."""

    def luminance(color: str) -> float:
        levels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lower, higher = sorted((luminance(first), luminance(second)))
    return (higher + 0.05) / (lower + 0.05)
