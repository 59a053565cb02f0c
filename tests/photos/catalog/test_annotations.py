from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.photos.catalog.annotations import NO_ANNOTATIONS, Annotations
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.catalog.undo_log import Replayed, StaleError
from finetune.photos.crops import Crop


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog.sqlite3") as opened:
        yield opened


def set_labels(catalog: Catalog, digest: str, *labels: str, seen: str | None = None) -> None:
    seen = catalog.annotations([digest])[digest].version if seen is None else seen
    with catalog.writer("label", [digest], seen={digest: seen}) as writer:
        writer.set_labels(digest, labels)


def test_labels_are_on_disk_for_other_processes_at_once(catalog: Catalog) -> None:
    set_labels(catalog, "00", "wren", "wren ", "heron")
    with Catalog(catalog.path) as other:
        assert other.assigned_labels() == {"00": ("heron", "wren")}


def test_only_annotated_photos_have_a_version(catalog: Catalog) -> None:
    assert catalog.annotations(["00"]) == {"00": NO_ANNOTATIONS}
    assert NO_ANNOTATIONS.version == ""
    found = [
        Annotations(labels=()),
        Annotations(labels=("a",)),
        Annotations(labels=("a", "b")),
        Annotations(crop=Crop(), crop_source="person"),
        Annotations(group="g"),
        Annotations(decisions={"flag": "yes"}),
        Annotations(labels=("a",), decisions={"flag": "yes"}),
    ]
    assert len({one.version for one in found} | {""}) == len(found) + 1
    # A model's proposal makes no page stale.
    assert Annotations(crop=Crop(), crop_source="model").version == ""


def test_action_on_a_photo_changed_by_another_process_writes_nothing(catalog: Catalog) -> None:
    seen = catalog.annotations(["00"])["00"].version
    with Catalog(catalog.path) as other:
        other.set_labels(["00"], ["heron"])
    with (
        pytest.raises(StaleError) as stale,
        catalog.writer("label", ["01", "00"], seen={"01": "", "00": seen}),
    ):
        pytest.fail("the writer must not be given")
    assert stale.value.digests == ("00",)
    assert catalog.assigned_labels() == {"00": ("heron",)}


def test_no_label_fits_differs_from_unlabeled(catalog: Catalog) -> None:
    set_labels(catalog, "00")
    assert catalog.annotations()["00"].labels == ()
    with catalog.writer("clear", ["00"]) as writer:
        writer.set_labels("00", None)
    assert catalog.annotations() == {}
    set_labels(catalog, "00", "wren")
    set_labels(catalog, "00")
    assert catalog.annotations()["00"].labels == ()


def test_undo_and_redo_return_the_photos_they_touched(catalog: Catalog) -> None:
    set_labels(catalog, "00", "wren")
    set_labels(catalog, "01", "heron")
    last, _ = catalog.latest()
    assert catalog.undo(last) == Replayed(what="label", digests=("01",))
    assert set(catalog.annotations()) == {"00"}
    _, next_ = catalog.latest()
    assert next_ == last
    assert catalog.redo(next_) == Replayed(what="label", digests=("01",))
    assert set(catalog.annotations()) == {"00", "01"}


def test_undo_of_an_action_that_is_no_longer_the_latest_is_refused(catalog: Catalog) -> None:
    set_labels(catalog, "00", "wren")
    seen, _ = catalog.latest()
    set_labels(catalog, "00", "heron")
    with pytest.raises(StaleError):
        catalog.undo(seen)
    with pytest.raises(StaleError):
        catalog.redo(0)
    assert catalog.annotations()["00"].labels == ("heron",)


LABELS = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("label"), st.sampled_from(["00", "01"]), st.one_of(st.none(), LABELS)),
    st.tuples(st.just("decide"), st.sampled_from(["00", "01"]), st.sampled_from(["yes", None])),
    st.tuples(st.just("crop"), st.sampled_from(["00", "01"]), st.sampled_from([Crop(), None])),
    st.tuples(st.just("group"), st.sampled_from(["00", "01"]), st.sampled_from(["g", None])),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEPS, max_size=8))
def test_undoing_everything_passes_every_state_backward(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, str, Any]]
) -> None:
    with Catalog(tmp_path_factory.mktemp("undo") / "catalog.sqlite3") as catalog:
        states = [catalog.annotations()]
        for kind, digest, value in steps:
            with catalog.writer(kind, [digest]) as writer:
                match kind:
                    case "label":
                        writer.set_labels(digest, value)
                    case "decide":
                        writer.set_decision(digest, "flag", value)
                    case "crop":
                        writer.set_crop(digest, value)
                    case "group":
                        writer.set_group(digest, value)
            if catalog.annotations() != states[-1]:
                states.append(catalog.annotations())
        for state in reversed(states[:-1]):
            catalog.undo(catalog.latest()[0])
            assert catalog.annotations() == state
        assert catalog.latest()[0] == 0
        for state in states[1:]:
            catalog.redo(catalog.latest()[1])
            assert catalog.annotations() == state


def test_more_photos_than_one_query_takes(catalog: Catalog) -> None:
    digests = [f"{number:04x}" for number in range(2000)]
    with catalog.writer("label", digests, seen=dict.fromkeys(digests, "")) as writer:
        for digest in digests:
            writer.set_labels(digest, ["wren"])
    assert all(found.labels == ("wren",) for found in catalog.annotations(digests).values())
    assert len(catalog.annotations()) == 2000
