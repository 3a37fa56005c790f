"""`finetune export`."""

from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.backend import stderr_to_nowhere
from finetune.cli.options import JsonOption, need_keras, print_json, reporter, settings
from finetune.model.formats import FORMATS

FormatName = Enum("FormatName", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


def export(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a .keras file.")
    ],
    form: Annotated[FormatName, typer.Option("--format", help="What to write.")],
    out: Annotated[
        Path | None, typer.Option(help="A new folder (default: RUN/exported/FORMAT).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model for other runtimes, preprocessing inside, and check that it still gives the same probabilities."""
    need_keras()
    from finetune.commands import export as exports
    from finetune.runs.classifier import Classifier

    classifier = Classifier.open(model)
    reporter().say(f"{form.value} is written, then run and compared with Keras")
    # LiteRT writes to file descriptor 2 and has no setting for it; the converters warn of what is compared anyway.
    with nullcontext() if settings["verbose"] else stderr_to_nowhere():
        result = exports.export(
            classifier, form.value, out or exports.default_out(model, form.value)
        )
    print_json(result) if as_json else print(_text(result))


def _text(result: dict[str, Any]) -> str:
    files = ", ".join(
        f"{file['name']} ({file['bytes'] / 2**20:,.1f} MiB)" for file in result["files"]
    )
    runtime = f"{result['runtime']['name']} {result['runtime']['version']}"
    return (
        f"{result['out']}: {files}\nrun by {runtime} on {result['verified_on']}, its probabilities differ from Keras's by "
        f"at most {result['max_difference']:.1g}"
    )
