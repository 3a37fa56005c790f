"""`finetune check`, `data`, `cache`, `backbones`, `strategies`, `recipe schema` for a person."""

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.cli.verbs import verb
from finetune.commands.advise import advise
from finetune.commands.cache import gc, ls, verify
from finetune.commands.check import check
from finetune.commands.data import data
from finetune.commands.describe import describe
from finetune.commands.describe import table as described
from finetune.commands.doctor import doctor
from finetune.commands.lists import backbones, schema, strategies
from finetune.errors import DataError, FinetuneError, IntegrityError
from finetune.model.backbones import BACKBONES, CONTROLS
from finetune.progress import count

_LISTED = 5  # files of each kind, or classes, that are named; --json names them all
_CLASSES = 25


def _checked(report: Mapping[str, Any]) -> str:
    sizes, test = report["sizes"], report["test"]
    ignored = ", ".join(f"{number:,} {kind}" for kind, number in report["ignored"].items())
    smaller = f"; {count(sizes['smaller'], 'photo')} smaller than {sizes['size']} px on a side"
    unequal = ": imbalance" if report["imbalance"] > 3 else ""
    return "\n".join(
        [
            f"{report['data']}: {report['folder']}",
            *_table(report["photos"], report["classes"]),
            "split: drawn by content, 60/20/20" if report["hashed"] else "split: by folders",
            f"largest class / smallest class in train: {report['imbalance']:.2f}{unequal}",
            f"sides: {sizes['shortest']} to {sizes['longest']} px"
            f"{smaller if sizes['smaller'] else ''}",
            f"ignored: {ignored or 'none'}",
            *_files("cannot be decoded", [[_reason(bad)] for bad in report["bad"]]),
            *_files("identical, in more than one split or class", report["leaks"]),
            *_files("identical, in one class of one split", report["duplicates"]),
            *_files(
                "look alike, in two splits (a hint: look at them)", report["near_duplicates"], " ~ "
            ),
            *_files("look alike, in one split (a burst?)", report["bursts"], " ~ "),
            *_proposal(report),
            *_files("groups in more than one split", [[g] for g in report["groups_crossing"]]),
            "always naming the most frequent class of the test photos: test accuracy "
            f"{100 * report['majority_baseline']:.1f} %, balanced accuracy "
            f"{100 / len(report['classes']):.1f} %",
            f"{count(test['photos'], 'test photo')} tell an accuracy of 90 % to about "
            f"± {100 * test['half_width']:.1f} points (95 % interval)",
            *(f"warning: {text}" for text in report["warnings"]),
        ]
    )


def _proposal(report: Mapping[str, Any]) -> list[str]:
    """How photos that look alike are kept together."""
    number = len(report["groups_proposed"])
    if not number:
        return []
    rule = report["groups_rule"]
    how = (
        f"--set 'groups={rule}' in `finetune run`, or groups: '{rule}' in a recipe, keeps each in "
        "one split"
        if rule
        else "if their names or folders tell what belongs together, a recipe's `groups` keeps each "
        "in one split"
    )
    return [f"{count(number, 'group')} of photos that look alike may not be independent: {how}"]


def _reason(bad: Mapping[str, str]) -> str:
    return f"{bad['file']} ({bad['reason']})"


def _table(photos: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> list[str]:
    """Photos by class and split, with sums; of many classes the smallest."""
    rows = {name: [photos[split][name] for split in photos] for name in classes}
    sums = [sum(photos[split].values()) for split in photos]
    shown = sorted(rows, key=lambda name: sum(rows[name]))[:_CLASSES]
    shown = [name for name in classes if name in set(shown)]
    left = len(classes) - len(shown)
    more = [f"  and {left:,} larger classes; --json names all"] if left else []
    width = max(len(name) for name in (*shown, "together"))
    head = f"  {'':<{width}}" + "".join(f"{split:>12}" for split in photos)
    lines = [_counts(name, rows[name], width) for name in shown]
    return [head, *lines, *more, _counts("together", sums, width)]


def _counts(name: str, numbers: Sequence[int], width: int) -> str:
    return f"  {name:<{width}}" + "".join(f"{number:>12,}" for number in numbers)


def _files(title: str, groups: Sequence[Sequence[str]], sign: str = " = ") -> list[str]:
    shown = [f"  {sign.join(group)}" for group in groups[:_LISTED]]
    left = len(groups) - _LISTED
    more = [f"  and {left:,} more; --json names all"] if left > 0 else []
    return [f"{title}: {len(groups) or 'none'}", *shown, *more]


def _not_ready(report: Mapping[str, Any]) -> DataError | None:
    if report["ok"]:
        return None
    bad, copies = len(report["bad"]), len(report["leaks"])
    problems = [f"{count(bad, 'photo')} cannot be decoded"] if bad else []
    if copies:
        groups = f"{count(copies, 'group')} of identical photos stand{'s' * (copies == 1)}"
        problems.append(f"{groups} in more than one split or class")
    them = "it" if (bad, copies) == (1, 0) else "them"
    return DataError(f"{' and '.join(problems)}; mend or remove {them} before you train.")


def _advised(result: Mapping[str, Any]) -> str:
    advice = result["recommendation"]
    probes = [
        f"  {row['backbone']} at {row['cut']}: linear probe {_share(row['linear_probe'])}, nearest "
        f"neighbours {_share(row['nearest_neighbour'])}, LogME {row['log_me']:.3f}, H-score "
        f"{row['h_score']:.3f}"
        for row in result["scores"]
    ]
    steps = [
        f"  {point['photos']:,} photos: {_share(point)}{', extrapolated' * point['extrapolated']}"
        for point in result["learning_curve"]
    ]
    doubted = Counter(row["kind"] for row in result["suspects"])
    listed = ", ".join(f"{number:,} {kind}" for kind, number in doubted.items())
    lines = [
        _wrapped(f"{advice['strategy']} on {advice['backbone']}. {advice['why']}"),
        f"stored features of {count(result['photos'], 'photo')}, by cross-validation:",
        *probes,
        "learning curve of the linear probe:",
        *steps,
        f"photos to look at: {listed or 'none'}",
        result["page"],
    ]
    return "\n".join(lines)


def _share(found: Mapping[str, Any]) -> str:
    low, high = (100 * share for share in found["interval"])
    return f"{100 * found['accuracy']:.1f} % ({low:.1f} to {high:.1f})"


def _data(result: Mapping[str, Any]) -> str:
    photos = ", ".join(f"{number:,} {split}" for split, number in result["photos"].items())
    return f"{result['folder']}: {photos}; classes {', '.join(result['classes'])}"


def _listed(found: Mapping[str, Any]) -> str:
    lines = []
    for entry in found["entries"]:
        fields, pixels = entry["fields"], entry["fields"]["pixels"]
        views = " augmented" if pixels["augment"] else ""
        backbone = fields.get("backbone", "")  # photos have none
        lines.append(
            f"{Path(entry['folder']).name[:12]}  {backbone:<12}{fields['cut']:<18}"
            f"{pixels['size']:>4} px{views}  {entry['rows']:>7,} rows  {_mib(entry['bytes'])}  "
            f"{fields['dtype']}"
        )
    for network in found["networks"]:
        fields = network["fields"]
        lines.append(
            f"{Path(network['folder']).name[:12]}  {fields['backbone']:<12}"
            f"{', '.join(network['cuts']):<18}{fields['image_size']:>4} px  trunk in "
            f"{fields['precision']}  {_mib(network['bytes'])}"
        )
    total = sum(item["bytes"] for item in [*found["entries"], *found["networks"]])
    return "\n".join([*lines, f"{_mib(total)} in {_place(found)}"])


def _place(result: Mapping[str, Any]) -> str:
    copy = f", the copy on disk of {result['copy_of']}" if "copy_of" in result else ""
    return f"{result['cache']}{copy}"


def _verified(report: Mapping[str, Any]) -> str:
    lines = [f"damaged: {file}" for file in report["damaged"]]
    damaged = len(report["damaged"]) or "none"
    networks = f", networks: {report['networks']:,}" if report["networks"] else ""
    lines += [
        f"shards: {report['shards']:,}{networks} ({_mib(report['bytes'])}), damaged: {damaged}"
    ]
    lines += [f"in {_place(report)}"] if "copy_of" in report else []
    if report["orphans"]:
        lines += [
            f"files of interrupted writes: {report['orphans']:,} ({_mib(report['orphan_bytes'])}); "
            "`finetune cache gc` removes those older than an hour"
        ]
    return "\n".join(lines)


def _damaged(report: Mapping[str, Any]) -> IntegrityError | None:
    if not report["damaged"]:
        return None
    networks = report["networks"]
    looked_at = count(report["shards"], "shard")
    looked_at += f" and {count(networks, 'network')}" if networks else ""
    return IntegrityError(
        f"{len(report['damaged'])} of {looked_at} fail their checksum; they were set aside, and "
        "the next run computes them anew. Bytes that change by "
        "themselves speak of a failing disk or memory."
    )


def _removed(result: Mapping[str, Any]) -> str:
    lines = [
        f"{_mib(item['bytes']):>12}  {item['kind']:<8}  {item['days']:>6.1f} days old  "
        f"{item['path']}"
        for item in result["removed"]
    ]
    done = "would be removed" if result["dry_run"] else "removed"
    return "\n".join([*lines, f"{_mib(result['bytes'])} {done} from {_place(result)}"])


def _backbones(rows: Mapping[str, Mapping[str, Any]]) -> str:
    core = "\n".join(
        f"{name}: {row['parameters']:,} parameters\n"
        f"  cuts, from the photo upwards: photo, {', '.join(row['cuts'])}\n"
        f"  weights: {row['weights']}\n  licence: {row['licence']}\n  {row['citation']}"
        for name, row in rows.items()
        if name in BACKBONES
    )
    others = [name for name in rows if name not in {**BACKBONES, **CONTROLS}]
    return "\n".join(
        [
            core,
            _wrapped(f"from scratch, with --weights random: {', '.join(CONTROLS)}"),
            _wrapped(f"of keras.applications: {', '.join(others)}"),
            _wrapped("`finetune describe NAME` shows any of them; --json has all rows in full"),
        ]
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent="  ")


def _strategies(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(
        f"{name}: {row['summary']}\n"
        f"  cut: {row['cut']}; what crosses it: {row['crosses']}; what learns: {row['learns']}"
        for name, row in rows.items()
    )


def _schema(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2)


def _doctor(report: Mapping[str, Any]) -> str:
    cache = report["cache"]
    lines = ["versions"]
    lines += [f"  {name} {version or 'missing'}" for name, version in report["versions"].items()]
    lines += ["devices", *(f"  {device}" for device in report["devices"]), "precision"]
    lines += [f"  {name}: {value}" for name, value in report["precision"].items()]
    lines += ["weights for --weights imagenet"]
    lines += [
        f"  {name}: {file or 'none here; they would be downloaded'}"
        for name, file in report["weights"].items()
    ]
    lines += [f"cache: {cache['folder']}, {_mib(cache['bytes'])}; {_mib(cache['free'])} free"]
    lines += ["extras"]
    for name, extra in report["extras"].items():
        state = "installed" if extra["missing"] == [] else f"missing: `{extra['install']}`"
        lines.append(f"  {name}, for {extra['adds']}: {state}")
    for item in report["problems"]:
        lines.append(f"problem: {item['problem']} Mend: {item['mend']}")
    return "\n".join(lines)


def _ill(report: Mapping[str, Any]) -> FinetuneError | None:
    if report["ok"]:
        return None
    return FinetuneError(" ".join(f"{x['problem']} Mend: {x['mend']}" for x in report["problems"]))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


VERBS = {
    "check": verb(check, _checked, "finetune check photos", failure=_not_ready),
    "advise": verb(advise, _advised, "finetune advise photos --backbone vgg16"),
    "doctor": verb(doctor, _doctor, "finetune doctor", failure=_ill),
    "data": verb(data, _data, "finetune data sketches"),
    "describe": verb(describe, described, "finetune describe vgg16 --svg vgg16.svg"),
    "backbones": verb(backbones, _backbones, "finetune backbones --json"),
    "strategies": verb(strategies, _strategies, "finetune strategies"),
}
CACHE_VERBS = {
    "ls": verb(ls, _listed, "finetune cache ls"),
    "verify": verb(verify, _verified, "finetune cache verify", failure=_damaged),
    "gc": verb(gc, _removed, "finetune cache gc --older-than 7 --dry-run"),
}
RECIPE_VERBS = {"schema": verb(schema, _schema, "finetune recipe schema > recipe.schema.json")}
