"""``finetune annotate``: label, group and crop photos in the browser."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.command import CatalogPath, Open, Photos, read_collection
from finetune.cli.console import Json, Quiet, Yes, make_table, output
from finetune.errors import ConfigError
from finetune.formatting import count, percent

if TYPE_CHECKING:
    from finetune.web.annotate.session import Session

_SUGGESTIONS_DELAY_SECONDS = 2.5
"""Pause before the backbone is loaded, so that the page appears first."""

_STOP_SECONDS = 0.3
"""Time that suggestions may take to stop after Ctrl-C."""

_FIRST_PHOTOS = 1000
"""Photos that are found before the page appears; the others are found while it is open."""

_LISTED_MOVES = 10
"""Moves listed before the confirmation."""


def annotate(
    photos: Photos = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels in the order of their keys: a,b,c, or a file, one a line."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Run that suggests labels: a name or folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Backbone of suggestions: a timm model; default: packaged.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file of --model.")] = None,
    review: Annotated[
        str | None,
        typer.Option(
            help="Open at the photos that this run got wrong or doubts, or those in a CSV.",
            metavar="RUN|CSV",
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Your name, if several people label the same photos.")
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Print how well annotators agree, and exit.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Move photos into folders named after their labels.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo --apply.")] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for your whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Port; default: the first free one from 8765.", min=0, max=65535),
    ] = None,
    open_browser: Open = True,
    catalog: CatalogPath = None,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label, group and crop photos in the browser, by keyboard.

    Every decision is saved at once in the collection's catalog. Files are moved only by --apply,
    which asks first and can be undone.
    """
    output.json, output.quiet = json, quiet
    from finetune.cli.command import photos_folder

    if sum((agreement, apply, undo)) > 1:
        raise ConfigError("Give one of --agreement, --apply and --undo.")
    root = photos_folder(photos)
    if agreement:
        print_agreement(root, catalog)
    elif apply or undo:
        move_photos(root, catalog, undo=undo, yes=yes)
    else:
        from finetune.web.annotate.session import Session

        serve_page(
            Session(
                root,
                catalog=catalog,
                labels=read_label_list(labels),
                annotator=annotator,
                limit=None if review else _FIRST_PHOTOS,
            ),
            review=review,
            backbone=(model, weights),
            run=run,
            host=host,
            port=port,
            open_browser=open_browser,
        )


def serve_page(
    session: Session,
    *,
    run: str | None,
    host: str,
    port: int | None,
    open_browser: bool,
    review: str | None = None,
    backbone: tuple[str | None, str | None] = (None, None),
) -> None:
    """Serves the labeling page until interrupted, then closes the session."""
    from finetune.runs.folder import find_run
    from finetune.web import security
    from finetune.web.annotate.app import annotate_app
    from finetune.web.annotate.features import FeatureExtractor
    from finetune.web.annotate.suggestions import run_classifier
    from finetune.web.annotate.workers import ScanWorker, SuggestionWorker
    from finetune.web.server import Server, listen

    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        fragment = mark_for_review(session, review) if review is not None else ""
        run_folder = None if run is None else str(find_run(run).path)
        listening = stack.enter_context(listen(host, port))
        number = listening.getsockname()[1]
        token = security.stored_token(session.cache_dir / "annotate.token")
        policy = security.policy_for(host, number, token)
        address = security.address_of(host, number, policy.token) + fragment
        scan_worker = ScanWorker(session)
        stack.callback(scan_worker.stop)
        classifier = None if run_folder is None else (lambda: run_classifier(run_folder, session))
        model, weights = backbone
        suggestion_worker = SuggestionWorker(
            session,
            classifier,
            delay_seconds=_SUGGESTIONS_DELAY_SECONDS,
            extractor=FeatureExtractor(session, model=model, weights=weights),
        )
        stack.callback(suggestion_worker.stop, wait_seconds=_STOP_SECONDS)
        output.document({"address": address})
        output.text(f"Label your photos at {address}")
        sys.stdout.flush()
        if not security.is_loopback(host):
            output.warn(
                f"--host {host} lets everyone on your network reach this page, unencrypted. They "
                "still need the token in the address; use it only on networks that you trust."
            )
        output.info("Stop with Ctrl-C. Every decision is saved at once.")
        try:
            scan_worker.start()
            suggestion_worker.start()
            if open_browser:
                typer.launch(address)
            Server(annotate_app(session, policy, suggestion_worker, run=run), listening).run()
        except KeyboardInterrupt:
            pass
        output.info("Stopped. Every decision is saved.")
    if suggestion_worker.is_alive():
        # It is inside torch, for seconds; only features that it computes anew are lost. An ordinary
        # exit would wait, or abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def mark_for_review(session: Session, source: str) -> str:
    """Marks the photos to review, and returns the part of the address that shows them."""
    from finetune.web.annotate.review import read_review

    marked = session.index.set_review(read_review(source, session.root))
    if not marked:
        raise ConfigError(f"--review {source} names no photo of {session.root}.")
    output.info(f"{count(marked, 'photo')} to review.")
    return "#view=single&show=review&sort=errors"


def print_agreement(root: Path, catalog: Path | None) -> None:
    """Prints Cohen's kappa and the confusion of each pair of annotators."""
    from dataclasses import asdict

    from finetune.photos.catalog.catalog import open_catalog
    from finetune.web.annotate.agreement import agreements

    with open_catalog(root, catalog) as opened:
        pairs = agreements([found.votes for found in opened.annotations().values()])
    output.document([asdict(pair) for pair in pairs])
    if not pairs:
        output.text(
            "No photo has been labeled by two people yet: label the same ones with --annotator."
        )
    for pair in pairs:
        first, second = pair.annotators
        kappa = "–" if pair.kappa is None else f"{pair.kappa:.2f}"
        output.text(
            f"{first} and {second}: kappa {kappa}, same label on {percent(pair.agreement, 0)} of "
            f"{pair.photos:,} photos"
        )
        table = make_table(f"{first} \\ {second}", *pair.labels, right=pair.labels)
        for label, counts in zip(pair.labels, pair.confusion, strict=True):
            table.add_row(output.literal(label), *(str(number or "·") for number in counts))
        output.print(table)


def move_photos(root: Path, catalog: Path | None, *, undo: bool, yes: bool) -> None:
    """Moves photos into the folders of their labels, or back."""
    from finetune.files import collection_cache_dir
    from finetune.web.annotate.apply import apply_moves, plan_moves, undo_moves

    cache_dir = collection_cache_dir(root, catalog)
    if undo:
        with output.progress("Moving back") as advance:
            undone = undo_moves(root, cache_dir, progress=advance)
        output.document([{"from": move.target, "to": move.source} for move in undone.done])
        output.text(f"{len(undone.done):,} photos moved back.")
        for move, reason in undone.problems:
            output.warn(f"{move.target} was not moved back: {reason}.")
        if undone.problems:
            raise typer.Exit(1)
        return
    moves = plan_moves(read_collection(root, catalog))
    if not moves:
        output.document([])
        output.text("Every labeled photo is already in the folder of its label.")
        return
    for move in moves[:_LISTED_MOVES]:
        output.info(f"{move.source} -> {move.target}")
    if len(moves) > _LISTED_MOVES:
        output.info(f"… and {len(moves) - _LISTED_MOVES:,} more")
    if not yes:
        typer.confirm(f"Move {len(moves):,} photos in {root}?", abort=True, err=True)
    with output.progress("Moving") as advance:
        done = apply_moves(root, cache_dir, moves, progress=advance)
    output.document([{"from": move.source, "to": move.target} for move in done])
    output.text(f"{len(done):,} photos moved. Undo with: finetune annotate --undo")


def read_label_list(value: str | None) -> list[str]:
    """Returns the labels in ``a,b,c``, or in a file with one a line.

    Raises:
        ConfigError: The file cannot be read, or the list is empty.
    """
    if value is None:
        return []
    path = Path(value)
    lines = value.split(",")
    if path.is_file() or path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"--labels {value} cannot be read: {reason.lower()}.") from error
    labels = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not labels:
        raise ConfigError(f"--labels {value!r} names no label. Give a,b,c or a file of labels.")
    return labels
