"""``finetune annotate``: label, group and crop photos in the browser."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.console import Json, Quiet, Yes, make_table, output
from finetune.errors import ConfigError

_SUGGESTIONS_DELAY_SECONDS = 2.5

_SHOWN = 10
"""Moves that are listed before the question."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("annotate")(annotate)


def annotate(
    photos: Annotated[
        Path | None,
        typer.Argument(help="Folder of photos; not set: ./photos, or else this folder."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="Labels in the order of their keys: a,b,c, or a file with one a line."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Suggest labels by this run: a name or folder."),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option("--annotator", help="Your name, where several people label the same photos."),
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option("--agreement", help="Print how far annotators agree, and serve no page."),
    ] = False,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Move photos into folders named after their labels."),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Move the photos back that --apply moved.")
    ] = False,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; 0.0.0.0 opens it to your network."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", help="Port; not set: the first free of 8765 …", min=0, max=65535),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    catalog: Annotated[
        Path | None,
        typer.Option("--catalog", help="Where labels are kept; not set: .finetune in PHOTOS."),
    ] = None,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label photos in the browser, without the mouse.

    What you decide is kept in the collection's catalog at once; nothing is moved on disk, save by
    --apply, which asks first and can be undone.
    """
    output.json, output.quiet = json, quiet
    from finetune.cli.options import photos_folder

    if sum((agreement, apply, undo)) > 1:
        raise ConfigError("Give one of --agreement, --apply and --undo.")
    root = photos_folder(photos)
    if agreement:
        print_agreement(root, catalog)
    elif apply or undo:
        move_photos(root, catalog, back=undo, yes=yes)
    else:
        place = Place(root=root, catalog=catalog, host=host, port=port, browser=show)
        serve_page(place, read_label_list(labels), run=run, annotator=annotator)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page is served, and of what.

    Attributes:
        root: The collection's folder.
        catalog: Where its catalog is kept, or None.
        host: Address to listen on.
        port: Port, or None for the first free one.
        browser: Whether to open a browser.
    """

    root: Path
    catalog: Path | None
    host: str
    port: int | None
    browser: bool


def serve_page(place: Place, labels: list[str], *, run: str | None, annotator: str | None) -> None:
    """Serves the labeling page until interrupted."""
    import webbrowser

    from finetune.web import security
    from finetune.web.annotate.app import annotate_app
    from finetune.web.annotate.session import Session
    from finetune.web.annotate.suggestions import run_classifier
    from finetune.web.annotate.workers import ScanWorker, SuggestionWorker
    from finetune.web.server import listen, run_server

    if run is not None:
        from finetune.runs.folder import find_run

        run = str(find_run(run).path)
    session = Session(place.root, catalog=place.catalog, labels=labels, annotator=annotator)
    listening = listen(place.host, place.port)
    number = listening.getsockname()[1]
    is_open = not security.is_loopback(place.host)
    policy = security.Policy(
        token=security.new_token(),
        hosts=security.hosts_for(place.host),
        any_address=is_open,
        cookie=f"finetune_{number}",
    )
    address = security.address_of(place.host, number, policy.token)
    scan_worker = ScanWorker(session)
    classifier = (lambda: run_classifier(run, session)) if run else None
    suggestion_worker = SuggestionWorker(
        session, classifier, delay_seconds=_SUGGESTIONS_DELAY_SECONDS
    )

    def started() -> None:
        output.document({"address": address})
        output.text(f"Label your photos at {address}")
        sys.stdout.flush()
        if is_open:
            output.warn(
                f"--host {place.host} lets everyone on your network reach this page, unencrypted; "
                "they still need the token in the address. Use it in networks that you trust."
            )
        output.say("Stop with Ctrl C; every decision is kept as you make it.")
        scan_worker.start()
        suggestion_worker.start()
        if place.browser:
            webbrowser.open(address)

    try:
        run_server(annotate_app(session, policy, suggestion_worker), listening, started=started)
    except KeyboardInterrupt:
        output.say("Stopped; every decision is kept.")
    finally:
        suggestion_worker.stop()
        scan_worker.stop()
        session.close()
        listening.close()


def print_agreement(root: Path, catalog: Path | None) -> None:
    """Prints Cohen's kappa and the confusion of each pair of annotators."""
    from dataclasses import asdict

    from finetune.photos.catalog.catalog import open_catalog
    from finetune.web.annotate.agreement import agreements

    with open_catalog(root, catalog) as opened:
        pairs = agreements([found.votes for found in opened.annotations().values()])
    output.document([asdict(pair) for pair in pairs])
    if not pairs:
        output.text("No photo has labels of two people yet: label it twice with --annotator NAME.")
    for pair in pairs:
        first, second = pair.annotators
        kappa = "–" if pair.kappa is None else f"{pair.kappa:.2f}"
        output.text(
            f"{first} and {second}: kappa {kappa}, the same label on {pair.agreement:.0%} of "
            f"{pair.photos:,} photos"
        )
        table = make_table(f"{first} \\ {second}", *pair.labels, right=pair.labels)
        for label, counts in zip(pair.labels, pair.confusion, strict=True):
            table.add_row(output.plain(label), *(str(count or "·") for count in counts))
        output.print(table)


def move_photos(root: Path, catalog: Path | None, *, back: bool, yes: bool) -> None:
    """Moves photos into their label folders, or back."""
    from finetune.files import collection_cache_dir
    from finetune.photos.scan import scan
    from finetune.web.annotate.apply import apply_moves, plan_moves, undo_moves

    cache_dir = collection_cache_dir(root, catalog)
    if back:
        with output.progress("Moving back") as advance:
            undone = undo_moves(root, cache_dir, progress=advance)
        output.document([{"from": move.target, "to": move.source} for move in undone.done])
        output.text(f"{len(undone.done):,} photos are back where they were.")
        for move, reason in undone.problems:
            output.warn(f"{move.target} was not moved back: {reason}.")
        if undone.problems:
            raise typer.Exit(1)
        return
    with output.progress("Reading photos") as advance:
        moves = plan_moves(scan(root, catalog=catalog, progress=advance))
    if not moves:
        output.document([])
        output.text("Every labeled photo lies in its label's folder already.")
        return
    for move in moves[:_SHOWN]:
        output.say(f"{move.source} -> {move.target}")
    if len(moves) > _SHOWN:
        output.say(f"… and {len(moves) - _SHOWN:,} more")
    if not yes:
        typer.confirm(f"Move {len(moves):,} photos in {root}?", abort=True, err=True)
    with output.progress("Moving") as advance:
        done = apply_moves(root, cache_dir, moves, progress=advance)
    output.document([{"from": move.source, "to": move.target} for move in done])
    output.text(f"{len(done):,} photos moved. Undo with: finetune annotate --undo")


def read_label_list(value: str | None) -> list[str]:
    """Returns the labels in ``a,b,c``, or in a file with one a line.

    Raises:
        ConfigError: A file that was named cannot be read, or the list is empty.
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
