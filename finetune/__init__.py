"""Fine-tune ImageNet backbones on your own photos, and find out honestly which way is best.

The commands are functions: ``finetune.run(data="photos")`` is ``finetune run --data photos``. They
are imported when they are asked for, errors are those of ``finetune.errors``, and progress is
silent unless ``reporter=finetune.Reporter()`` is given.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.commands.advise import advise as advise
    from finetune.commands.check import check as check
    from finetune.commands.compare import compare as compare
    from finetune.commands.compare import plan_compare as plan_compare
    from finetune.commands.describe import describe as describe
    from finetune.commands.doctor import doctor as doctor
    from finetune.commands.ensemble import ensemble as ensemble
    from finetune.commands.evaluate import evaluate as evaluate
    from finetune.commands.explain import explain as explain
    from finetune.commands.export import export as export
    from finetune.commands.extract_features import extract_features as extract_features
    from finetune.commands.predict import predict as predict
    from finetune.commands.push import push as push
    from finetune.commands.run import find_lr as find_lr
    from finetune.commands.run import plan_run as plan_run
    from finetune.commands.run import run as run
    from finetune.commands.serve import serve as serve
    from finetune.commands.tune import tune as tune
    from finetune.progress import Reporter as Reporter
    from finetune.runs.classifier import Classifier as Classifier

__version__ = "0.1.0"

# Public name -> the module that defines it.
_HOMES = {
    "Classifier": "runs.classifier",
    "Reporter": "progress",
    "advise": "commands.advise",
    "check": "commands.check",
    "compare": "commands.compare",
    "describe": "commands.describe",
    "doctor": "commands.doctor",
    "ensemble": "commands.ensemble",
    "evaluate": "commands.evaluate",
    "explain": "commands.explain",
    "export": "commands.export",
    "extract_features": "commands.extract_features",
    "find_lr": "commands.run",
    "plan_compare": "commands.compare",
    "plan_run": "commands.run",
    "predict": "commands.predict",
    "push": "commands.push",
    "run": "commands.run",
    "serve": "commands.serve",
    "tune": "commands.tune",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for: ``import finetune`` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute '{name}'")
    return getattr(importlib.import_module(f"finetune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
