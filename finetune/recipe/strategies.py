"""The strategies: rows of one table over one training path. What differs is where the cut lies and
what crosses it when.
"""

from dataclasses import dataclass
from typing import Any

from finetune.model.backbones import INPUT, block_cut

POOLINGS = ("gap", "gmp", "flatten")  # keys of model.heads.HEADS, which needs Keras


# What learns -> (where the cut lies, what learns) in words. "blocks" are as many as the recipe
# says.
LEARNS = {
    "head": ("above the last block", "the head"),
    "blocks": ("below the top N blocks", "N blocks and the head"),
    "all": ("at the photo", "everything"),
}


@dataclass(frozen=True)
class Strategy:
    """One row: how much of the backbone learns, what crosses the cut, and the recipe's defaults.

    ``learns`` is a key of ``LEARNS``; ``streams`` says whether fresh views may cross the cut in
    training, ``crosses`` what does, the default first.
    """

    summary: str
    learns: str
    crosses: str
    streams: bool
    solver: str  # of a linear head
    defaults: dict[str, Any]
    fixed_by: tuple[str, ...] = ()  # solvers that leave no randomness in training

    def cut(self, backbone: str, blocks: int) -> str:
        """The name of the cut below everything that learns."""
        if self.learns == "all":
            return INPUT
        return block_cut(backbone, blocks if self.learns == "blocks" else 0)


STRATEGIES = {
    "cached-features": Strategy(
        summary="stored features of the whole backbone; only the head learns",
        learns="head",
        crosses="stored activations",
        streams=False,
        defaults={"augment": "none", "epochs": 100, "learning_rate": 1e-3},
        solver="lbfgs",
        fixed_by=("lbfgs",),
    ),
    "frozen-base": Strategy(
        summary="frozen backbone, fresh augmentation every epoch; only the head learns",
        learns="head",
        crosses="fresh views or stored activations",
        streams=True,
        defaults={"augment": "light", "epochs": 10, "learning_rate": 1e-3},
        solver="keras",
        fixed_by=("lbfgs",),
    ),
    "top-blocks": Strategy(
        summary="a converged head, then the top blocks and the head learn together",
        learns="blocks",
        crosses="stored activations or fresh views",
        streams=True,
        defaults={"augment": "none", "epochs": 20, "learning_rate": 1e-5},
        solver="lbfgs",
    ),
    "full": Strategy(
        summary="a converged head, then everything learns",
        learns="all",
        crosses="fresh views or stored photos",
        streams=True,
        defaults={"augment": "light", "epochs": 10, "learning_rate": 1e-5},
        solver="lbfgs",
    ),
}


def is_deterministic(strategy: str, solver: str, views: str | int) -> bool:
    """Whether another seed gives the same model: a convex fit of the head, on views that are
    stored.
    """
    return solver in STRATEGIES[strategy].fixed_by and views != "fresh"
