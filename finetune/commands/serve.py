"""`finetune serve`: a run answers over HTTP."""

from pathlib import Path

from finetune.errors import need
from finetune.progress import SILENT, Reporter, count

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(
    model: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    precision: str = "auto",
    reporter: Reporter = SILENT,
) -> None:
    """Serve a run over HTTP: predictions, evidence and a page for photos. Ends with Ctrl-C.

    Args:
        model: the folder of a finished run.
        host: the address to listen on; 0.0.0.0 is every one of this machine.
        port: 0 is any free one.
        precision: of the network's arithmetic: auto, float32, bfloat16 or int8.
        reporter: gets the address when the server answers.

    Raises:
        UsageError: the extra ``serve`` is missing, the run has no OpenVINO network, or the address
            is none of this machine.
        BusyError: another process has the port.
        DataError, IntegrityError: the run, see ``runs.classifier.Classifier.open``.
        Terminated, KeyboardInterrupt: it was asked to end, and has ended in order.
    """
    for package in _PACKAGES:
        need(package, "serve")
    from finetune.serving.app import Service
    from finetune.serving.network import open_served
    from finetune.serving.server import Server, bind

    taken = bind(host, port)
    served = open_served(Path(model), precision)
    server = Server(Service(served), taken)
    shown = f"[{host}]" if ":" in host else host
    classes = count(len(served.classifier.classes), "class")
    reporter.say(
        f"{model} ({classes}, {served.precision}) at http://{shown}:{taken.getsockname()[1]}/"
    )
    if host not in _LOCAL:
        reporter.warn(
            "whoever reaches this address can use the server: it knows no passwords. Put a proxy "
            "that does in front of it."
        )
    try:
        server.wait()
    finally:
        reporter.say("ending: requests that are being answered are finished first")
        server.close()
