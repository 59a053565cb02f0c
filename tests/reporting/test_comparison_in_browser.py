from __future__ import annotations

import shutil

import pytest

from finetune.reporting.compare import compare, contender, write_comparison
from finetune.reporting.run_record import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_page_opens_without_complaint_or_request_and_enlarges_a_photo(two_run_folders, tmp_path):
    runs = [contender(run.path.name, read_run(run.path)) for run in two_run_folders]
    path = write_comparison(
        tmp_path / "c.html", compare(runs), runs, photos_root=two_run_folders[0].photos
    )
    complaints, requests = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_selector("#chart-curves .main-svg")
        card = page.locator('[data-side="1"] .card').first
        assert card.locator(".ranks li.truth .note").text_content() == "two"
        card.locator(".picture").click()
        assert page.locator("#viewer[open] img").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
