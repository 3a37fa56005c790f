"""Parts of a recipe that have keys of their own, and their short forms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetune.data.augment import PRESETS
from finetune.data.randaugment import LARGEST
from finetune.model.backbones import backbone, known_backbones
from finetune.recipe.strategies import POOLINGS

FROZEN = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

_MOMENTUM = 0.9  # of sgd, where a recipe names none
_FIRST_KEYS = {"head": "pool", "optimizer": "name"}  # of the short form
_Units = Annotated[int, Field(ge=0, le=65_536)]


class Head(BaseModel):
    """What stands on the backbone: pooling, hidden layers, dropout, and a linear head's solver."""

    model_config = FROZEN
    pool: Literal[POOLINGS] = "gap"  # type: ignore[valid-type]
    hidden: _Units | Annotated[list[_Units], Field(min_length=1)] = 0
    dropout: float = Field(0.0, ge=0, lt=1)
    solver: Literal["lbfgs", "keras"]

    @model_validator(mode="after")
    def _linear(self) -> "Head":
        if self.solver == "lbfgs" and self.hidden:
            raise ValueError(
                "solver lbfgs fits a linear head; with a hidden layer set solver: keras"
            )
        return self


class Optimizer(BaseModel):
    """What takes the steps of training: Adam, or gradient descent with Polyak's momentum."""

    model_config = FROZEN
    name: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_momentum(self) -> "Optimizer":
        if self.name == "adam" and self.momentum:
            raise ValueError("adam takes no momentum; leave it out, or set optimizer.name: sgd")
        return self


class Augment(BaseModel):
    """Largest changes of a random view, see ``data.augment.augment``."""

    model_config = FROZEN
    flip: bool = False
    rotation: float = Field(0.0, ge=0, le=180)
    zoom: float = Field(0.0, ge=0, le=0.5)
    shear: float = Field(0.0, ge=0, le=45)
    translation: float = Field(0.0, ge=0, le=0.5)
    contrast: float = Field(0.0, ge=0, lt=1)
    randaugment: float = Field(0.0, ge=0, le=LARGEST)
    erasing: float = Field(0.0, ge=0, le=1)


PARTS: dict[str, type[BaseModel]] = {"head": Head, "optimizer": Optimizer, "augment": Augment}


def written_out(key: str, value: str) -> dict[str, Any]:
    """A short form (``head: gap``) as the table that it stands for; empty for an unknown preset."""
    first = _FIRST_KEYS.get(key)
    return {first: value} if first else dict(PRESETS.get(value, {}))


def full_head(value: Any, backbone_name: Any, solver: str) -> Any:
    """The head's keys, with those that the backbone was published with if none names its pooling.

    Args:
        value: what the recipe says.
        backbone_name: may be unknown: that is another key's mistake.
        solver: of a linear head.
    """
    head = written_out("head", value) if isinstance(value, str) else value
    if not isinstance(head, Mapping):
        return value
    if "pool" not in head and backbone_name in known_backbones():
        head = {**backbone(backbone_name).head, **head}
    return {"solver": "keras" if head.get("hidden") else solver, **head}


def full_optimizer(value: Any) -> Any:
    """The optimizer's keys, with the usual momentum of sgd."""
    chosen = written_out("optimizer", value) if isinstance(value, str) else value
    if isinstance(chosen, Mapping) and chosen.get("name") == "sgd":
        return {"momentum": _MOMENTUM, **chosen}
    return chosen
