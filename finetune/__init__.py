"""Fine-tune ImageNet backbones on your own photos, and find out honestly which way of doing it is best."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import Run, compare, ensemble, extract_features, run

__all__ = ["Run", "compare", "ensemble", "extract_features", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The functions of ``finetune.api``, imported when they are asked for: ``finetune --help`` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'finetune' has no attribute '{name}'")
    from finetune import api

    return getattr(api, name)
