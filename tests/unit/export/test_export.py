"""Exported files, run by ONNX Runtime and OpenVINO: the eager detector's answers, no torch; broken ones refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from filelock import FileLock
from PIL import Image

from bare import bare
from building import TIMM
from grcn import Detector
from grcn.cli.main import main
from grcn.config import DetectorConfig
from grcn.errors import CheckpointError, ConfigError, ImageError
from grcn.export.export import Format, export
from grcn.predict.checkpoint import load_detector, save_detector
from grcn.presets import PRESETS
from grcn.thresholds import KEY, Thresholds, calibrate
from lively import NAMES, assert_same, exports, lively, scene, small

pytestmark = exports

SIZES = ((333, 517), (517, 333), (96, 128), (40, 300), (17, 11), (380, 300))  # height, width
THRESHOLDS = Thresholds(NAMES, (0.5, None, 0.125), (0.5, 0.75, None), 0.25, 0.9, 2.0, 0.5, "zoo", "val")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one detector, and beside them its exported files: made by the first process of the tests for all of them."""
    folder = shared_folder(tmp_path_factory) / "grcn_r18"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            save("grcn_r18", folder)
            # By the command, with its default names.
            assert main(["export", str(folder), "--format", "onnx"]) == 0
            assert main(["export", str(folder / "last.safetensors"), "--format", "openvino"]) == 0
    return folder / "last.safetensors"


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def save(name: str, folder: Path, config: DetectorConfig | None = None, **roi: float) -> Path:
    config = config or small(name)
    model = lively(replace(config, roi=replace(config.roi, **roi)))
    path = folder / "last.safetensors"
    save_detector(path, model, class_names=NAMES, preset=name, extra={"AP": 0.5, KEY: THRESHOLDS.to_json()})
    return path


@pytest.fixture(scope="module")
def onnx_file(weights: Path) -> Path:
    return weights.with_name("model.onnx")


@pytest.fixture(scope="module")
def openvino_folder(weights: Path) -> Path:
    return weights.with_name("openvino")


def pictures() -> Iterator[np.ndarray]:
    for i, size in enumerate(SIZES[::2]):
        yield scene(*size, seed=i)


@pytest.mark.parametrize("kind", ["onnx_file", "openvino_folder"])
def test_any_size_and_any_batch_are_as_eager(kind: str, weights: Path, request: pytest.FixtureRequest) -> None:
    eager, exported = Detector.load(weights), Detector.load(request.getfixturevalue(kind))
    assert (exported.class_names, exported.preset, exported.config) == (NAMES, "grcn_r18", eager.config)
    for picture in pictures():
        assert_same(exported.predict(picture), eager.predict(picture))
    batch = [scene(120, 160, seed) for seed in range(4)]
    expected = [eager.predict(picture) for picture in batch]
    assert sum(len(found) for found in expected) > 20
    for count in range(1, 5):
        for found, own in zip(exported.predict(batch[:count], batch_size=4), expected, strict=False):
            assert_same(found, own)
    mixed = [batch[0], scene(64, 200), batch[1]]
    for found, own in zip(exported.predict(mixed, batch_size=3), mixed, strict=True):
        assert_same(found, eager.predict(own))


def test_photos_are_as_eager(weights: Path, onnx_file: Path, openvino_folder: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:4]
    eager = Detector.load(weights)
    for exported in (Detector.load(onnx_file), Detector.load(openvino_folder)):
        for found, own in zip(exported.predict(files, batch_size=4), files, strict=True):
            assert_same(found, eager.predict(own))


def test_another_head_is_as_eager(tmp_path: Path) -> None:
    """The one that runs per RoI, and boxes looked at twice. A pyramid's graph is compared in tests/golden."""
    config = small("faster_rcnn_r18_c4")
    config = replace(config, roi=replace(config.roi, refine=1))
    check_preset("faster_rcnn_r18_c4", ["onnx"], tmp_path, ((333, 517), (90, 60)), config)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_as_eager(name: str, tmp_path: Path) -> None:
    check_preset(name, ["onnx", "openvino"], tmp_path, sizes=SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_every_backbone_of_the_table_is_as_eager(name: str, tmp_path: Path) -> None:
    """The seven of docs/tutorials/new-backbone.md; those that have no finer conv5 at their own stride."""
    config = replace(small("faster_rcnn_r18_c5"), backbone=name)
    if "swin" in name or "hgnet" in name:
        config = replace(config, cls_stride=32, loc_stride=32)
    size = (96, 128) if "swin" in name else None
    check_preset("faster_rcnn_r18_c5", ["onnx", "openvino"], tmp_path, SIZES if size is None else (size,), config, size)


def check_preset(
    name: str,
    formats: list[Format],
    folder: Path,
    sizes: tuple[tuple[int, int], ...],
    config: DetectorConfig | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Exported and folded equal what was trained, on pictures of `sizes`; `config`: in place of the preset's."""
    weights = save(name, folder, config)
    eager = Detector.load(weights, optimize="none")
    for format in formats:
        found = 0
        exported = Detector.load(
            export(
                load_detector(weights),
                folder / {"onnx": "model.onnx", "openvino": "openvino"}[format],
                format,
                size=size,
            )
        )
        for i, side in enumerate(sizes):
            picture = scene(*side, seed=i)
            expected = eager.predict(picture)
            assert_same(exported.predict(picture), expected)
            found += len(expected)
        assert found > 10


@pytest.mark.slow
def test_nothing_found(tmp_path: Path) -> None:
    weights = save("faster_rcnn_r18_c5", tmp_path, score_threshold=1.0)
    exported = Detector.load(export(load_detector(weights), tmp_path / "nothing.onnx", "onnx", size=(96, 128)))
    assert len(exported.predict(scene(96, 128))) == 0


def test_a_fixed_size_takes_that_size_alone(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "fixed"
    words = ["--format", "openvino", "--size", "80", "100", "--half", "--out", str(out)]
    assert main(["export", str(weights), *words]) == 0
    assert (out / "model.bin").stat().st_size < 0.51 * weights.stat().st_size
    fixed, eager = Detector.load(out), Detector.load(weights)
    batch = [scene(80, 100, seed) for seed in range(2)]
    for found, own in zip(fixed.predict(batch, batch_size=2), batch, strict=True):
        assert abs(len(found) - len(eager.predict(own))) <= 2  # weights of 16 bits move a score over the threshold
    with pytest.raises(ImageError, match=r"image of 100x81: .*model\.xml takes only 100x80"):
        fixed.predict(scene(81, 100))


@pytest.mark.slow
def test_weights_in_half_the_size(weights: Path, onnx_file: Path, tmp_path: Path) -> None:
    half = export(load_detector(weights), tmp_path / "half.onnx", "onnx", half=True)
    assert half.stat().st_size < 0.51 * onnx_file.stat().st_size
    found, expected = (Detector.load(path).predict(scene(96, 128)) for path in (half, onnx_file))
    np.testing.assert_allclose(found.scores[:10], expected.scores[:10], atol=0.01)
    assert not np.array_equal(found.scores, expected.scores)


def test_the_file_says_what_it_is(onnx_file: Path, openvino_folder: Path, weights: Path) -> None:
    import openvino

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    told = json.loads(entry.value)
    assert told["class_names"] == list(NAMES)
    assert told["preset"] == "grcn_r18"
    assert told["config"]["input"] == {"short_side": 96, "long_side": 160}
    assert told["config"]["roi"]["score_threshold"] == 0.05
    assert told["extra"]["normalisation"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert told["extra"]["AP"] == 0.5
    assert told["extra"]["thresholds"]["best"] == {"a": 0.5, "b": None, "c": 0.125}
    assert told == json.loads(openvino.Core().read_model(openvino_folder / "model.xml").get_rt_info(["grcn"]).value)
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, 0, 0, 3]
    assert [o.name for o in model.graph.output] == ["boxes", "scores", "class_ids"]


def test_torch_reads_its_own(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert main(["export", str(weights), "--format", "torch", "--out", str(out)]) == 0
    extra = {"grcn": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["grcn"])["class_names"] == list(NAMES)
    eager = Detector.load(weights)
    for count, size in ((1, (96, 128)), (3, (60, 90))):
        batch = [scene(*size, seed) for seed in range(count)]
        boxes, scores, ids = (part.numpy() for part in program.module()(torch.from_numpy(np.stack(batch))))
        for i, picture in enumerate(batch):
            real = ids[i] >= 0
            expected = eager.predict(picture)
            assert real.sum() == len(expected)
            np.testing.assert_allclose(np.sort(scores[i][real])[::-1], expected.scores, atol=1e-3)
            assert boxes[i].max() <= max(size)
    with pytest.raises(CheckpointError, match=r"model\.pt2: grcn does not load \.pt2 files"):
        Detector.load(out)


@pytest.mark.slow
def test_int8_finds_nearly_the_same(weights: Path, beach: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    words = ["--format", "openvino", "--int8", "--data", str(beach), "--images", "5", "--out", str(out)]
    assert main(["export", str(weights), *words]) == 0
    assert (out / "model.bin").stat().st_size < 0.3 * weights.stat().st_size
    found, expected = (Detector.load(source).predict(scene(96, 128)) for source in (out, weights))
    assert abs(len(found) - len(expected)) < 0.3 * len(expected)


@pytest.mark.parametrize("kind", ["onnx_file", "openvino_folder"])
def test_thresholds_and_temperature_come_along(kind: str, weights: Path, request: pytest.FixtureRequest) -> None:
    file, photo = request.getfixturevalue(kind), scene(96, 128)
    detector = Detector.load(file)
    assert detector.thresholds == Detector.load(weights).thresholds == THRESHOLDS
    found = detector.predict(photo)
    best = detector.predict(photo, score="best")
    assert 0 < len(best) == len(found.above(THRESHOLDS.of("best"))) < len(found)
    np.testing.assert_array_equal(
        Detector.load(file, calibrated=True).predict(photo).scores, calibrate(found, 2.0).scores
    )


def test_a_file_without_thresholds_says_how_to_get_them(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    header = json.loads(model.metadata_props[0].value)
    del header["extra"][KEY]
    model.metadata_props[0].value = json.dumps(header)
    onnx.save(model, tmp_path / "plain.onnx")
    said = r"plain\.onnx: no thresholds .* on the run that it was made from, and export that run again$"
    with pytest.raises(ConfigError, match=said):
        Detector.load(tmp_path / "plain.onnx").predict(scene(96, 128), score="precise")
    with pytest.raises(ConfigError, match=said):
        Detector.load(tmp_path / "plain.onnx", calibrated=True)


def test_a_score_below_the_built_in_threshold_is_refused(onnx_file: Path) -> None:
    detector = Detector.load(onnx_file)
    with pytest.raises(ConfigError, match=r"model\.onnx: its lowest score is 0\.05, set at the export"):
        detector.predict(scene(96, 128), score=0.0)
    assert len(detector.predict(scene(96, 128), score=0.05)) == len(detector.predict(scene(96, 128)))


def test_an_exported_detector_needs_its_runtime_alone(onnx_file: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "p.png", tmp_path / "found"
    Image.fromarray(scene(96, 128)).save(picture)
    done = bare("predict", onnx_file, picture, "--out", out, but="onnxruntime,onnx")
    assert done.returncode == 0, done.stderr
    assert main(["predict", str(onnx_file), str(picture), "--out", str(tmp_path / "here")]) == 0
    assert (out / "results.json").read_bytes() == (tmp_path / "here" / "results.json").read_bytes()
    assert len(json.loads((out / "results.json").read_text())) > 5
    done = bare("predict", onnx_file, picture, "--out", out)
    assert (done.returncode, done.stderr) == (
        2,
        "grcn: error: needs onnxruntime, which is not installed: pip install 'grcn[onnx]'\n",
    )


def test_evaluation_needs_no_torch(openvino_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    Image.fromarray(scene(96, 128)).save(data / "images" / "one.png")
    (data / "labels" / "one.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (data / "data.yaml").write_text(f"names: [{', '.join(NAMES)}]\ntest: images\n")
    done = bare("evaluate", openvino_folder, "--data", data, "--json", but="openvino")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["detections"] > 5


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_pages_programs_run(runtime: str, onnx_file: Path, openvino_folder: Path, tmp_path: Path) -> None:
    """docs/deploy.md: with the runtime, numpy and OpenCV alone."""
    page = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")
    (program,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"import {runtime}" in block
    )
    shutil.copy(onnx_file, tmp_path / "model.onnx")
    shutil.copytree(openvino_folder, tmp_path / "openvino")
    Image.fromarray(scene(96, 128)).save(tmp_path / "beach.jpg")
    program += (
        "\nimport sys\nassert not {'torch', 'grcn'} & set(sys.modules)\nprint(len(names), (class_ids >= 0).sum())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    classes, found = map(int, done.stdout.split()[-2:])
    assert (classes, found > 5) == (len(NAMES), True)


def foreign() -> onnx.ModelProto:
    """A model that has nothing of a detector."""
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Detector.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_onnx_files_are_refused(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    refused(path, "no such run folder, weights file")
    content = onnx_file.read_bytes()
    for broken in (b"", b"no model", content[: len(content) // 2], content[: len(content) - 40]):
        path.write_bytes(broken)
        refused(path, "not a readable ONNX model")
    onnx.save(foreign(), path)
    refused(path, r"not a grcn detector: from \['x'\] to \['y'\]")
    model = onnx.load(onnx_file)
    for value, message in (
        ("{", "not a grcn detector"),
        ("[" * 100_000, "not a grcn detector"),
        (json.dumps(json.loads(model.metadata_props[0].value) | {"class_names": []}), "class names"),
        (json.dumps(json.loads(model.metadata_props[0].value) | {"format": "grcn-9"}), "format 'grcn-9'"),
    ):
        model.metadata_props[0].value = value
        onnx.save(model, path)
        refused(path, message)


def test_weights_outside_the_folder_are_not_opened(onnx_file: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    model = onnx.load(onnx_file)
    tensor = next(t for t in model.graph.initializer if len(t.raw_data) == 4096 or len(t.raw_data) > 4096)
    size = min(len(tensor.raw_data), 4096)
    del tensor.dims[:]
    tensor.dims.append(size // 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    refused(path, "not a readable ONNX model")


def test_a_lying_graph_is_no_traceback(onnx_file: Path, tmp_path: Path) -> None:
    """Class names that are fewer than the graph's classes."""
    model = onnx.load(onnx_file)
    header = json.loads(model.metadata_props[0].value) | {"class_names": ["only"]}
    header["extra"].pop("thresholds", None)  # which are told apart from the names before any photo
    model.metadata_props[0].value = json.dumps(header)
    onnx.save(model, tmp_path / "lying.onnx")
    with pytest.raises(CheckpointError, match=r"lying\.onnx: its outputs are not detections: class_ids"):
        Detector.load(tmp_path / "lying.onnx").predict(scene(96, 128))


def test_broken_openvino_folders_are_refused(openvino_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "openvino"
    folder.mkdir()
    refused(folder, "no best.safetensors")
    xml, weights = ((openvino_folder / f"model.{s}").read_bytes() for s in ("xml", "bin"))
    for text, content in ((b"", weights), (b"<net", weights), (xml[: len(xml) // 2], weights), (xml, weights[:1000])):
        (folder / "model.xml").write_bytes(text)
        (folder / "model.bin").write_bytes(content)
        refused(folder, "not a readable OpenVINO model")
    (folder / "model.bin").write_bytes(weights)
    (folder / "model.xml").write_bytes(xml.replace(b"grcn-1", b"grcn-9"))
    refused(folder, "format 'grcn-9'")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--format onnx --int8", "--int8 needs --data DIR"),
        ("--format onnx --data photos", "--int8 needs --data DIR"),
        ("--format tflite", "format"),
        ("--format onnx --size 0 10", "needs positive numbers"),
        ("--format openvino --int8 --data photos --images 0", "images 0"),
    ],
)
def test_what_makes_no_sense_is_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", *words.split()]) == 2
    assert message in capsys.readouterr().err


class OddRows(torch.nn.Module):
    """Computes one thing or another by the size of its map, as networks with windows do; another thread says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=lambda: print("another thread", file=sys.stderr))
        thread.start()
        thread.join()
        return x + 1 if x.shape[2] % 7 else x


def test_a_graph_that_depends_on_the_size_wants_a_size(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_detector(weights)
    loaded.model.separation.trunk.conv1.append(OddRows())
    capfd.readouterr()
    with pytest.raises(ConfigError, match=r"'resnet18': its graph depends on the size of the photo .*: --size HEIGHT"):
        export(loaded, tmp_path / "x.pt2", "torch")
    out, err = capfd.readouterr()  # torch prints all that it traced
    assert (out, set(err.splitlines())) == ("", {"another thread"})
    assert export(loaded, tmp_path / "x.pt2", "torch", size=(96, 128)).is_file()


def test_a_gpu_that_is_asked_for_computes_or_is_refused(
    onnx_file: Path, openvino_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here: ONNX Runtime's list of what it can do is made up, and its session tells what it is asked."""
    real, asked = onnxruntime.InferenceSession, []

    class Session:
        def __init__(self, path: str, options: object, providers: list) -> None:
            asked.append(providers)
            self.session = real(path, options, providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> object:
            return getattr(self.session, name)

        def get_providers(self) -> list[str]:
            return working

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=r"no CUDA \(.*CPUExecutionProvider\): pip uninstall onnxruntime"):
            Detector.load(onnx_file, device=device)
    assert not asked
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    working = ["CPUExecutionProvider"]  # as where CUDA is not installed
    with pytest.raises(ConfigError, match="device 'cuda:0': ONNX Runtime cannot use it"):
        Detector.load(onnx_file, device="cuda")
    working = both
    detector = Detector.load(onnx_file, device="cuda:1")
    assert detector.device == "cuda:1 (ONNX Runtime)"
    assert asked[-1] == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    for device in ("auto", "cpu"):
        assert Detector.load(onnx_file, device=device).device == "cpu (ONNX Runtime)"
        assert asked[-1] == ["CPUExecutionProvider"]
    for device in ("mps", "cuda:", "cuda:x", "gpu"):
        with pytest.raises(ConfigError, match=f"device '{device}': .* use cpu, cuda or cuda:1"):
            Detector.load(onnx_file, device=device)
    with pytest.raises(ConfigError, match="runs only on the cpu; for a GPU export to onnx"):
        Detector.load(openvino_folder, device="cuda")


def test_what_cannot_be_exported_or_loaded(weights: Path, onnx_file: Path, tmp_path: Path) -> None:
    loaded = load_detector(weights)
    with pytest.raises(ConfigError, match="int8 with format 'onnx'"):
        export(loaded, tmp_path / "x.onnx", "onnx", calibration=[scene(96, 128)])
    with pytest.raises(ConfigError, match="int8 and half"):
        export(loaded, tmp_path / "x", "openvino", half=True, calibration=[scene(96, 128)])
    assert main(["export", str(tmp_path / "absent"), "--format", "onnx"]) == 6
    with pytest.raises(ConfigError, match="ONNX Runtime has no bfloat16"):
        Detector.load(onnx_file, optimize="bf16")
    with pytest.raises(ConfigError, match="its own class names"):
        Detector.load(onnx_file, class_names=NAMES)
    with pytest.raises(ConfigError, match="no torch module"):
        _ = Detector.load(onnx_file).model
