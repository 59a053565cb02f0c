"""``finetune serve``: a page for photos and an HTTP API."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from finetune.cli.command import Device, FalseAlarms, Open, SurePrecision, SureThreshold
from finetune.cli.console import Quiet, output
from finetune.config import FALSE_ALARMS, PRECISION


def serve(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run, exported .onnx file, or hf://OWNER/NAME; default: the newest run. Several "
            "form an ensemble."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for your whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; default: the first free one from 8765.", min=0)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="FINETUNE_API_KEY",
            help="Key that clients must send; generated if open to the network.",
        ),
    ] = None,
    batch_photos: Annotated[int, typer.Option(help="Maximum photos in a batch.", min=1)] = 16,
    queue_photos: Annotated[
        int, typer.Option(help="Maximum photos waiting; further ones get 503.", min=1)
    ] = 256,
    max_megabytes: Annotated[int, typer.Option(help="Maximum size of a request.", min=1)] = 64,
    max_megapixels: Annotated[
        float, typer.Option(help="Maximum pixels of a photo, in millions.")
    ] = 64.0,
    precision: SurePrecision = PRECISION,
    false_alarms: FalseAlarms = FALSE_ALARMS,
    threshold: SureThreshold = None,
    open_browser: Open = False,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="Log each request on stderr.")
    ] = True,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Classify photos in the browser and over HTTP."""
    output.json, output.quiet = False, quiet
    from finetune.prediction.predictor import PredictConfig, Predictor
    from finetune.web.security import address_of, is_loopback, new_token, policy_for
    from finetune.web.serve.app import serve_app
    from finetune.web.serve.batching import Limits
    from finetune.web.server import Server, ServerLimits, listen

    limits = Limits(
        batch_photos=batch_photos,
        queue_photos=queue_photos,
        body_bytes=max_megabytes << 20,
        max_pixels=int(max_megapixels * 1e6),
    )
    key = api_key or (None if is_loopback(host) else new_token())
    # Before the run is loaded, which takes seconds, so that a port in use is reported at once.
    with listen(host, port) as listening:
        number = listening.getsockname()[1]
        predictor = Predictor.load(
            run or None,
            device=device,
            config=PredictConfig(
                precision=precision,
                false_alarms=false_alarms,
                threshold=threshold,
                max_pixels=limits.max_pixels,
            ),
        )
        policy = replace(
            policy_for(host, number, key),
            max_body_bytes=limits.body_bytes,
            public=frozenset({"/healthz"}),
        )
        log = output.info if access_log else lambda line: None
        server = Server(
            serve_app(predictor, policy, limits, log=log),
            listening,
            ServerLimits(shutdown_seconds=limits.response_seconds),
        )
        address = address_of(host, number, key)
        output.text(f"{predictor.name} is served at {address}")
        output.info("Stop with Ctrl-C.")
        if open_browser:
            typer.launch(address)
        server.run()
