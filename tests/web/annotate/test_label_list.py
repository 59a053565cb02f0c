"""Display order of a session's labels."""

from __future__ import annotations

from finetune.photos.catalog.annotations import LabelStyle
from finetune.web.annotate.label_list import LabelList


def test_offered_labels_stay_and_others_vanish_with_their_last_photo() -> None:
    labels = LabelList(["heron", "owl"])
    labels.add(["wren", "owl", "tit"])
    assert labels.in_order() == ("heron", "owl")
    labels.uses.update(["tit", "tit", "wren"])
    assert labels.in_order() == ("heron", "owl", "wren", "tit")
    labels.uses.subtract(["wren"])
    labels.withdraw("heron")
    assert labels.in_order() == ("owl", "tit")


def test_pinned_labels_come_first_then_those_with_a_place() -> None:
    labels = LabelList(["heron", "owl", "tit"])
    labels.add(["wren"])
    labels.styles = {"wren": LabelStyle(pinned=True), "tit": LabelStyle(position=0)}
    assert labels.in_order() == ("wren", "tit", "heron", "owl")


def test_labels_are_compared_in_nfc() -> None:
    assert LabelList(["e\u0301"]).in_order() == ("\u00e9",)
