"""Accessibility rules of axe-core, where it is installed: ``npm install --no-save axe-core``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def serious_violations(browser: Any, address: str) -> list[str]:
    """Opens a page, light and wide and dark and narrow, and lists what axe-core calls serious.

    Skips the test where axe-core is not installed.
    """
    script = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    if not script.is_file():
        pytest.skip("axe-core is not installed")
    found = []
    for scheme, width in (("light", 1280), ("dark", 390)):
        # The page forbids scripts that are not its own.
        context = browser.new_context(
            bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        page = context.new_page()
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        page.evaluate(script.read_text("utf-8"))
        violations = page.evaluate(
            "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
        )
        found += [
            f"{scheme}, {width}: {violation['id']}: {node['html'][:200]}"
            for violation in violations
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        context.close()
    return found
