"""FiftyOne and Label Studio themselves take what is written for them. Skipped where they are not at hand.

Neither is a dependency, not even of the tests: they stand in environments of their own. Set

- FIFTYONE_PYTHON to a Python with `fiftyone`, which starts its database or finds it by FIFTYONE_DATABASE_URI;
- LABEL_STUDIO_URL and LABEL_STUDIO_TOKEN to a server that was started with
  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and LABEL_STUDIO_ROOT to
  that folder.
"""

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grcn.data.dataset import open_dataset
from grcn.predict.job import predict_sources
from grcn.predict.sources import find_sources
from networks import looking

NAMES = ("cat & <dog>", "être")
BOXES = [(0.5, 1.25, 60, 40), (10, 20, 97.3, 60)]


def found(out: Path, tmp_path: Path, save: str) -> Path:
    for name in ("a.png", "é b&c.jpg"):
        Image.new("RGB", (100, 60), "gray").save(tmp_path / name)
    sources, _ = find_sources([str(tmp_path / "a.png"), str(tmp_path / "é b&c.jpg")], out)
    predict_sources(looking(lambda _: (BOXES, [0.75, 0.5], [1, 0]), NAMES, "finder"), sources, out, save=[save])
    return out / save


FIFTYONE = """
import json, sys
import fiftyone
data = fiftyone.Dataset.from_dir(sys.argv[1], dataset_type=fiftyone.types.LegacyFiftyOneDataset)
data.compute_metadata()
print(json.dumps([
    [s.filepath, s.metadata.width, s.metadata.height,
     [[d.label, d.bounding_box, d.confidence] for d in s.predictions.detections]] for s in data
]))
"""


def test_fiftyone_imports_samples(tmp_path: Path) -> None:
    if not (python := os.environ.get("FIFTYONE_PYTHON")):
        pytest.skip("FIFTYONE_PYTHON names no Python that has fiftyone")
    folder = found(tmp_path / "out", tmp_path, "fiftyone")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", FIFTYONE, str(folder)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    samples = json.loads(done.stdout.splitlines()[-1])
    assert [Path(sample[0]).name for sample in samples] == ["a.png", "é_b&c.jpg"]
    for path, width, height, detections in samples:
        assert Path(path).is_file()
        assert (width, height) == (100, 60)
        assert [(label, score) for label, _, score in detections] == [("être", 0.75), ("cat & <dog>", 0.5)]
        for (_, (x, y, w, h), _), box in zip(detections, BOXES, strict=True):
            np.testing.assert_allclose([x * 100, y * 60, (x + w) * 100, (y + h) * 60], box, atol=1e-4)


def test_label_studio_takes_tasks_and_gives_a_data_set(tmp_path: Path) -> None:
    if not (url := os.environ.get("LABEL_STUDIO_URL")):
        pytest.skip("LABEL_STUDIO_URL names no running Label Studio")

    def ask(path: str, content: Any = None) -> bytes:
        headers = {"Authorization": f"Token {os.environ['LABEL_STUDIO_TOKEN']}", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=60) as answer:
            return answer.read()

    root = Path(os.environ["LABEL_STUDIO_ROOT"])
    folder = found(root / tmp_path.name, tmp_path, "labelstudio")
    # The addresses are for a document root that is `--out`; here it is one above.
    tasks = json.loads((folder / "tasks.json").read_text().replace("?d=", f"?d={tmp_path.name}/"))
    interface = (folder / "interface.txt").read_text()
    project = json.loads(ask("/api/projects", {"title": "grcn test", "label_config": interface}))["id"]
    ask("/api/storages/localfiles", {"project": project, "path": str(folder), "use_blob_urls": True})
    assert json.loads(ask(f"/api/projects/{project}/import", tasks))["prediction_count"] == 2
    for task in json.loads(ask(f"/api/tasks?project={project}&fields=all"))["tasks"]:
        assert ask(task["data"]["image"]), "the picture is served"
        (prediction,) = task["predictions"]
        assert (prediction["model_version"], prediction["score"]) == ("finder", 0.625)
        ask(f"/api/tasks/{task['id']}/annotations", {"result": prediction["result"]})
    (folder / "export.json").write_bytes(ask(f"/api/projects/{project}/export?exportType=JSON"))
    data = open_dataset(folder)
    assert (data.format, data.class_names, data.defects) == ("labelstudio", NAMES, ())
    assert [record.path.name for record in data] == ["a.png", "é_b&c.jpg"]
    for record in data:
        np.testing.assert_allclose(record.target.boxes, BOXES, atol=1e-4)
        assert record.target.labels.tolist() == [1, 0]
