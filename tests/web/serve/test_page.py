from __future__ import annotations

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
