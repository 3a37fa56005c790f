"""The words of the command line: what each parameter of a command means, and its bounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.model.formats import FORMATS
from finetune.recipe.strategies import POOLINGS, STRATEGIES

PRECISIONS = ("auto", "float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Option:
    """How a parameter looks on the command line.

    Attributes:
        help: what it means; the default is added where the signature has one.
        name: the option's name where it differs from the parameter's.
        metavar: what stands for a value in the help.
        choices: the values allowed; any if empty.
        least, most: bounds of a number.
        type: of the value, where the annotation allows more than the command line has.
    """

    help: str
    name: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    type: Any = None


_DATA = (
    "Class folders, a CSV or Parquet table of photos, hf:USER/SET, or cats-and-dogs-small, "
    "cats-and-dogs, clothing-small, sketches, digits, mnist."
)
_COMMON = "Default: cats-and-dogs-small."
# By parameter; a command in front where the same name means something else to it.
OPTIONS = {
    "recipe": Option("A recipe in YAML.", metavar="RECIPE", type=Path),
    "recipes": Option(
        "Recipes in YAML, or folders that hold some.", metavar="RECIPE|DIR...", type=Path
    ),
    "runs": Option(
        "Two or more finished runs on the same photos.", metavar="RUN RUN...", type=Path
    ),
    "model": Option("A run folder, or a .keras file.", metavar="RUN|MODEL", type=Path),
    "predict model": Option(
        "A run folder, a .keras file, or hf://USER/REPO.", metavar="RUN|MODEL", type=str
    ),
    "push run": Option("The folder of a finished run.", metavar="RUN", type=Path),
    "address": Option("Where to.", metavar="hf://USER/REPO"),
    "private": Option("A new repository is seen by its owner alone."),
    "photos": Option("Photos, and folders of photos.", metavar="PHOTO|DIR...", type=list[Path]),
    "on": Option(
        "Where trials run: local (this machine), ray, or ray://HOST:PORT.", metavar="PLACE"
    ),
    "compare photos": Option("Show photos in the report, or only their names.", type=bool),
    "data": Option(_DATA, metavar="DATA", type=str),
    "tune data": Option(f"{_DATA} Default: the recipe's.", metavar="DATA", type=str),
    "run data": Option(f"{_DATA} {_COMMON}", metavar="DATA", type=str),
    "extract_features data": Option(f"{_DATA} {_COMMON}", metavar="DATA", type=str),
    "backbone": Option("One of `finetune backbones`. Default: vgg16.", metavar="NAME"),
    "strategy": Option("What learns. Default: top-blocks.", choices=tuple(STRATEGIES)),
    "head": Option("How maps become features. Default: gap.", choices=POOLINGS),
    "weights": Option(
        "imagenet, random, a weight file, a run to go on from, or an address: https://, hf:// or "
        "kaggle://...#sha256=DIGEST. Default: imagenet.",
        metavar="NAME|FILE|RUN|URL",
        type=str,
    ),
    "image_size": Option("Side of the photos in pixels. Default: 224.", metavar="PIXELS"),
    "describe backbone": Option("One of `finetune backbones`.", metavar="BACKBONE"),
    "advise backbone": Option(
        "One of `finetune backbones`, any number of times. Default: vgg16.",
        metavar="NAME",
        type=list[str],
    ),
    "blocks": Option("Score the cuts below so many top blocks, too.", metavar="N", least=0),
    "describe image_size": Option("Side of the photos in pixels.", metavar="PIXELS", least=28),
    "alpha": Option("Width multiplier, for backbones that have one.", metavar="SHARE"),
    "describe layers": Option("Layer by layer."),
    "describe top": Option("With the classifier of ImageNet's 1,000 classes."),
    "svg": Option(
        "Write a picture of the graph with its cuts. Default: none.", metavar="FILE", type=Path
    ),
    "epochs": Option("Epochs at most. Default: the strategy's.", metavar="N"),
    "seed": Option("Of everything that is drawn. Default: 0.", metavar="N"),
    "precision": Option("Of the network's arithmetic. Default: auto.", choices=PRECISIONS),
    "ensemble precision": Option(
        "Score the joined model anew in this precision. Default: blend what the runs predicted.",
        choices=tuple(name for name in PRECISIONS if name != "int8"),
    ),
    "groups": Option(
        "What in a file's path names the photos that belong together: folder:N, or a regular "
        "expression with a group; as `groups` in a recipe. Default: none.",
        metavar="RULE",
    ),
    "margin": Option(
        "Differences of accuracy within so many points do not matter. Default: the recipes', 1.",
        metavar="POINTS",
    ),
    "track": Option(
        "Write epochs, figures and files to this tracker, too. Default: none.",
        choices=("none", "mlflow", "wandb", "tensorboard"),
    ),
    "min_per_class": Option(
        "Leave out classes of fewer photos. Default: 0, none.", metavar="N", least=1
    ),
    "settings": Option(
        "Any recipe key, dotted: --set head.dropout=0.5. Default: none.", "--set", "KEY=VALUE"
    ),
    "skip_bad": Option("Leave out photos that cannot be decoded."),
    "out": Option("The folder to write.", metavar="DIR", type=Path),
    "run out": Option("The run folder. Default: a new one in runs/.", metavar="DIR", type=Path),
    "ensemble out": Option("Its folder. Default: a new one in runs/.", metavar="DIR", type=Path),
    "compare out": Option(
        "Its folder; the same command again goes on with it.", metavar="DIR", type=Path
    ),
    "evaluate out": Option("Default: evaluations/RUN-DATA.", metavar="DIR", type=Path),
    "export out": Option("A new folder. Default: RUN/exported/FORMAT.", metavar="DIR", type=Path),
    "predict out": Option(
        "Write to this file, whole or not at all, in the format of its suffix. Default: the "
        "terminal.",
        metavar="FILE",
        type=Path,
    ),
    "tune recipe": Option("A recipe in YAML, with a search.", metavar="RECIPE", type=Path),
    "trials": Option("How many settings to try.", metavar="N", least=1),
    "timeout": Option(
        "Begin no trial after so many minutes. Default: no limit.", metavar="MIN", least=0
    ),
    "tune out": Option(
        "Its folder; the same command again goes on with it.", metavar="DIR", type=Path
    ),
    "resume": Option("Go on with the run in this folder. Default: none.", metavar="RUN", type=Path),
    "cut": Option("Name of the cut. Default: above the last block.", metavar="NAME"),
    "pooling": Option(
        "What is written: whole maps, or pooled features.", choices=("none", "gap", "gmp")
    ),
    "blend": Option("How the members are weighed.", choices=("mean", "weighted", "soup")),
    "top": Option("How many classes to name for each photo.", metavar="N", least=1),
    "format": Option("What to write.", choices=tuple(FORMATS)),
    "predict format": Option(
        "Default: table; with --out, what its suffix says.",
        choices=("table", "csv", "json", "parquet"),
    ),
    "split": Option(
        "Default: test; all, where there are no splits.",
        choices=("test", "validation", "train", "all"),
    ),
    "layers": Option(
        "Whose maps are weighed. Default: the last ones.", "--layer", "NAME", type=list[str]
    ),
    "class_name": Option(
        "Whose evidence is sought. Default: the predicted one.", "--class", "NAME"
    ),
    "maps_of": Option(
        "Draw this layer's maps, too. Default: none.", "--feature-maps", "LAYER", type=list[str]
    ),
    "channels": Option(
        "Channels of feature maps at most, the most active ones.", metavar="N", least=1
    ),
    "size": Option("Side of the photos in pixels.", metavar="PIXELS", least=32, most=1024),
    "name": Option(
        "cats-and-dogs-small, cats-and-dogs, clothing-small, sketches, digits or mnist.",
        metavar="NAME",
    ),
    "source": Option(
        "A local copy: Kaggle's train/ folder or zip; the folder of clothing-small; mnist.npz. "
        "Default: none.",
        "--from",
        "PATH",
        type=Path,
    ),
    "serve model": Option("The folder of a finished run.", metavar="RUN", type=Path),
    "host": Option("The address to listen on; 0.0.0.0 is all.", metavar="ADDRESS"),
    "port": Option("0 is any free one.", metavar="N", least=0, most=65535),
    "older_than": Option("Days that an entry was not used.", metavar="DAYS", least=0),
    "find_lr": Option("Suggest a learning rate by a range test of seconds, and train nothing."),
    "dry_run": Option("Print what would be done and do nothing."),
}
JSON = Option("Print one JSON object on stdout and nothing else.", "--json")
