"""Pages of reports and comparisons by the rules of axe-core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune.reporting.compare import compare, contender
from finetune.reporting.comparison_page import write_comparison
from finetune.reporting.report import write_report
from finetune.reporting.run_record import read_run
from tests.axe import serious_violations

if TYPE_CHECKING:
    from tests.reporting.conftest import MadeRun

pytestmark = pytest.mark.browser


def test_a_report_has_no_serious_violation(
    browser: Any, small_run: MadeRun, tmp_path: Path
) -> None:
    made = write_report(
        small_run.path, photos_root=small_run.photos, output=tmp_path / "report.html"
    )
    assert serious_violations(browser, made.path.as_uri()) == []


def test_a_comparison_has_no_serious_violation(
    browser: Any, two_run_folders: tuple[MadeRun, MadeRun], tmp_path: Path
) -> None:
    runs = [contender(run.path.name, read_run(run.path)) for run in two_run_folders]
    page = write_comparison(
        tmp_path / "c.html", compare(runs), runs, photos_root=two_run_folders[0].photos
    )
    assert serious_violations(browser, page.as_uri()) == []
