"""The notebooks of the documentation run from start to end, in a folder of their own, and are kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOK = TUTORIALS / "own-data.ipynb"


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.id
        assert cell.get("execution_count") is None, cell.id


@pytest.mark.slow
def test_own_data_runs_from_start_to_end(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    complaints = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    # matplotlib says so where it has never run
    assert not [text for text in complaints if "building the font cache" not in text]
    assert len(pictures) == 4, "photos, losses, detections, gap"
    for said in ("72 images, format voc", "AP50", "AP50 gained: localization"):
        assert said in text
    assert {path.name for path in (tmp_path / "own-data").iterdir()} == {"beach", "run", "gap.html"}
    assert "this run" in (tmp_path / "own-data" / "gap.html").read_text(encoding="utf-8")
