"""The page of `finetune advise`, in a browser."""

import numpy as np
import pytest
from conftest import paint

from finetune.report.advice import curve, write_advice

PROBE = {"accuracy": 0.91, "interval": [0.89, 0.93]}
PROBES = {"linear_probe": PROBE, "nearest_neighbour": PROBE}
POINTS = [
    {"photos": n, "accuracy": a, "interval": [a - 0.02, a + 0.02], "extrapolated": n == 400}
    for n, a in ((50, 0.8), (100, 0.85), (200, 0.88), (400, 0.9))
]
HOSTILE = "<script>window.pwned = 1</script>"


def result(**changes) -> dict:
    score = {"backbone": "mobilenet", "cut": "conv_pw_13_relu", "features": 256, **PROBES}
    return {
        "data": "photos",
        "recommendation": {"strategy": "top-blocks", "backbone": "mobilenet", "why": HOSTILE},
        "similarity": {
            "value": 0.8,
            "photos": 100,
            "majority": 0.5,
            "backbone": PROBES,
            "random": PROBES,
        },
        "scores": [score | {"log_me": -0.2, "h_score": 0.7}],
        "scores_checked": [
            {"data": "zoo", "cuts": 10, "log_me": 0.91, "h_score": 0.9, "linear_probe": 0.95}
        ],
        "learning_curve": POINTS,
        "suspects": [
            {"kind": "label", "file": "a.png", "class": HOSTILE, "why": "looks like dogs"},
            {
                "kind": "near-duplicate",
                "file": "a.png",
                "class": "cats",
                "why": "looks like gone.png",
                "other": "gone.png",
            },
        ],
        "photos": 200,
        **changes,
    }


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_loads_its_thumbnails_and_runs_nothing(browser, tmp_path, width):
    paint(tmp_path / "photos/a.png", (200, 60, 50), 1)
    write_advice(tmp_path, result(), tmp_path / "photos")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "advise.html").as_uri())
    assert browser.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")
    shown = "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
    assert browser.execute_script(shown) == [True, True]
    assert browser.execute_script("return window.pwned === undefined")
    curves = "return [...document.querySelectorAll('figure svg')].map(s => s.checkVisibility())"
    assert sorted(browser.execute_script(curves)) == [False, True], "one curve for each width"
    assert browser.get_log("browser") == []


def test_a_page_without_suspects_curve_or_photos(tmp_path):
    write_advice(tmp_path, result(suspects=[], learning_curve=POINTS[:1]), None)
    text = (tmp_path / "advise.html").read_text()
    assert "Outliers: none" in text
    assert "correlation with the test accuracy of a linear head is 0.91 for LogME" in text
    assert "n&nbsp;=&nbsp;10 cuts" in text
    assert "<img" not in text


def test_the_curve_lies_within_its_picture():
    for points in (POINTS, POINTS[:1], [POINTS[0] | {"interval": [0.0, 1.0]}]):
        drawn = curve(points, 358, 280)
        places = [(p["x"], p[key]) for p in drawn["points"] for key in ("y", "low", "high")]
        x, y = np.array(places).T
        assert x.min() >= drawn["left"]
        assert x.max() <= drawn["right"]
        assert 0 <= y.min() <= y.max() <= drawn["floor"] + 1e-6
