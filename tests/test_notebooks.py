"""The notebooks: paired with their scripts, shown with clean outputs, and run on the comparison of
the quickstart.
"""

import importlib.metadata
import os
from pathlib import Path

import jupytext
import pandas as pd
import pytest
from conftest import finetune
from nbclient import NotebookClient

from finetune.model.backbones import BACKBONES
from finetune.model.weight_places import OFFLINE_PACKAGE

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
NO_TENSORFLOW = "import sys\nassert not {'tensorflow', 'keras'} & set(sys.modules)"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_and_notebook_are_a_pair(script):
    """After an edit: jupytext --sync, and execute the notebook again."""
    text, notebook = jupytext.read(script), jupytext.read(script.with_suffix(".ipynb"))
    assert (
        text.metadata["jupytext"]["formats"]
        == notebook.metadata["jupytext"]["formats"]
        == "ipynb,py:percent"
    )
    sources = [[(cell.cell_type, cell.source) for cell in pair.cells] for pair in (text, notebook)]
    assert sources[0] == sources[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_shows_the_outputs_of_one_clean_run(script):
    path = script.with_suffix(".ipynb")
    code = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert {"display_data", "stream"} <= kinds
    assert "error" not in kinds
    assert path.stat().st_size < 300_000
    assert [
        place
        for place in ("/home/", "/tmp/", "/work/", "/Users/", "C:\\\\")
        if place in path.read_text()
    ] == []


def imagenet_weights() -> bool:
    folder = os.environ.get("FINETUNE_WEIGHTS_DIR")
    if folder and Path(folder, BACKBONES["vgg16"].weights_file).exists():
        return True
    return any(importlib.metadata.distributions(name=OFFLINE_PACKAGE))


needs_weights = pytest.mark.skipif(
    not imagenet_weights(),
    reason=f"no VGG16 weights: FINETUNE_WEIGHTS_DIR has none, {OFFLINE_PACKAGE} (extra offline) is "
    "not installed",
)


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """Where a notebook writes."""
    monkeypatch.setenv("FINETUNE_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "out"


def run_notebook(script: Path, *more: str) -> list:
    """Outputs of a notebook and of cells that are added to it; raises CellExecutionError."""
    notebook = jupytext.read(script)
    notebook.cells += [jupytext.reads(f"# %%\n{code}", "py:percent").cells[0] for code in more]
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(script.parent)}}
    )
    client.execute()
    return [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]


@pytest.mark.slow  # a minute
@needs_weights
def test_a_notebook_goes_from_photos_to_an_onnx_file(out):
    shown = run_notebook(ROOT / "notebooks/photos_to_onnx.py")
    assert sum("image/jpeg" in output.get("data", {}) for output in shown) == 1
    assert (out / "onnx/model.onnx").stat().st_size > 50 * 2**20


@pytest.mark.slow  # a minute
@needs_weights
def test_the_seeds_of_transfer_fit_on_one_page(out):
    shown = run_notebook(ROOT / "notebooks/seeds_of_transfer.py")
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    assert {path.name for path in out.iterdir()} == {"frozen", "fine-tuned", "from scratch"}
    assert "frozen alone is right on" in shown[-1].text


@pytest.mark.slow  # a minute
def test_a_notebook_transfers_in_steps(out, monkeypatch):
    monkeypatch.setenv("FINETUNE_SEEDS", "1")
    shown = run_notebook(ROOT / "notebooks/transfer_in_steps.py")
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    results = pd.read_csv(out / "compared/results.csv")
    assert len(results) == 7
    assert set(results["status"]) == {"done"}


@needs_weights
def test_quickstart_compares_and_the_notebook_walks_through_it(tmp_path, monkeypatch):
    out = tmp_path / "compared"
    done = finetune(
        "compare", ROOT / "recipes/quickstart", "--out", out, timeout=900, COLUMNS="200"
    )
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(out / "results.csv")
    assert set(results["status"]) == {"done"}
    assert [recipe for recipe in set(results["recipe"]) if recipe not in done.stdout] == []
    assert (out / "report.html").stat().st_size > 0

    monkeypatch.setenv("FINETUNE_COMPARED", str(out))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shown = run_notebook(ROOT / "notebooks/comparison.py", NO_TENSORFLOW)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert f"Use {results.loc[results['recommended'], 'recipe'].iloc[0]};" in shown[-1].text
