"""`unipinrec serve`: runs a bundle on the embedded Triton server."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from commands.errors import NO_GPU, USAGE, fail
from ensemble.gpu_presence import NoGpuError
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import serve as run_server
from ensemble.server.server_error import BundleRefusedError, ServerError
from ensemble.settings import ENV_PREFIX, ServingSettings
from unipinrec.config import allowed_by, is_hidden

FAILED = 1
"""Exit code of a server that did not start or ended by itself."""

Port = typer.Option(min=1, max=65535)


def serve(
    bundle: Annotated[Path | None, typer.Option(help="Bundle to serve.")] = None,
    histories: Annotated[
        Path | None, typer.Option(help="Store of the users' histories, which `unipinrec store` fills.")
    ] = None,
    append_events: Annotated[
        bool | None,
        typer.Option(
            "--append-events/--no-append-events", help="Let callers add events to stored histories."
        ),
    ] = None,
    update_items: Annotated[
        bool | None,
        typer.Option("--update-items/--no-update-items", help="Let callers add, update and remove items."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="IPv4 address to listen on. There is no authentication.")
    ] = "127.0.0.1",
    http_port: Annotated[int, Port] = 8000,
    grpc_port: Annotated[int, Port] = 8001,
    metrics_port: Annotated[int, Port] = 8002,
    health_port: Annotated[int, Port] = 8003,
    profile: Annotated[
        str | None, typer.Option(help="Model configurations to load, by name; default: config.pbtxt.")
    ] = None,
    pool_slots: Annotated[int | None, typer.Option(help="Users whose keys and values fit at once.")] = None,
    kv_precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or int8: what keys and values are kept in.")
    ] = None,
    ann_device: Annotated[
        str | None, typer.Option(help="cpu or cuda: where the item index is searched.")
    ] = None,
    gpu_precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float8: what a GPU computes the trunk in.")
    ] = None,
    gpu_item_precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or int8: what a GPU keeps item vectors in.")
    ] = None,
    gpu_graphs: Annotated[
        bool | None,
        typer.Option("--gpu-graphs/--gpu-eager", help="Replay CUDA graphs, or launch every kernel."),
    ] = None,
    gpu_compile: Annotated[
        str | None, typer.Option(help="static, dynamic or off: how layers are compiled for the GPU.")
    ] = None,
    baseline: Annotated[
        bool, typer.Option(help="Serve recommend_separate too: ranking encodes the history again.")
    ] = False,
    exclude_seen: Annotated[
        bool | None,
        typer.Option("--exclude-seen/--include-seen", help="Leave out items of the user's history."),
    ] = None,
    trace_url: Annotated[
        str | None, typer.Option(help="Send OpenTelemetry spans here, as http://127.0.0.1:4318/v1/traces.")
    ] = None,
    trace_rate: Annotated[int | None, typer.Option(help="Trace one request in so many.")] = None,
    triton_home: Annotated[
        Path | None,
        typer.Option(help="Triton installation to run, as /opt/tritonserver; default: the embedded one."),
    ] = None,
    exit_timeout: Annotated[
        int | None, typer.Option(help="Seconds that a stop leaves to requests in flight.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for the output of the server and its nodes.")] = None,
) -> None:
    """Serve a bundle over gRPC and HTTP until Ctrl-C. UNIPINREC_* variables set what has no default here."""
    chosen = {
        # A path on the command line starts where the user is, not at the repository.
        "bundle": bundle and bundle.absolute(),
        "histories": histories and histories.absolute(),
        "append_events": append_events,
        "update_items": update_items,
        "pool_slots": pool_slots,
        "kv_precision": kv_precision,
        "ann_device": ann_device,
        "gpu_precision": gpu_precision,
        "gpu_item_precision": gpu_item_precision,
        "gpu_graphs": gpu_graphs,
        "gpu_compile": gpu_compile,
        "exclude_seen": exclude_seen,
        "trace_url": trace_url,
        "trace_rate": trace_rate,
        "triton_home": triton_home and triton_home.absolute(),
        "exit_timeout_s": exit_timeout,
    }
    try:
        given: dict[str, Path | int | str | None] = {
            name: value for name, value in chosen.items() if value is not None
        }
        if histories is not None:
            given["histories_url"] = None
        settings = ServingSettings.model_validate(given)
        endpoints = Endpoints(
            address=address,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            health_port=health_port,
        )
        run_server(
            settings, console=Console(), endpoints=endpoints, baseline=baseline, profile=profile, log_path=log
        )
    except ValidationError as error:
        wrong = [
            f"{ENV_PREFIX}{e['loc'][0]}".upper()
            + f" is {'not shown' if is_hidden(e) else e['input']}; {allowed_by(e)}"
            for e in error.errors()
        ]
        fail("; ".join(wrong), FAILED)
    except NoGpuError as error:
        fail(str(error), NO_GPU)
    except BundleRefusedError as error:
        fail(str(error), USAGE)
    except (ServerError, OSError) as error:
        fail(str(error), FAILED)


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    typer.run(serve)
