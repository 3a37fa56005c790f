"""Templates, and pages that are one file which loads nothing.

Their content security policy allows the style sheet and the script by their sha256, and pictures
inside the page; every text goes through jinja2's autoescape.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from finetune.report import figures
from finetune.runs.card import templates

SHOWN_CLASSES = 12
SHOWN_WARNINGS = 8


def page(template: str, context: Mapping[str, Any]) -> str:
    """A page of its own: a template with style, script and the policy that allows no others."""
    folder = files("finetune.report").joinpath("templates")
    style = folder.joinpath("report.css").read_text("utf-8")
    script = folder.joinpath("report.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src "
        f"{_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    return (
        environment(autoescape=True)
        .get_template(template)
        .render(context, policy=policy, style=Markup(style), script=Markup(script))
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def environment(autoescape: bool = False) -> Environment:
    """HTML escapes every text; Markdown none, but for the ``cell`` filter."""
    environment = templates(PackageLoader("finetune.report", "templates"), autoescape)
    environment.filters |= {
        "signed": _signed,
        "p": lambda p: "< 0.001" if p < 0.001 else f"{p:.2g}",
        "duration": figures.duration,
        "quantity": quantity,
    }
    environment.globals |= {
        "panel": figures.PANEL,
        "isnan": np.isnan,
        "shown_classes": SHOWN_CLASSES,
        "shown_warnings": SHOWN_WARNINGS,
    }
    return environment


def _signed(share: float, digits: int = 1) -> str:
    """A difference in points, never -0.0."""
    return f"{round(100 * share, digits) or 0:+.{digits}f}".replace("-", "−")


def quantity(number: float) -> str:
    """Three digits and an SI prefix: ``512``, ``14.7 M``, ``201 k``."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5:
            return f"{number:.3g} {prefix}".rstrip()
        number /= 1000
    return f"{number:.3g} E"
