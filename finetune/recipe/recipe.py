"""A recipe: one frozen, validated value, with what its strategy leaves to be filled in."""

import importlib.util
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from finetune.data.augment import NONE, PRESETS
from finetune.data.groups import group_rule
from finetune.data.photos import RESIZE_MODES
from finetune.errors import UsageError
from finetune.model.backbones import INPUT, backbone, block_cut, features_cut, known_backbones
from finetune.model.remote_weights import is_remote, parse
from finetune.recipe.conflicts import conflicts
from finetune.recipe.methods import method_problems
from finetune.recipe.parts import FROZEN, Augment, Head, Optimizer, full_head, full_optimizer
from finetune.recipe.strategies import STRATEGIES
from finetune.recipe.yaml import dump

_Blocks = Annotated[int, Field(ge=1)]
_MOST_VIEWS = 1_000  # stored ones; each takes as much space as the photos themselves
_STORED_VIEWS = 4  # per photo, where a recipe augments and its strategy cannot take fresh views


class Recipe(BaseModel):
    """One way of fine-tuning, fully resolved: what a run does is a function of this and the
    photos.
    """

    model_config = FROZEN
    data: str = "cats-and-dogs-small"
    min_per_class: int = Field(0, ge=0)
    groups: str | None = None
    backbone: str = Field("vgg16", json_schema_extra={"enum": list(known_backbones())})
    alpha: float = Field(1.0, gt=0)
    preprocessing: Literal["backbone", "scale-only"] = "backbone"
    weights: str = "imagenet"
    strategy: Literal[tuple(STRATEGIES)] = "top-blocks"  # type: ignore[valid-type]
    blocks: _Blocks | Annotated[list[_Blocks], Field(min_length=1)] = 1
    head: Head
    features: list[str] = []  # cuts that the head takes; the backbone's last maps if none are named
    image_size: int = Field(224, ge=28, le=1024)
    resize: Literal[RESIZE_MODES] = "squash"  # type: ignore[valid-type]
    tta: Literal["none", "flip"] = "none"
    augment: Augment
    views: Literal["fresh"] | Annotated[int, Field(ge=0, le=_MOST_VIEWS)]
    epochs: int = Field(ge=0, le=1_000_000)
    patience: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1, le=65_536)
    learning_rate: float = Field(gt=0)
    optimizer: Optimizer
    layer_decay: float = Field(1.0, gt=0, le=1)  # of the rate, for each block below the head
    schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    warmup: float = Field(0.0, ge=0)  # a share of all steps below 1, else steps
    weight_decay: float = Field(0.0, ge=0)
    anchor: float = Field(0.0, ge=0)  # strength of L2-SP, the pull towards the first weights
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)  # parameter of the beta distribution of shares; 0 is off
    cutmix: float = Field(0.0, ge=0)
    average: Literal["none", "ema"] = "none"
    class_weight: Literal["none", "balanced"] = "none"
    sampling: Literal["none", "balanced"] = "none"
    loss: Literal["crossentropy", "focal"] = "crossentropy"
    batchnorm: Literal["frozen", "train"] = "frozen"
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    engine: Literal["auto", "openvino", "tensorflow"] = "auto"
    store: Literal["float16", "float32"] = "float16"
    margin: float = Field(1.0, gt=0, le=100)  # points of accuracy
    folds: int = Field(0, ge=0, le=100)  # of a cross-validation beside the run; 0 is none
    repeats: int = Field(1, ge=1, le=100)
    skip_bad: bool = False
    track: Literal["none", "mlflow", "wandb", "tensorboard"] = "none"
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_strategy(cls, values: Any, info: ValidationInfo) -> Any:
        """Fill in what depends on the strategy, and write short forms out."""
        if not isinstance(values, dict):
            return values
        if (info.context or {}).get("finished"):  # by a version that had this key
            values = {key: value for key, value in values.items() if key != "tensorboard"}
        # An unknown strategy is the field's own mistake to report; the other keys are checked with
        # the default's.
        named = values.get("strategy")
        known = isinstance(named, str) and named in STRATEGIES
        strategy = STRATEGIES[named if known else cls.model_fields["strategy"].default]
        values = {**strategy.defaults, **values}
        head = full_head(values.get("head", {}), values.get("backbone"), strategy.solver)
        optimizer = full_optimizer(values.get("optimizer", {}))
        if "views" not in values:
            stored = 0 if values["augment"] == "none" else _STORED_VIEWS
            values["views"] = "fresh" if strategy.streams and stored else stored
        return {**values, "head": head, "optimizer": optimizer}

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            backbone(name)
        except UsageError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        return name

    @model_validator(mode="after")
    def _backbone_fits(self) -> "Recipe":
        """Its width and blocks, and that the photos are large enough for it."""
        try:
            row = backbone(self.backbone, self.alpha)
            if STRATEGIES[self.strategy].learns == "blocks":
                block_cut(self.backbone, self.stages[-1])
        except UsageError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        if self.image_size < row.min_size:
            raise ValueError(
                f"image_size is {self.image_size}; {self.backbone} takes photos of {row.min_size} "
                "px and more"
            )
        return self

    @model_validator(mode="after")
    def _head_fits(self) -> "Recipe":
        if problems := conflicts(self):
            raise ValueError(". ".join(problems))
        return self

    @field_validator("weights")
    @classmethod
    def _is_pinned(cls, weights: str) -> str:
        """An address without a digest is refused before anything is read or fetched."""
        try:
            if is_remote(weights):
                parse(weights)
        except UsageError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        return weights

    @field_validator("groups")
    @classmethod
    def _is_a_rule(cls, groups: str | None) -> str | None:
        """Refused before photos are listed, which may take minutes."""
        try:
            if groups:
                group_rule(groups)
        except UsageError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        return groups

    @field_validator("augment", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in PRESETS:
            raise ValueError(
                f"augment is '{value}'; allowed are {', '.join(PRESETS)} or a table of "
                f"{', '.join(NONE)}"
            )
        return PRESETS[value]

    @field_validator("track")
    @classmethod
    def _tracker_installed(cls, name: str, info: ValidationInfo) -> str:
        """A missing package is said now and not after the extraction; a recipe that is only read
        needs none.
        """
        if not _is_finished(info) and (problem := missing_tracker(name)):
            raise ValueError(problem)
        return name

    @model_validator(mode="after")
    def _views_fit(self, info: ValidationInfo) -> "Recipe":
        augmented = self.augment.model_dump() != NONE
        problems = []
        if self.views == "fresh" and not STRATEGIES[self.strategy].streams:
            problems.append(
                f"{self.strategy} stores activations, and a store would freeze one draw of views: "
                "fresh. Set views: 4 "
                "(stored, deterministic views), augment: none, or strategy: frozen-base"
            )
        elif self.views == "fresh" and not augmented:
            problems.append("views: fresh needs an augmentation; set augment: light, or views: 0")
        elif self.views != "fresh" and augmented != (self.views > 0):
            problems.append(
                f"views: {self.views} does not go with this augment; views are for augmented "
                "photos, and 0 for none"
            )
        if self.strategy == "frozen-base" and self.views == "fresh" and self.head.solver == "lbfgs":
            problems.append(
                "solver lbfgs needs all features at once and cannot take views: fresh; set solver: "
                "keras"
            )
        if self.folds in (1, 2):
            problems.append(
                f"folds is {self.folds}; allowed are 0 for none, and 3 and more: one fold tests, "
                "the next one chooses, the others train"
            )
        if self.repeats > 1 and not self.folds:
            problems.append(f"repeats: {self.repeats} needs folds, as in folds: 5")
        if self.folds and (self.views == "fresh" or self.cut == INPUT):
            problems.append(
                "folds are cross-validated over stored activations, and this recipe streams photos "
                "through the whole network. Set views: 0, or a strategy with a cut"
            )
        problems += method_problems(self, _is_finished(info))
        if problems:
            raise ValueError(". ".join(problems))
        return self

    @property
    def stages(self) -> tuple[int, ...]:
        """How many top blocks learn, one number for each training after the other."""
        return (self.blocks,) if isinstance(self.blocks, int) else tuple(self.blocks)

    @property
    def is_balanced(self) -> bool:
        """Whether every class counts alike in training, whatever its size."""
        return "balanced" in (self.class_weight, self.sampling)

    @property
    def top(self) -> str:
        """Name of the tensor that the head takes: maps that it pools, or several cuts, joined."""
        if self.features:
            return features_cut(self.head.pool, self.features)
        return block_cut(self.backbone, 0)

    @property
    def cut(self) -> str:
        """Name of the cut that the strategy chooses."""
        strategy = STRATEGIES[self.strategy]
        if strategy.learns == "head":
            return self.top
        return strategy.cut(self.backbone, self.stages[-1])

    def dump(self) -> str:
        """The recipe as YAML, every key written out."""
        return dump(self.model_dump())


def _is_finished(info: ValidationInfo) -> bool:
    return bool((info.context or {}).get("finished"))


def missing_tracker(name: str) -> str:
    """What to do where a tracker's package is not installed; "" where it is."""
    if name == "none" or importlib.util.find_spec(name) is not None:
        return ""
    return (
        f"track: {name} needs a package that is not installed; "
        f'`pip install "finetune-cut[{name}]"`, or set track: none'
    )
