"""The report: the right numbers, nothing ranked that must not be, and a page that is safe and works
in a browser.
"""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import paint
from PIL import Image
from report_cells import SPLIT, add_cell, failed, write

from finetune.evaluation.intervals import wilson
from finetune.evaluation.metrics import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    summarize,
)
from finetune.report import figures
from finetune.report.galleries import galleries
from finetune.report.page import quantity
from finetune.report.sections import sections
from finetune.runs.predictions import read_predictions

OTHER = "b" * 64
HOSTILE = "<script>window.pwned = 1</script>"
QUOTED = '"><img src=x onerror="window.pwned = 1">'


@pytest.fixture
def zoo(tmp_path) -> Path:
    """Sixty test photos, wider than high."""
    for i in range(60):
        paint(tmp_path / "zoo" / "test" / f"{i}.png", (3 * i, 90, 200 - 3 * i), i, size=(60, 30))
    return tmp_path / "zoo"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def cells(out) -> list[dict]:
    """Three recipes with two seeds on one split, one recipe on another, one failed and one diverged
    cell.
    """
    made = [
        add_cell(out, "best", seed, wrong=[0], validation_wrong=1, seconds=300) for seed in (0, 1)
    ]
    made += [add_cell(out, "middle", seed, wrong=[0, 1 + seed, 5], seconds=20) for seed in (0, 1)]
    made += [
        add_cell(out, "cheap", seed, wrong=30 + seed, strategy="cached-features", epochs=0)
        for seed in (0, 1)
    ]
    made += [add_cell(out, "elsewhere", split=OTHER, wrong=0)]
    return [
        *made,
        failed("no-weights", "weights are not to be had"),
        failed("wild", "loss is NaN", "diverged"),
    ]


class Page(HTMLParser):
    """Elements with attributes, text by element, and each table as rows of (text, data-value)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: dict[str, str] = {}
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", attributes.get("data-value")))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.text[tag] = self.text.get(tag, "") + data
        if {"td", "th"} & set(self._open):
            text, value = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, value)

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rankings(self) -> list[dict[str, dict[str, tuple[str, str | None]]]]:
        """Each ranking table as recipe -> heading -> (text, data-value)."""
        found = []
        for table in self.tables:
            heads = [text.strip() for text, _ in table[1]] if len(table) > 1 else []
            if "tie group" in heads:
                rows = [dict(zip(heads, row, strict=True)) for row in table[2:]]
                found.append({row["recipe"][0].split(" ")[0]: row for row in rows})
        return found

    def costs(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        """The first cost table as recipe -> heading -> (text, data-value)."""
        table = next(table for table in self.tables if table[0][-1][0].startswith("mult-adds"))
        heads = [text for text, _ in table[0]]
        rows = [dict(zip(heads, row, strict=True)) for row in table[1:]]
        return {row["recipe"][0].split(" ")[1]: row for row in rows}


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def test_the_policy_allows_our_script_and_style_and_nothing_else(out, cells, zoo):
    write(out, cells, zoo)
    page = page_of(out)
    policy = next(meta["content"] for meta in page.attributes("meta") if "http-equiv" in meta)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(page.text[tag].encode()).digest()).decode()
        assert directives.pop(directive) == f"'sha256-{digest}'"
    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_loads_nothing(out, cells, zoo):
    write(out, cells, zoo)
    page = page_of(out)
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert name != "style", "a style attribute would be blocked"
            assert not name.startswith("on"), f"{tag} has a handler"
            if name in ("src", "href", "action", "data", "srcset"):
                assert value.startswith(("#", "data:image/jpeg;base64,")), (
                    f"{tag} {name}={value[:60]}"
                )
    assert len(page.attributes("img")) > 10
    assert not re.search(r"url\(|@import|https?:", page.text["style"] + page.text["script"])
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in page.attributes("a")} <= targets


def hostile_cells(out: Path) -> list[dict]:
    classes = (HOSTILE, QUOTED)
    made = [
        add_cell(out, f"recipe {QUOTED}", classes=classes),
        add_cell(out, HOSTILE, wrong=9, classes=classes),
    ]
    for cell in made:
        path = out / cell["run"] / "predictions.csv"
        table = pd.read_csv(path)
        table["file"] = table["file"] + HOSTILE + QUOTED
        table.to_csv(path, index=False)
    return [*made, failed(QUOTED, HOSTILE)]


def test_hostile_names_are_inert(out):
    write(out, hostile_cells(out), command=HOSTILE)
    page = page_of(out)
    assert len(page.attributes("script")) == 1
    assert (
        page.text["script"] == files("finetune.report").joinpath("templates/report.js").read_text()
    )
    assert page.attributes("img") == []
    for tag in ("figcaption", "td", "code"):
        assert HOSTILE in page.text[tag]
    assert HOSTILE in page.text["p"], "the verdict"


def test_rows_of_different_splits_are_never_ranked_together(out, cells):
    result = write(out, cells)
    assert [set(table) for table in page_of(out).rankings()] == [
        {"best", "middle", "cheap"},
        {"elsewhere"},
    ]
    assert {row["recipe"]: row["split"] for row in result["ranking"]} == {
        "best": SPLIT,
        "middle": SPLIT,
        "cheap": SPLIT,
        "elsewhere": OTHER,
    }
    assert [row["number"] for row in result["ranking"]] == [1, 2, 3, 1]
    assert result["verdict"].count("zoo (") == 2, "each split has a verdict of its own"
    assert "cannot be compared" in page_of(out).text["p"]
    markdown = (out / "results.md").read_text()
    assert markdown.count("| # |") == 2
    assert markdown.index("split bbbbbbbb") < markdown.index("| elsewhere")


def test_failed_and_diverged_cells_are_listed(out, cells):
    write(out, cells)
    rows = next(table for table in page_of(out).tables if table[0][0][0] == "trials")
    assert [[text for text, _ in row] for row in rows[1:]] == [
        ["no-weights-s0", "failed", "weights are not to be had"],
        ["wild-s0", "diverged", "loss is NaN"],
    ]
    table = pd.read_csv(out / "results.csv")
    assert len(table) == len(cells)
    assert table.set_index("name")["reason"]["wild-s0"] == "loss is NaN"
    assert "- diverged: wild-s0: loss is NaN" in (out / "results.md").read_text()


def test_trials_that_fail_for_one_reason_are_one_line(out, cells):
    reason = "the weights of resnet50 can't be had"
    write(out, [*cells, *(failed(f"resnet-{i}", reason) for i in range(4))])
    lines = (out / "results.md").read_text().splitlines()
    assert f"- failed: resnet-0-s0, resnet-1-s0, resnet-2-s0, resnet-3-s0: {reason}" in lines
    assert page_of(out).text["td"].count(reason) == 1


def test_markdown_takes_text_as_it_stands_but_for_pipes(out):
    cells = [add_cell(out, "a | b", wrong=0), add_cell(out, "c & 'd'", wrong=30)]
    write(out, [*cells, failed("x", "can't\nbe | had, p < 0.5")])
    text = (out / "results.md").read_text()
    assert "p < 0.001" in text
    assert "c & 'd'" in text
    assert r"| a \| b" in text
    assert r"can't be \| had, p < 0.5" in text
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {11, 8}, "the ranking, and the best of the epochs"


def test_accuracy_is_never_alone(out):
    """All test photos called cats: the page and results.md say what that is worth, and which class
    is missed.
    """
    dogs = list(range(1, 60, 2))
    write(out, [add_cell(out, "all-cats", wrong=dogs), add_cell(out, "sound", wrong=3)])
    row = page_of(out).rankings()[0]["all-cats"]
    assert (row["test"][0], row["balanced"][0]) == ("50.0", "50.0")
    for text in (page_of(out).text["p"], (out / "results.md").read_text()):
        assert "most frequent class would be right in 50.0" in text.replace("\xa0", " ")
        assert "all-cats recognises no test photo of dogs." in text
        assert "sound recognises no" not in text


def test_numbers_in_the_table_are_the_metrics(out, cells):
    result = write(out, cells)
    table, numbers = page_of(out).rankings()[0], {row["recipe"]: row for row in result["ranking"]}
    for name in ("best", "middle", "cheap"):
        own = [cell for cell in cells if cell["recipe"] == name]
        shown = own[0]  # of two equally near the mean, the first
        parts = read_predictions(out / shown["run"])[1]
        metrics = summarize(parts["test"].probabilities, parts["test"].labels)
        temperature = fit_temperature(parts["validation"].probabilities, parts["validation"].labels)
        scaled = apply_temperature(parts["test"].probabilities, temperature)
        expected = {
            "test": np.mean([cell["test"]["accuracy"] for cell in own]),
            "95 % interval": wilson(60 * np.mean([cell["test"]["accuracy"] for cell in own]), 60)[
                0
            ],
            "validation": np.mean([cell["validation"]["accuracy"] for cell in own]),
            "log loss": np.mean([cell["test"]["loss"] for cell in own]),
            "balanced": np.mean([cell["test"]["balanced_accuracy"] for cell in own]),
            "ECE (by chance)": metrics["ece"],
            "ECE, scaled": expected_calibration_error(scaled, parts["test"].labels),
            "time": own[0]["cost"]["seconds"],
        }
        assert {heading: float(table[name][heading][1]) for heading in expected} == pytest.approx(
            expected
        )
        assert numbers[name]["sd"] == pytest.approx(
            np.std([cell["test"]["accuracy"] for cell in own], ddof=1)
        )
    assert table["middle"]["test"][0] == "95.0"
    assert table["cheap"]["test"][0] == "49.2", "the mean of an even number of seeds"
    assert table["cheap"]["sd (seeds)"][0] == "1.18 (2)"
    costs = page_of(out).costs()
    assert costs["best"]["stored"][0] == "804 MB"
    assert float(costs["best"]["time alone"][1]) == 600
    assert float(costs["middle"]["mult-adds"][1]) == cells[2]["cost"]["multiply_adds"]


def test_verdict_and_tie_groups(out, cells):
    result = write(out, cells)
    assert "best beats cheap by 49.2 points" in result["verdict"]
    assert [(row["recipe"], row["group"]) for row in result["ranking"][:3]] == [
        ("middle", 1),
        ("best", 1),
        ("cheap", 2),
    ]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_csv_is_the_same_apart_from_its_last_columns(out, cells):
    write(out, cells)
    first = (out / "results.csv").read_text().splitlines()
    slower = [
        {**cell, "cost": {**cell["cost"], "seconds": 1 / cell["cost"]["seconds"]}}
        for cell in cells[:7]
    ]
    write(out, [*cells[7:], *slower[::-1]])
    second = (out / "results.csv").read_text().splitlines()
    kept = first[0].split(",peak_memory,")[0].count(",") + 1
    assert "seconds" not in ",".join(first[0].split(",")[:kept])
    assert "test_accuracy" in first[0].split(",")[:kept]
    assert first != second
    assert [line.split(",")[:kept] for line in first] == [line.split(",")[:kept] for line in second]


def test_one_cell_is_a_page(out, zoo):
    result = write(out, [add_cell(out, "alone")], zoo)
    assert result["verdict"] == "alone is the only recipe: there is nothing to compare it with."
    page = page_of(out)
    assert list(page.rankings()[0]) == ["alone"]
    assert "The most confident mistakes" in page.text["h4"]
    assert "Only one recipe" not in page.text["h4"]


def test_only_failed_cells_are_a_page(out):
    result = write(out, [failed("a", "no weights"), failed("b", "no memory")])
    assert (result["ranking"], result["verdict"]) == (
        [],
        "There is nothing to rank: 0 of 2 trials finished.",
    )
    assert "no memory" in page_of(out).text["td"]
    assert len(pd.read_csv(out / "results.csv")) == 2


def test_galleries_choose_the_photos(out, zoo):
    cells = [
        add_cell(out, "a", wrong=[0, 1, 2]),
        add_cell(out, "b", wrong=[0, 1, 3]),
        add_cell(out, "c", wrong=[0, 2]),
    ]
    all_wrong, one_right, confident = galleries(sections(out, cells)[0], zoo, limit=2)
    assert [photo["file"] for photo in all_wrong["photos"]] == ["test/0.png"]
    assert {photo["file"]: photo["text"].split(",")[0] for photo in one_right["photos"]} == {
        "test/1.png": "only c is right",
        "test/2.png": "only b is right",
    }
    assert (confident["found"], len(confident["photos"])) == (4, 2)
    assert all_wrong["photos"][0] | {"src": ""} == {
        "file": "test/0.png",
        "true": "cats",
        "text": "taken for dogs",
        "src": "",
        "width": 160,
        "height": 80,
    }


def test_thumbnails_are_the_photos_or_say_that_they_are_missing(out, zoo):
    (zoo / "test" / "1.png").write_bytes(b"no picture")
    (zoo / "test" / "2.png").unlink()
    section = sections(out, [add_cell(out, "a", wrong=[0, 1, 2])])[0]
    photos = {photo["file"]: photo for photo in galleries(section, zoo, limit=9)[0]["photos"]}
    thumbnail = Image.open(io.BytesIO(base64.b64decode(photos["test/0.png"]["src"].split(",")[1])))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (160, 80))
    painted = np.asarray(Image.open(zoo / "test" / "0.png")).mean(axis=(0, 1))
    np.testing.assert_allclose(np.asarray(thumbnail).mean(axis=(0, 1)), painted, atol=4)
    assert photos["test/1.png"]["src"] is photos["test/2.png"]["src"] is None
    assert galleries(section, None, limit=9)[0]["photos"][0]["src"] is None


def test_a_page_full_of_photos_stays_small(out, tmp_path):
    root = tmp_path / "large"
    for i in range(60):
        paint(root / "test" / f"{i}.png", (100, 120, 140), i, size=(400, 400))
    write(out, [add_cell(out, f"r{i}", wrong=list(range(i, 40 + i))) for i in range(4)], root)
    assert len(page_of(out).attributes("img")) > 20
    assert (out / "report.html").stat().st_size < 4e6


def test_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    cost, accuracy = rng.integers(1, 9, 60), rng.integers(1, 9, 60)
    both = list(zip(cost, accuracy, strict=True))
    expected = [
        not any(
            c <= cost[i] and a >= accuracy[i] and (c < cost[i] or a > accuracy[i]) for c, a in both
        )
        for i in range(60)
    ]
    assert figures.pareto_front(cost, accuracy).tolist() == expected
    assert 0 < sum(expected) < 60


@pytest.mark.parametrize("width", [358, 900])
@pytest.mark.parametrize("seconds", [[5.0], [3.0, 3.1, 3.2], [0.0, 40.0, 9e5]])
def test_pareto_stays_in_its_box(seconds, width):
    points = [
        {
            "recipe": f"recipe-{i}",
            "number": i,
            "cost_seconds": value,
            "accuracy": 1 - i / 50,
            "group": 1,
        }
        for i, value in enumerate(seconds)
    ]
    plot = figures.pareto(points, width, 340)
    inside = plot["plot"]
    for point in plot["points"]:
        assert inside["left"] <= point["x"] <= inside["right"]
        assert inside["top"] <= point["y"] <= inside["bottom"]
    assert len(plot["x_ticks"]) >= 1
    assert len({text for _, text in plot["y_ticks"]}) == len(plot["y_ticks"]) >= 2


def test_curves_share_an_axis_and_mark_the_lowest_validation_loss():
    history = pd.DataFrame({"loss": [None, 0.5, 0.2], "val_loss": [0.9, 0.3, 0.4]})
    longer = pd.DataFrame({"loss": [None, 0.1], "val_loss": [3.0, 0.01]})
    plot = figures.curves(
        {"a": (history, [history]), "b": (longer, [longer]), "none": (history[:0], [history[:0]])}
    )
    assert [panel["name"] for panel in plot["panels"]] == ["a", "b"]
    assert plot["panels"][0]["kept"] == [
        float(x) for x in plot["panels"][0]["shown"].split()[1].split(",")
    ]
    assert len(plot["panels"][0]["train"].split()) == 2, (
        "nothing was measured on training photos before the first epoch"
    )
    assert figures.curves({"none": (history[:0], [history[:0]])}) is None


def test_accuracies_share_an_axis_on_which_the_test_photos_are_a_line():
    history = pd.DataFrame({"val_loss": [0.9, 0.3, 0.4], "accuracy": [None, 0.7, 1.0]})
    history["val_accuracy"] = [0.5, 0.9, 0.8]
    plot = figures.accuracies({"a": (history, [history]), "none": (history[:0], [])}, {"a": 0.85})
    (panel,) = plot["panels"]
    heights = dict(
        zip([0.5, 0.9, 0.8], [p.split(",") for p in panel["shown"].split()], strict=True)
    )
    y = {share: float(point[1]) for share, point in heights.items()}
    assert y[0.5] > y[0.8] > panel["test"] > y[0.9], "down is lower"
    assert panel["kept"][1] == y[0.9], "the lowest validation loss"
    assert plot["ticks"][-1][1] == "100"
    perfect = history.assign(accuracy=1.0, val_accuracy=1.0)
    assert len(figures.accuracies({"a": (perfect, [perfect])}, {"a": 1.0})["ticks"]) > 1


def test_numbers_in_words():
    assert [quantity(value) for value in (7, 1026, 14_714_688, 999_600, 2e20)] == [
        "7",
        "1.03 k",
        "14.7 M",
        "1 M",
        "200 E",
    ]
    seconds = (0.34, 9.96, 59, 61, 3599, 5400, 90_000)
    assert [figures.duration(value) for value in seconds] == [
        "0.3 s", "10 s", "59 s", "1 min", "60 min", "1.5 h", "25 h",
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(scheme):
    """WCAG 2.2, 1.4.3: text needs 4.5:1."""
    css = files("finetune.report").joinpath("templates/report.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[0 if scheme == "light" else 1]))
    texts = {
        "paper": ("ink", "soft", "accent", "warm"),
        "wash": ("ink", "soft"),
        "accent-wash": ("ink", "soft", "accent"),
    }
    for ground, inks in {**texts, "accent": ("paper",)}.items():
        for ink in inks:
            dark, light = sorted(luminance(colors[name]) for name in (ground, ink))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    srgb = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def show(browser, out: Path, width: int = 1280, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get((out / "report.html").as_uri())


def order(browser, column: int = 1) -> list[str]:
    script = (
        "return [...document.querySelectorAll('table.ranking tbody tr')]"
        ".map(r => r.cells[arguments[0]].innerText)"
    )
    return [text.split()[0] for text in browser.execute_script(script, column)]


def test_sorting_in_a_browser(browser, out, cells, zoo):
    write(out, cells[:6], zoo)
    show(browser, out)
    assert order(browser) == ["middle", "best", "cheap"]
    headers = {
        th.text.split("\n")[0].strip(): th
        for th in browser.find_elements("css selector", ".ranking thead th")
    }
    accuracy = headers["test"].find_element("tag name", "button")
    accuracy.click()
    assert (order(browser), headers["test"].get_attribute("aria-sort")) == (
        ["best", "middle", "cheap"],
        "descending",
    )
    accuracy.send_keys("\ue007")  # Enter
    assert (order(browser), headers["test"].get_attribute("aria-sort")) == (
        ["cheap", "middle", "best"],
        "ascending",
    )
    assert headers["#"].get_attribute("aria-sort") is None
    headers["recipe"].find_element("tag name", "button").send_keys(" ")
    assert order(browser) == ["best", "cheap", "middle"]
    assert [th.get_attribute("aria-sort") for th in headers.values()].count("ascending") == 1
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_follows_the_colour_scheme(browser, out, cells, zoo, width, scheme):
    long_name = add_cell(
        out, "a-recipe-whose-name-" + 8 * "is-long-", classes=("c" * 80, "dogs"), split=OTHER + "1"
    )
    write(out, [*cells, long_name], zoo)
    show(browser, out, width, scheme)
    assert browser.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")
    cut = (
        "return [...document.querySelectorAll('.ranking')]"
        ".some(t => t.scrollWidth > t.parentNode.clientWidth)"
    )
    assert not browser.execute_script(cut), "the ranking's last column is cut"
    assert browser.execute_script(
        "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert browser.get_log("browser") == []
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    picture.save(out / f"{width}-{scheme}.png")
    assert picture.width == width
    assert (np.mean(picture.getpixel((2, 2))) > 128) == (scheme == "light")
    assert len(picture.getcolors(maxcolors=2**24)) > 50, "an empty page"


def test_hostile_names_do_not_run_in_a_browser(browser, out):
    write(out, hostile_cells(out))
    show(browser, out)
    assert browser.execute_script("return window.pwned === undefined")
    assert browser.get_log("browser") == []
