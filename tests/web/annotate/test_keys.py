"""Keys count for the photo that was on screen when they were pressed, and none is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.web.annotate.actions import read_action
from tests.web.annotate.test_page import appeared, next_shown, shown, toast

pytestmark = pytest.mark.browser

_WATCH = """() => {
    window.frames_ = []; window.pressed_ = [];
    const name = () => {
        const photo = document.querySelector('.holder .photo');
        const under = document.querySelector('.holder .under');
        const seen = [photo, under].some((one) => one?.complete && one.naturalWidth > 0);
        return seen ? document.querySelector('.caption .file').textContent : null;
    };
    const step = () => {
        frames_.push([performance.now(), name()]);
        requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
    addEventListener('keydown', ({ timeStamp, key }) => pressed_.push([timeStamp, key]), true);
}"""
"""Records what each frame shows and when keys are pressed, apart from the page's own code."""


def seen_at_key(page: Any) -> list[tuple[str | None, str]]:
    """Returns the photo on screen when each key was pressed, and the key."""
    frames, pressed = page.evaluate("() => [frames_, pressed_]")
    result = []
    for at, key in pressed:
        before = [name for time_, name in frames if time_ <= at]
        result.append((before[-1] if before else None, key))
    return result


class Delay:
    """Answers some requests of a page late, while the test goes on."""

    def __init__(self, page: Any, pattern: str, seconds: Callable[[], float]) -> None:
        self._page = page
        self._waiting: list[tuple[float, Any]] = []
        page.route(
            pattern, lambda route: self._waiting.append((time.monotonic() + seconds(), route))
        )

    def wait(self, seconds: float) -> None:
        """Waits, and lets requests go on that are due."""
        end = time.monotonic() + seconds
        while True:
            for due in [one for one in self._waiting if one[0] <= time.monotonic()]:
                self._waiting.remove(due)
                due[1].continue_()
            left = end - time.monotonic()
            if left <= 0:
                return
            self._page.wait_for_timeout(1000 * min(left, 0.02))


def one_by_one(
    serve: Callable[..., Any], open_page: Callable[..., Any], folder: Path, labels: list[str]
) -> tuple[Any, Any]:
    """Returns a server of a folder, and its page that shows one unlabeled photo after another."""
    server = serve(folder, labels=labels)
    page = open_page(server.address + "#view=single&show=unlabeled&sort=path")
    page.keyboard.press("t")  # near-duplicates one by one
    return server, page


@pytest.mark.parametrize("slow", ["**/api/act", "**/photo/*/*"])
def test_a_key_never_labels_a_photo_that_was_not_on_screen(
    serve: Callable[..., Any],
    open_page: Callable[..., Any],
    flat: tuple[Path, dict[str, str]],
    slow: str,
) -> None:
    folder, _ = flat
    server, page = one_by_one(serve, open_page, folder, ["1", "2", "3"])
    rng = random.Random(3)
    late = random.Random(4)
    delay = Delay(page, slow, lambda: late.choice([0.0, 0.05, 0.25]))
    page.evaluate(_WATCH)
    delay.wait(0.5)
    for _ in range(24):
        page.keyboard.press(rng.choice("123"))
        delay.wait(rng.choice([0, 0.03, 0.12, 0.3]))
    delay.wait(1.5)
    keys = [(name, key) for name, key in seen_at_key(page) if key in "123"]
    assert len(keys) == 24
    same = {path.name: path.read_bytes() for path in folder.glob("IMG*")}
    meant: dict[bytes, set[str]] = {}
    for name, key in keys:
        if name is not None:
            meant.setdefault(same[name], set()).add(key)
    given = {name: labels[0] for name, labels in server.labels().items() if labels}
    assert len(given) >= 8
    wrong = {name for name, label in given.items() if label not in meant.get(same[name], ())}
    assert wrong == set()
    # The first key that was pressed while a photo was on screen is never lost.
    assert set(meant) == {same[name] for name in given}


def test_keys_pressed_too_early_wait_for_enter_or_are_dropped(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    _, page = one_by_one(serve, open_page, folder, ["first", "second"])
    held_back: list[Any] = []
    page.route("**/api/act", lambda route: held_back.append(route))
    appeared(page)
    one = shown(page)
    # All in one task: no frame is drawn between them.
    page.evaluate(
        """() => ['1', '2', '2'].forEach((key) => document.activeElement.dispatchEvent(
            new KeyboardEvent('keydown', { key, code: `Digit${key}`, bubbles: true })))"""
    )
    page.wait_for_selector("#held:not([hidden])")
    assert "2 keys were pressed before this photo appeared." in page.inner_text("#held")
    next_shown(page, one)  # although the server has not answered
    two = shown(page)
    appeared(page)
    page.keyboard.press("Enter")
    next_shown(page, two)
    assert "1 key was pressed before this photo appeared." in page.inner_text("#held")
    appeared(page)
    page.keyboard.press("1")
    page.wait_for_function("() => document.querySelector('#held').hidden")
    page.wait_for_function("() => document.querySelector('#toast').textContent.includes('dropped')")


def test_keys_after_a_refusal_are_held_for_their_own_photos(
    serve: Callable[..., Any],
    open_page: Callable[..., Any],
    flat: tuple[Path, dict[str, str]],
) -> None:
    folder, _ = flat
    server, page = one_by_one(serve, open_page, folder, ["first", "second"])
    held_back: list[Any] = []
    is_slow = True
    page.route(
        "**/api/act", lambda route: held_back.append(route) if is_slow else route.continue_()
    )
    names = []
    for key in "1212":
        appeared(page)
        names.append(shown(page))
        page.keyboard.press(key)
        next_shown(page, names[-1])
    # The first of four is refused by the server; the others have not been sent yet.
    with server.client() as client:
        row = next(r for r in client.get("/api/photos").json()["rows"] if r["path"] == names[0])
        body = {"kind": "label", "photos": {row["id"]: ""}, "labels": ["second"]}
        assert client.post("/api/act", json=body).status_code == 200
    is_slow = False
    held_back[0].continue_()
    page.wait_for_selector("#held:not([hidden])")
    assert "3 keys are held." in page.inner_text("#held")
    assert "Another window changed this first" in page.inner_text("#held")
    assert shown(page) == names[0]
    labels = server.labels()
    assert labels[names[0]] == ("second",)
    assert [labels[name] for name in names[1:]] == [(), (), ()]
    appeared(page)
    page.keyboard.press("1")  # for the photo that was refused, which is on screen
    toast(page, "Label 1 photo as 'first'")
    assert server.labels()[names[0]] == ("first",)
    assert "3 keys are held." in page.inner_text("#held")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#tally').textContent.startsWith('4 ')")
    assert [server.labels()[name] for name in names[1:]] == [("second",), ("first",), ("second",)]
    assert page.locator("#held").is_hidden()


def test_held_keys_are_dropped_by_escape_and_their_first_photo_comes_back(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server, page = one_by_one(serve, open_page, folder, ["first"])
    page.route("**/api/act", lambda route: route.fulfill(status=401, json={"error": "Busy."}))
    name = shown(page)
    appeared(page)
    page.keyboard.press("1")
    page.wait_for_selector("#held:not([hidden])")
    assert "Busy. 1 key is held." in page.inner_text("#held")
    next_shown(page, name)
    page.keyboard.press("Escape")
    toast(page, "1 key was dropped.")
    assert shown(page) == name
    assert server.labels()[name] == ()


def test_keys_that_were_not_sent_are_kept_across_a_reload(
    serve: Callable[..., Any], open_page: Callable[..., Any], flat: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = flat
    server, page = one_by_one(serve, open_page, folder, ["a", "b"])
    page.on("dialog", lambda dialog: dialog.accept())
    page.route("**/api/act", lambda route: route.abort())
    appeared(page)
    first = shown(page)
    page.keyboard.press("1")
    page.wait_for_selector("#held:not([hidden])")
    page.reload()
    page.wait_for_selector("#held:not([hidden])")
    assert "The page was reloaded. 1 key is held." in page.inner_text("#held")
    assert set(server.labels().values()) == {()}
    page.unroute("**/api/act")
    page.keyboard.press("Enter")
    toast(page, "Label 1 photo as 'a'")
    assert {path for path, labels in server.labels().items() if labels == ("a",)} == {first}
    page.wait_for_selector("#held[hidden]", state="attached")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.wait_for_timeout(500)
    assert page.locator("#held").is_hidden()
    # What another window has decided meanwhile is not held any more.
    page.route("**/api/act", lambda route: route.abort())
    appeared(page)
    page.keyboard.press("2")
    page.wait_for_selector("#held:not([hidden])")
    kept = page.evaluate("() => JSON.parse(sessionStorage.getItem('finetune-unsent'))")
    assert [job["name"] for job in kept] == ["label"]
    server.session.act(read_action({"kind": "flag", "photos": kept[0]["versions"]}))
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.wait_for_timeout(500)
    assert page.locator("#held").is_hidden()
