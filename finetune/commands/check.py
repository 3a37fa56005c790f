"""`finetune check`: photos looked at before they are trained on."""

from pathlib import Path
from typing import Any

from finetune.progress import SILENT, Reporter


def check(
    data: Path | str,
    *,
    groups: str | None = None,
    size: int = 224,
    min_per_class: int | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Look at photos before training: what is bad, what stands twice, what the test can tell.

    Args:
        data: class folders, a table of photos, or the name of a data set.
        groups: which photos belong together, as in a recipe, see ``data.groups.groups``.
        size: side in pixels that the photos will be resized to.
        min_per_class: classes of fewer photos are left out, as by ``run``.
        reporter: gets progress.

    Returns:
        What ``check --json`` prints, see ``data.audit.audit``; ``ok`` if nothing would stop a run.

    Raises:
        UsageError: ``groups`` is no rule.
        DataError: neither a name nor a folder, or the folder is no usable data set.
    """
    from finetune.data.audit import audit
    from finetune.data.catalog import read_dataset

    dataset = read_dataset(str(data), min_per_class or 0, groups)
    with reporter.stage("photos checked", len(dataset.photos)) as advance:
        return {"data": str(data), **audit(dataset, size, advance)}
