"""What people say: one action at a time, undone whole, and never over somebody's head."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.photos.catalog.catalog import Catalog
from finetune.photos.crops import Crop
from finetune.web.annotate.annotations import SILENCE, Pen, StaleError, Word, WordCatalog


@pytest.fixture
def catalog(tmp_path: Path):
    with WordCatalog(tmp_path / "catalog.sqlite3") as opened:
        yield opened


def say(catalog: WordCatalog, digest: str, *labels: str, seen: str | None = None) -> None:
    seen = catalog.words([digest])[digest].version if seen is None else seen
    catalog.act("label", {digest: seen}, lambda pen: pen.label(digest, labels))


def test_a_word_is_on_disk_for_others_at_once(catalog):
    say(catalog, "00", "wren", "wren ", "heron")
    with Catalog(catalog.path) as other:
        assert other.labels_said() == {"00": ("heron", "wren")}


def test_silence_has_no_version_and_every_word_has_one(catalog):
    assert catalog.words(["00"]) == {"00": SILENCE}
    assert SILENCE.version == ""
    words = [
        Word(labels=()),
        Word(labels=("a",)),
        Word(labels=("a", "b")),
        Word(crop=Crop(), crop_by="person"),
        Word(group="g"),
        Word(decisions={"flag": "yes"}),
        Word(labels=("a",), decisions={"flag": "yes"}),
    ]
    assert len({word.version for word in words} | {""}) == len(words) + 1
    # A machine's proposal is nobody's word: it makes no page stale.
    assert Word(crop=Crop(), crop_by="model").version == ""


def test_an_action_over_what_somebody_else_said_writes_nothing(catalog):
    seen = catalog.words(["00"])["00"].version
    with Catalog(catalog.path) as other:
        other.set_labels(["00"], ["heron"])
    with pytest.raises(StaleError) as stale:
        catalog.act(
            "label",
            {"01": "", "00": seen},
            lambda pen: [pen.label(digest, ["wren"]) for digest in ("01", "00")],
        )
    assert stale.value.digests == ("00",)
    assert catalog.labels_said() == {"00": ("heron",)}


def test_none_of_the_labels_is_a_word_and_none_is_silence(catalog):
    say(catalog, "00")
    assert catalog.words()["00"].labels == ()
    catalog.act("clear", {"00": catalog.words()["00"].version}, lambda pen: pen.label("00", None))
    assert catalog.words() == {}
    say(catalog, "00", "wren")
    say(catalog, "00")
    assert catalog.words()["00"].labels == ()


def test_undo_and_redo_name_the_photos_they_touched(catalog):
    say(catalog, "00", "wren")
    say(catalog, "01", "heron")
    last, _ = catalog.latest()
    assert catalog.take_back(last) == ("label", ("01",))
    assert set(catalog.words()) == {"00"}
    _, next_ = catalog.latest()
    assert next_ == last
    assert catalog.bring_back(next_) == ("label", ("01",))
    assert set(catalog.words()) == {"00", "01"}


def test_undo_of_an_action_that_is_no_longer_the_latest_is_refused(catalog):
    say(catalog, "00", "wren")
    seen, _ = catalog.latest()
    say(catalog, "00", "heron")
    with pytest.raises(StaleError):
        catalog.take_back(seen)
    with pytest.raises(StaleError):
        catalog.bring_back(0)
    assert catalog.words()["00"].labels == ("heron",)


LABELS = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("label"), st.sampled_from(["00", "01"]), st.one_of(st.none(), LABELS)),
    st.tuples(st.just("decide"), st.sampled_from(["00", "01"]), st.sampled_from(["yes", None])),
    st.tuples(st.just("crop"), st.sampled_from(["00", "01"]), st.sampled_from([Crop(), None])),
    st.tuples(st.just("group"), st.sampled_from(["00", "01"]), st.sampled_from(["g", None])),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEPS, max_size=8))
def test_undoing_everything_passes_every_state_backwards(tmp_path_factory, steps):
    with WordCatalog(tmp_path_factory.mktemp("undo") / "catalog.sqlite3") as catalog:
        states = [catalog.words()]
        for kind, digest, value in steps:

            def write(pen: Pen, kind: str = kind, digest: str = digest, value=value) -> None:
                match kind:
                    case "label":
                        pen.label(digest, value)
                    case "decide":
                        pen.decide(digest, "flag", value)
                    case "crop":
                        pen.crop(digest, value)
                    case "group":
                        pen.group(digest, value)

            catalog.act(kind, {digest: catalog.words([digest])[digest].version}, write)
            if catalog.words() != states[-1]:
                states.append(catalog.words())
        for state in reversed(states[:-1]):
            catalog.take_back(catalog.latest()[0])
            assert catalog.words() == state
        assert catalog.latest()[0] == 0
        for state in states[1:]:
            catalog.bring_back(catalog.latest()[1])
            assert catalog.words() == state


def test_more_photos_than_one_query_takes(catalog):
    digests = [f"{number:04x}" for number in range(2000)]
    catalog.act(
        "label",
        dict.fromkeys(digests, ""),
        lambda pen: [pen.label(digest, ["wren"]) for digest in digests],
    )
    assert all(word.labels == ("wren",) for word in catalog.words(digests).values())
    assert len(catalog.words()) == 2000
