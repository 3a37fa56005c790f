"""What can go wrong, and the exit code that says so.

A message says what was received, what is allowed and what to do next; the command line prints it
without a traceback.
"""

import importlib
from typing import Any


class FinetuneError(Exception):
    """Base of every error that a user can mend. ``exit_code`` is the command's exit status."""

    exit_code = 1


class UsageError(FinetuneError):
    """A recipe, an option or a name is wrong."""

    exit_code = 2


class DataError(FinetuneError):
    """Photos, folders or weights are missing, unreadable or too few."""

    exit_code = 3


class IntegrityError(FinetuneError):
    """Bytes are not what they claim to be: weights, a store, a frozen layer."""

    exit_code = 4


class SomeCellsFailed(FinetuneError):
    """A comparison or a search is complete, but some of its trials have no result."""

    exit_code = 5


class BusyError(FinetuneError):
    """Another process holds the lock, or the disk is full: try again later (EX_TEMPFAIL of
    sysexits.h).
    """

    exit_code = 75


class Terminated(BaseException):
    """SIGTERM: ends a command as Ctrl-C does, but for its exit code, which is 143."""


def need(module: str, extra: str) -> Any:
    """An optional package, imported; UsageError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"This needs the package {module.partition('.')[0]}, which is not installed: "
            f'`pip install "finetune-cut[{extra}]"`.'
        ) from error
