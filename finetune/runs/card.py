"""The model card of a run: README.md in its folder, after Mitchell et al., Model Cards for Model Reporting, FAT* 2019."""

from typing import Any

from jinja2 import Environment, StrictUndefined

from finetune.data.dataset import SPLITS, Dataset
from finetune.model.backbones import BACKBONES
from finetune.recipe.recipe import Recipe

_CARD = """\
# {{ classes | join(", ") }}: {{ recipe.strategy }} on {{ recipe.backbone }}

Test accuracy **{{ "%.1f" | format(100 * test.accuracy) }} %** on {{ "{:,}".format(test.n) }} photos (95 % interval \
{{ "%.1f" | format(100 * test.accuracy_interval[0]) }} to {{ "%.1f" | format(100 * test.accuracy_interval[1]) }}, Wilson), \
log loss {{ "%.4f" | format(test.loss) }}, expected calibration error {{ "%.3f" | format(test.ece) }}.

![confusion matrix](confusion.png)
![learning curves](curves.png)

| class | precision | recall | F1 | test photos |
|---|---|---|---|---|
{% for row in test.per_class -%}
| {{ row["class"] }} | {{ "%.3f" | format(row.precision) }} | {{ "%.3f" | format(row.recall) }} \
| {{ "%.3f" | format(row.f1) }} | {{ row.n }} |
{% endfor %}
{% if explained -%}
## What it looks at

![test photos with heat](explanations.png)

Test photos that it was right and surest of; below them its worst mistakes, if it made any (true → predicted class, and \
the predicted one's probability). The heat is Grad-CAM (Selvaraju et al., ICCV 2017) of the predicted class on the last \
maps, each photo scaled by itself: it shows where in a photo the evidence lies, not why it is evidence.

{% endif -%}
## How it was made

- Photos: `{{ recipe.data }}`, {{ photos }}; digest of the split `{{ split[:16] }}`.
- Cut at `{{ cut }}`: {{ "{:,}".format(parameters.trunk) }} parameters below it, {{ "{:,}".format(parameters.trainable) }} \
above it learned. {{ audit.frozen }} frozen variables were compared with their digests from before training: none moved.
- Weights of the backbone: {{ weights.source }}, sha256 `{{ weights.digest[:16] }}`.
- The best epoch was chosen by validation loss; the test photos were looked at once, afterwards.

Repeat it: `finetune run recipe.yaml` (every setting is in that file, versions in `environment.json`).

## How to use it

`model.keras` takes raw photos, uint8 (n, {{ recipe.image_size }}, {{ recipe.image_size }}, 3) RGB 0-255, turned upright and \
resized ("{{ recipe.resize }}"), and returns one probability per class in the order of `classes.json`. \
Preprocessing is inside; nothing but Keras is needed:

    import keras
    model = keras.saving.load_model("model.keras")

It knows its classes and nothing else: a photo of anything else is given one of them, perhaps with great confidence.

## Sources

Backbone: {{ citation }}. Licence: {{ licence }}.
"""


def render(
    recipe: Recipe, dataset: Dataset, result: dict[str, Any], explained: bool = False
) -> str:
    """Fill in the card.

    Args:
        recipe: fully resolved.
        dataset: the photos.
        result: see ``record.finish``.
        explained: whether the folder holds ``explanations.png``.

    Returns:
        Markdown.
    """
    backbone = BACKBONES[recipe.backbone]
    photos = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in SPLITS)
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(_CARD)
    return template.render(
        recipe=recipe,
        classes=dataset.classes,
        photos=photos,
        explained=explained,
        citation=backbone.citation,
        licence=backbone.licence,
        **result,
    )
