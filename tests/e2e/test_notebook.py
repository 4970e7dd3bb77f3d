"""The notebook of docs/notebooks runs as it stands, and a kernel that is interrupted saves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from omni_rlvr.pointers import checkpoints_of
from omni_rlvr.record import read_json

FILE = Path(__file__).parents[2] / "docs" / "notebooks" / "first_hour.ipynb"


@pytest.fixture(autouse=True)
def _jupyter(monkeypatch, tmp_path):
    """Keep Jupyter's files in this test's folder."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_the_notebook_goes_from_a_clip_to_a_table(tmp_path):
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    was_run = [cell.source for cell in cells if cell.outputs or cell.execution_count]
    assert not was_run, "it is committed without what it shows"
    NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = {kind for cell in cells for out in cell.outputs for kind in out.get("data", {})}
    assert {"image/png", "text/html"} <= shown
    table = next(cell for cell in cells if cell.source.endswith("\ntable"))
    (out,) = [out for out in table.outputs if out.output_type == "execute_result"]
    assert "cold start" in out.data["text/plain"]
    assert "RLVR" in out.data["text/plain"]
    assert len(list(tmp_path.glob("first_hour/outputs/*/*/checkpoint"))) >= 2


def test_the_stop_button_saves_and_the_same_call_goes_on(tmp_path):
    small = [
        *("stage=sft", "stage.max_steps=40", "stage.batch_size=2", "dataset.num_workers=0"),
        *("dataset.train_split=test", "dataset.splits.test.num_clips=8", "trainer.accelerator=cpu"),
        *("logger=[]", f"paths.output_root={tmp_path}/outputs", f"paths.data_root={tmp_path}/data"),
    ]
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute(f"import omni_rlvr; own = {json.dumps(small)}")
        client.execute("omni_rlvr.run(omni_rlvr.compose(own))")
        until = time.monotonic() + 200
        while not list(tmp_path.glob("outputs/train/*/metrics.jsonl")):
            assert time.monotonic() < until
            time.sleep(0.05)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)["content"]
        while reply["status"] == "ok":  # of the cell with the import
            reply = client.get_shell_msg(timeout=60)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "Interrupted"), reply
        (run,) = tmp_path.glob("outputs/train/[0-9]*")
        (saved,) = checkpoints_of(run)[:1]
        assert read_json(run / "run.json")["status"] == "interrupted"
        assert saved.name < "step_000040", "it was stopped before its end"
        again = client.execute("omni_rlvr.run(omni_rlvr.compose([*own, 'resume=latest'])).metrics")
        while (reply := client.get_shell_msg(timeout=200))["parent_header"]["msg_id"] != again:
            pass
        assert reply["content"]["status"] == "ok", reply["content"]
        assert read_json(run / "run.json")["status"] == "finished"
        assert checkpoints_of(run)[0].name == "step_000040"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
