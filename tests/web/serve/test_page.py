from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("playwright")

from finetune import train
from finetune.config_io import resolve
from finetune.prediction.predictor import Predictor
from finetune.web.security import policy_for
from finetune.web.serve.app import serve_app
from finetune.web.server import Server, listen
from tests.axe import serious_violations

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    draw: Callable[..., Image.Image],
) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("served")
    for index, label in enumerate(["ant <b>x</b>", "bee"]):
        (root / "photos" / label.replace("/", "")).mkdir(parents=True)
        for number in range(6):
            draw(index, number).save(root / "photos" / label.replace("/", "") / f"{number}.png")
    flags = {
        "model": "test_resnet",
        "weights": str(tiny_weights),
        "size": 48,
        "device": "cpu",
        "epochs": 1,
        "mode": "head",
    }
    run = train(root / "photos", resolve({}, flags), run="tiny", runs=root / "runs").run.path
    listening = listen("127.0.0.1", 0)
    policy = policy_for("127.0.0.1", listening.getsockname()[1], None)
    server = Server(serve_app(Predictor.load(run), policy), listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/", root / "photos"
    server.stop()
    thread.join()
    listening.close()


def test_photos_get_bars_and_a_heatmap(
    browser: Any, site: tuple[str, Path], tmp_path: Path
) -> None:
    address, photos = site
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no photo")
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    good = sorted(photos.rglob("*.png"))[:2]
    page.set_input_files("#files", [str(path) for path in (*good, bad)])
    page.locator(".bars, .failed").nth(2).wait_for()
    cards = page.locator(".result")
    assert cards.count() == 3
    assert cards.nth(2).locator(".failed").inner_text() == (
        "The photo cannot be opened: not a photo."
    )
    # Markup in a label is shown as it is.
    labels = cards.nth(0).locator(".label").all_inner_texts()
    assert sorted(labels) == ["ant <b>x<b>", "bee"]
    widths = [
        float(style.split("width:")[1].strip(" ;%"))
        for style in cards.nth(0)
        .locator(".fill")
        .evaluate_all("all => all.map(each => each.getAttribute('style'))")
    ]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert widths == sorted(widths, reverse=True)
    image = cards.nth(0).locator("img")
    before = image.get_attribute("src")
    cards.nth(0).get_by_role("button", name="bee").click()
    page.wait_for_function(
        "before => document.querySelector('.result img').src !== before", arg=before
    )
    page.wait_for_function("() => document.querySelector('.result img').naturalWidth === 448")
    cards.nth(0).get_by_role("button", name="Show photo").click()
    page.get_by_role("button", name="Clear").click()
    assert cards.count() == 0
    assert problems == []
    context.close()


def test_many_photos_are_a_table_with_csv_and_a_review_list(
    browser: Any, site: tuple[str, Path], tmp_path: Path
) -> None:
    address, photos = site
    good = sorted(photos.rglob("*.png"))[:2]
    empty = tmp_path / "=empty.png"
    empty.write_bytes(b"")
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.set_input_files("#files", [str(path) for path in (*good, empty)])
    page.locator(".bars, .failed").nth(2).wait_for()
    page.get_by_role("button", name="Show as a table").click()
    assert page.locator("#results").is_hidden()
    rows = page.locator("#rows tr")
    assert rows.count() == 3
    assert rows.nth(2).locator(".failed").inner_text() == "The file is empty."
    rows.nth(1).get_by_role("button", name="Wrong?").click()
    page.keyboard.type("bee, surely")
    with page.expect_download() as review:
        page.get_by_role("button", name="Review list (1)").click()
    read = list(csv.reader(review.value.path().read_text("utf-8-sig").splitlines()))
    assert read == [["filename", "label"], [good[1].name, "bee, surely"]]
    with page.expect_download() as table:
        page.get_by_role("button", name="Download CSV").click()
    read = list(csv.reader(table.value.path().read_text("utf-8-sig").splitlines()))
    assert read[0] == ["filename", "status", "label", "probability", "error", "correct_label"]
    assert [row[0] for row in read[1:]] == [good[0].name, good[1].name, "'=empty.png"]
    assert [row[1] == "failed" for row in read[1:]] == [False, False, True]
    assert read[2][5] == "bee, surely"
    context.close()


def test_a_photo_that_the_browser_cannot_show_is_shown_as_the_server_decodes_it(
    browser: Any, site: tuple[str, Path], tmp_path: Path
) -> None:
    address, photos = site
    file = tmp_path / "photo.tif"  # Chromium shows no TIFF, as other browsers show no HEIC
    Image.open(next(photos.rglob("*.png"))).save(file)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.set_input_files("#files", str(file))
    page.wait_for_function(
        "() => document.querySelector('.result img')?.naturalWidth > 0"
        " && !document.querySelector('.result img').hidden"
    )
    context.close()


def test_the_page_speaks_the_language_of_the_browser(browser: Any, site: tuple[str, Path]) -> None:
    address, photos = site
    context = browser.new_context(locale="ja-JP")
    page = context.new_page()
    page.goto(address)
    assert page.locator("html").get_attribute("lang") == "ja"
    page.set_input_files("#files", str(next(photos.rglob("*.png"))))
    page.get_by_role("button", name="間違い?").wait_for()
    assert page.locator("#tally").inner_text() == "写真 1 枚"
    context.close()


def test_the_pages_have_no_serious_violation(browser: Any, site: tuple[str, Path]) -> None:
    address, _ = site
    assert serious_violations(browser, address) == []
    assert serious_violations(browser, f"{address}docs") == []
