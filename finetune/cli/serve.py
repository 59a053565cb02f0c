"""``finetune serve``: a page to drop photos on, and an HTTP interface."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from finetune.cli.console import Quiet, output
from finetune.errors import MissingExtra


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(serve)


def serve(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="A run, or an exported .onnx file; not set: the newest run. Several answer "
            "together.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Interface; 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", help="0: any free one; not set: from 8765 on.", min=0)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="FINETUNE_API_KEY",
            help="Who asks must know it; made up where the server is open to the network.",
            show_default=False,
        ),
    ] = None,
    batch_photos: Annotated[
        int, typer.Option("--batch-photos", help="Most photos answered at once.", min=1)
    ] = 16,
    queue_photos: Annotated[
        int, typer.Option("--queue-photos", help="Photos that may wait; more get 503.", min=1)
    ] = 256,
    max_megabytes: Annotated[
        int, typer.Option("--max-megabytes", help="Largest request.", min=1)
    ] = 64,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", help="Most pixels of a photo, in millions.")
    ] = 64.0,
    threshold: Annotated[
        float,
        typer.Option("--threshold", help="Below this probability the answer is 'none of these'."),
    ] = 0.0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = False,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line a request on stderr.")
    ] = True,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; not set: the best.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve predictions as a web page and an HTTP API."""
    output.json, output.quiet = False, quiet
    for package in ("starlette", "uvicorn", "jinja2", "python_multipart", "prometheus_client"):
        _require(package)
    from finetune.prediction.predictor import PredictConfig, Predictor
    from finetune.web.security import Policy, address_of, hosts_for, is_loopback, new_token
    from finetune.web.serve.app import ServeOptions, serve_app
    from finetune.web.serve.batching import Limits
    from finetune.web.serve.process import run as run_server
    from finetune.web.server import listen

    limits = Limits(
        batch_photos=batch_photos,
        queue_photos=queue_photos,
        body_bytes=max_megabytes << 20,
        max_pixels=int(max_megapixels * 1e6),
    )
    key = api_key or (None if is_loopback(host) else new_token())
    # Before the run is opened, which takes seconds: a port that is taken is said at once.
    with contextlib.closing(listen(host, port)) as listening:
        number = listening.getsockname()[1]
        predictor = Predictor.load(
            run or None,
            device=device,
            config=PredictConfig(threshold=threshold, max_pixels=limits.max_pixels),
        )
        policy = Policy(
            token=key,
            hosts=hosts_for(host),
            any_address=not is_loopback(host),
            max_body_bytes=limits.body_bytes,
            public=frozenset({"/healthz"}),
            cookie=f"finetune-serve-{number}",
        )
        options = ServeOptions(
            policy=policy, limits=limits, log=output.say if access_log else lambda line: None
        )
        address = address_of(host, number, key)

        def started() -> None:
            output.text(f"{predictor.name} answers at {address}")
            output.say("Stop with Ctrl-C.")
            if open_browser:
                typer.launch(address)

        run_server(serve_app(predictor, options), listening, limits, started=started)


def _require(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        name = package.replace("_multipart", "-multipart")
        raise MissingExtra(name, "web", "finetune serve") from error
