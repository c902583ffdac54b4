"""The notebook in examples/ runs from its first cell to its last: `make test-docs`."""

from pathlib import Path

import pytest

from document_blocks import ROOT

pytestmark = pytest.mark.documents
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_it_runs(tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT.parent) if ROOT.name == "limner" else "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert sorted(path.name for path in Path(tmp_path).glob("*.png")) == ["car.png", "talk-01.png", "talk-02.png"]
