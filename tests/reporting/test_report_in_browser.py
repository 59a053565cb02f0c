"""The report of a single-label run in a real Chromium."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pytest
from PIL import Image

from finetune.reporting.report import Extras, Suspect, write_report

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun, OpenPage, Watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(small_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with overlays and a suspect."""
    overlay = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(overlay, "PNG")
    every = [
        path.relative_to(small_run.photos).as_posix() for path in small_run.photos.rglob("*.jpg")
    ]
    return write_report(
        small_run.path,
        photos_root=small_run.photos,
        output=tmp_path_factory.mktemp("page") / "report.html",
        extras=Extras(
            overlays=dict.fromkeys(every, overlay.getvalue()),
            suspects=[
                Suspect(path=every[0], label="<i>x</i>", suggested="egret", probability=0.98)
            ],
            annotate_url="http://127.0.0.1:8000/#path=",
        ),
    ).path


@pytest.fixture(scope="module")
def one_page(open_page: OpenPage, report: Path) -> Watched:
    return open_page(report, viewport={"width": 1280, "height": 900})


@pytest.fixture
def opened(one_page: Watched) -> Iterator[Watched]:
    """The page that all tests share, as opening one takes seconds; it is reset after each."""
    yield one_page
    one_page.page.evaluate(
        """() => {
          document.querySelector('#viewer').close();
          for (const form of document.querySelectorAll('select')) form.selectedIndex = 0;
          document.querySelector('#overlays').checked = false;
          document.querySelector('#find-label').value = '';
          for (const form of document.querySelectorAll('select, input')) {
            form.dispatchEvent(new Event(form.type === 'search' ? 'input' : 'change'));
          }
        }"""
    )
    assert one_page.complaints == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_page_opens_without_complaint_or_request_and_fits_its_window(
    open_page: OpenPage, report: Path, scheme: str, width: int
) -> None:
    watched = open_page(report, viewport={"width": width, "height": 844}, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    before = watched.page.evaluate(background)
    watched.page.click("#theme")
    assert watched.page.evaluate(background) != before
    assert watched.complaints == []
    assert watched.outside() == [report.as_uri()]
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_labels_are_text_everywhere(opened: Watched) -> None:
    page = opened.page
    assert page.locator("main b:text('gull'), dialog b:text('gull')").count() == 0
    assert page.locator("#label-table", has_text="<b>gull</b>").count() == 1
    assert page.locator("#label-table", has_text='</script><script>alert("x")').count() == 1
    ticks = page.locator("#matrix text.row").all_text_contents()
    assert "<b>gull</b>" in ticks
    assert "カワセミ" in ticks
    assert page.locator("#suspects i", has_text="x").count() == 0
    assert "labeled <i>x</i>, but looks like egret" in page.locator("#suspects").text_content()


def test_a_cell_of_the_matrix_opens_its_photos(opened: Watched) -> None:
    page = opened.page
    photos = page.evaluate(
        """() => {
          const places = data.matrix.orders.confusion;
          const k = places.findIndex((p) => data.matrix.counts[p][p] > 0);
          const cell = document.querySelector(`#matrix [data-at="${k} ${k}"]`);
          cell.scrollIntoView();
          cell.dispatchEvent(new MouseEvent('click'));
          return data.matrix.counts[places[k]][places[k]];
        }"""
    )
    page.wait_for_selector("#viewer[open]")
    assert ", correct: " in page.inner_text("#viewer-title")
    assert page.locator("#viewer .card").count() == photos


def test_every_confusion_can_be_opened_and_left_by_keyboard(opened: Watched) -> None:
    page = opened.page
    first = page.locator("#pairs button").first
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    assert "mistaken for" in page.inner_text("#viewer-title")
    assert page.locator("#viewer .card img").count() == page.locator("#viewer .card").count() == 2
    page.locator("#viewer .card .picture").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer .one")
    assert page.get_by_role("button", name="Previous").is_disabled()
    assert page.get_by_role("button", name="Show all").is_visible()
    title = page.locator("#viewer .one .note").inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('#viewer .one .note').innerText !== before", arg=title
    )
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#viewer .card").count() == 2
    page.keyboard.press("Escape")
    assert page.locator("#viewer[open]").count() == 0


def test_mistakes_can_be_narrowed_to_a_label_and_show_what_was_looked_at(opened: Watched) -> None:
    page = opened.page
    cards = page.locator('[data-gallery="mistakes"] .card')
    assert cards.count() == 8
    source = cards.first.locator("img").get_attribute("src")
    assert source.startswith("data:image/jpeg")
    page.check("#overlays")
    assert cards.first.locator("img").get_attribute("src").startswith("data:image/png")
    options = page.locator('[data-filter="mistakes"] option').all_text_contents()
    heron = next(text for text in options if text.startswith("heron missed"))
    page.select_option('[data-filter="mistakes"]', label=heron)
    assert f"heron missed ({cards.count()})" == heron
    for card in cards.all():
        assert card.locator(".verdict strong").first.inner_text() == "heron"
        assert card.locator(".ranks .truth .name").inner_text().startswith("✓ heron")


def test_matrix_can_be_ordered_and_counted(opened: Watched) -> None:
    page = opened.page
    page.select_option("#matrix-order", "labels")
    ticks = page.locator("#matrix text.row").all_text_contents()
    assert ticks[-1] == "カワセミ"  # the last label in class order
    page.select_option("#matrix-values", "counts")
    numbers = [int(t) for t in page.locator("#matrix .cell text").all_text_contents()]
    assert sum(numbers) == 24


def test_label_table_sorts_and_finds(opened: Watched) -> None:
    page = opened.page
    page.click("#label-table thead button:text('Recall')")
    recalls = page.eval_on_selector_all(
        "#label-table tbody td:nth-child(4)", "cells => cells.map(c => Number(c.dataset.value))"
    )
    assert recalls == sorted(recalls)
    heading = page.locator("#label-table th", has_text="Recall")
    assert heading.get_attribute("aria-sort") == "ascending"
    page.fill("#find-label", "HER")
    assert page.locator("#label-table tbody tr:visible").count() == 1
    page.click("#label-table button:text('heron')")
    assert page.inner_text("#viewer-title") == "heron: mistakes first"


def test_suspects_link_to_annotate(opened: Watched) -> None:
    link = opened.page.locator("#suspects a").get_attribute("href")
    assert link.startswith("http://127.0.0.1:8000/#path=")


def test_a_mistake_leads_to_its_file_and_to_annotate(
    opened: Watched, small_run: MadeRun, report: Path
) -> None:
    page = opened.page
    page.locator('[data-gallery="mistakes"] .card .picture').first.click()
    path = page.locator("#viewer .one .note").inner_text()
    href = page.get_by_role("link", name="Open the file").get_attribute("href")
    assert Path(url2pathname(urlsplit(href).path)) == (small_run.photos / path).resolve()
    mend = page.get_by_role("link", name="Open in annotate").get_attribute("href")
    assert mend == f"http://127.0.0.1:8000/#path={quote(path, safe='')}"
    data = report.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    assert str(small_run.photos) not in data  # no folder of this machine


def test_every_control_and_picture_has_a_name(opened: Watched) -> None:
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, img, [role=img]')]
          .filter((e) => !e.closest('template'))
          .filter((e) => !(e.getAttribute('aria-label') || e.alt || e.innerText?.trim()
            || e.labels?.length || e.textContent.trim() || e.hidden))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_charts_and_tables_are_no_wider_than_the_paper(open_page: OpenPage, report: Path) -> None:
    watched = open_page(report, viewport={"width": 1280, "height": 900})
    watched.page.emulate_media(media="print")
    # A4 between Chromium's own margins.
    watched.page.set_viewport_size({"width": 718, "height": 1000})
    wide = watched.page.evaluate(
        """() => [...document.querySelectorAll(".plot svg, #matrix svg, table")]
            .filter(e => e.getClientRects().length)
            .map(e => [e.className.baseVal ?? e.tagName, e.getBoundingClientRect().right])
            .filter(([, right]) => right > innerWidth + 1)"""
    )
    assert wide == []


@pytest.mark.parametrize(("width", "shown"), [(1280, "wide"), (390, "narrow")])
def test_matrix_and_charts_fit_and_name_every_column(
    open_page: OpenPage, report: Path, width: int, shown: str
) -> None:
    page = open_page(report, viewport={"width": width, "height": 844}).page
    # Without their <title>, which has the full name of one that was shortened.
    shown_texts = "all => all.map(e => e.firstChild.data)"
    columns = page.locator("#matrix text.column").evaluate_all(shown_texts)
    rows = page.locator("#matrix text.row").evaluate_all(shown_texts)
    assert len(columns) == len(rows) == 6
    if shown == "narrow":
        assert columns == [row.split()[0] for row in rows]
    frame = page.locator(".matrix-frame")
    assert frame.evaluate("e => e.scrollWidth <= e.clientWidth")
    for text in page.locator("#matrix text").all():
        inside = text.evaluate(
            "e => { const t = e.getBoundingClientRect(), s = e.closest('svg')"
            ".getBoundingClientRect(); return t.left >= s.left - 1 && t.right <= s.right + 1"
            " && t.top >= s.top - 1; }"
        )
        assert inside, text.text_content()
    chart = page.locator("#chart-score")
    assert chart.locator(".wide-plot").is_visible() == (shown == "wide")
    assert chart.locator(".narrow-plot").is_visible() == (shown == "narrow")
