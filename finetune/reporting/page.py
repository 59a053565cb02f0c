"""Self-contained HTML page: style, scripts, data and charts are in one file.

Its content security policy forbids all requests and all scripts except those listed by hash, so
that a label named ``<script>`` is not executed even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import formatting
from finetune.files import write_text
from finetune.messages import REPORT, counted, current_language, plural, script_messages, text
from finetune.reporting.chart import NARROW, WIDE, Chart, draw_chart
from finetune.reporting.drawing import to_svg

ANNOTATE_URL = "http://127.0.0.1:8765/#path="
"""Prefix of a photo's path on the page of ``finetune annotate`` on its usual port."""


def write_page(
    path: Path,
    template: str,
    *,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    charts: Mapping[str, Chart] | None = None,
    **values: Any,
) -> Path:
    """Renders a template of this package into one file and returns `path`.

    Args:
        path: The HTML file.
        template: Name of the Jinja2 template.
        scripts: Names of the package's scripts, in order.
        data: JSON data for the scripts.
        charts: Charts by the name that the template gives them.
        **values: Variables of the template, besides the functions of `formatting` and `messages`.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=formatting.visible_text,
    )
    environment.globals |= {
        "count": counted,
        "duration": formatting.duration,
        "interval": formatting.interval,
        "number": formatting.number,
        "percent": formatting.percent,
        "signed": formatting.signed,
        "language": current_language(),
        "t": text,
        "tn": plural,
    }
    messages = script_messages(current_language(), REPORT)
    code = [*map(read_template, scripts)]
    page = environment.get_template(template).render(
        style=markupsafe.Markup(read_template("page.css")),
        scripts=[markupsafe.Markup(script) for script in code],
        script_hashes=markupsafe.Markup(" ".join(map(_source_hash, code))),
        data=markupsafe.Markup(embedded_json({**data, "messages": messages})),
        charts={name: _drawn(chart) for name, chart in (charts or {}).items()},
        **values,
    )
    return write_text(path, page)


def embedded_json(value: Any) -> str:
    """Returns JSON for a ``<script type="application/json">``.

    Without ``<``, no text can end the element or start a comment; ``&`` and the two line
    separators are escaped for old parsers.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A file name that is not UTF-8 has lone surrogates, which cannot be encoded: escape them.
    return text.encode("utf-8", "backslashreplace").decode() if _has_surrogate(text) else text


def _drawn(chart: Chart) -> tuple[str, str]:
    """Returns a chart as SVG for wide and for narrow places; CSS shows one of them."""
    import markupsafe

    wide, narrow = (
        markupsafe.Markup(to_svg(draw_chart(chart, width), themed=True)) for width in (WIDE, NARROW)
    )
    return wide, narrow


def read_template(name: str) -> str:
    """Returns the text of one of this package's templates."""
    folder = importlib.resources.files("finetune.reporting") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _source_hash(code: str) -> str:
    # A parser turns CRLF and CR into LF before it hashes.
    text = code.replace("\r\n", "\n").replace("\r", "\n")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
