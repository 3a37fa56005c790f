"""The model card of an ensemble: README.md in its folder. That of a run is ``card``."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from finetune.model.backbones import BACKBONES
from finetune.runs.members import Member

_CARD = """\
# {{ classes | join(", ") }}: {{ blend }} of {{ members | length }} runs

Test accuracy **{{ "%.1f" | format(100 * test.accuracy) }} %** on {{ "{:,}".format(test.n) }} photos (95 % interval \
{{ "%.1f" | format(100 * test.accuracy_interval[0]) }} to {{ "%.1f" | format(100 * test.accuracy_interval[1]) }}, Wilson), \
log loss {{ "%.4f" | format(test.loss) }}. {{ verdict }}

![confusion matrix](confusion.png)

| | validation loss | test accuracy, % | test loss |
|---|---|---|---|
{% for row in rows -%}
| {{ row.name }} | {{ "%.4f" | format(row.validation.loss) }} | {{ "%.1f" | format(100 * row.test.accuracy) }} \
| {{ "%.4f" | format(row.test.loss) }} |
{% endfor %}
| member | weight | temperature |
|---|---|---|
{% for name in members -%}
| {{ name }} | {{ "%.3f" | format(weights[name]) }} | {{ "%.3f" | format(temperatures[name]) }} |
{% endfor %}
| blend | against | accuracy, points (95 %) | p (Holm) | log loss (95 %) |
|---|---|---|---|---|
{% for pair in pairs -%}
| {{ pair.blend }} | {{ pair.member }} \
| {{ "%+.1f (%+.1f to %+.1f)" | format(100 * pair.difference, 100 * pair.low, 100 * pair.high) }} \
| {{ "%.2g" | format(pair.p_holm) }} \
| {{ "%+.4f (%+.4f to %+.4f)" | format(pair.loss_difference, pair.loss_low, pair.loss_high) }} |
{% endfor %}
Weights and temperatures were fitted on validation photos alone. p is that of McNemar's exact test on the test photos, adjusted \
over all pairs in `report.html`, which shows the blends beside their members. Split digest `{{ split[:16] }}`.

`model.keras` takes raw photos, uint8 (n, {{ size }}, {{ size }}, 3) RGB 0-255, turned upright and resized ("{{ resize }}"), and \
returns one probability per class in the order of `classes.json`. It has {{ "{:,}".format(parameters.total) }} parameters; what \
its members share is there once. Nothing but Keras is needed:

    import keras
    model = keras.saving.load_model("model.keras")

Sources: {{ sources | join("; ") }}.
"""


def render(members: Sequence[Member], result: Mapping[str, Any]) -> str:
    """Fill in the card.

    Args:
        members: of the ensemble.
        result: what ``ensemble --json`` prints.

    Returns:
        Markdown.
    """
    first = members[0]
    backbones = [
        BACKBONES[name] for name in dict.fromkeys(member.recipe.backbone for member in members)
    ]
    sources = [f"{backbone.citation}; licence: {backbone.licence}" for backbone in backbones]
    settings = {
        "size": first.recipe.image_size,
        "resize": first.recipe.resize,
        "classes": first.classes,
    }
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(_CARD)
    return template.render(**settings, **result, sources=sources)
