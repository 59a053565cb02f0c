from __future__ import annotations

import json

import pytest

from finetune.reporting import page


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "]]>", "カワセミ", "a\u2028b", "\udcff", '"quoted" & more']
)
def test_embedded_json_cannot_end_its_element_and_reads_back(text: str) -> None:
    embedded = page.embedded_json({"label": text})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {"label": text}
    embedded.encode()  # what goes into the file


def test_embedded_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.embedded_json(float("nan"))
