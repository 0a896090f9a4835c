"""Weights on disk: round trips, pretrained backbones, downloads, and files that are broken, foreign or hostile."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor

from building import build, enlivened, random_images, small
from grcn.config import DetectorConfig
from grcn.errors import CheckpointError
from grcn.model.backbones import ResNet, make_backbone
from grcn.model.backbones.pretrained import download_state_dict, read_state_dict
from grcn.model.backbones.timm import PUBLISHED
from grcn.model.detector import RCNN, build_detector
from grcn.predict.checkpoint import load_detector, save_detector
from grcn.presets import PRESETS

NAMES = ("RBC", "WBC", "Zellplättchen")
VGG = DetectorConfig(backbone="vgg16", head="fc2")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest keeps such folders of three runs; these files are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


# Detectors: there and back


@pytest.mark.parametrize(
    ("config", "pretrained"),
    [
        (small("paper_r18", cls_context="attention"), False),
        (small("paper_r18"), True),
        (small("faster_rcnn_r18_c4", norm="group"), False),
        (small(VGG, norm="none"), False),
    ],
    ids=["bn", "frozen_bn", "group", "none"],
)
def test_there_and_back(config: DetectorConfig, pretrained: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config, pretrained=pretrained)
    images = random_images((64, 96))
    enlivened(model, images)
    extra = {"metrics": {"AP50": 0.5}, "note": "ü"}
    save_detector(tmp_path / "d.safetensors", model, class_names=NAMES, preset="own", extra=extra)
    drawn = torch.get_rng_state()
    loaded = load_detector(tmp_path / "d.safetensors")
    assert torch.equal(torch.get_rng_state(), drawn), "no network is filled with random numbers first"
    assert (loaded.class_names, loaded.preset, loaded.extra) == (NAMES, "own", extra)
    assert loaded.model.config == model.config
    assert not loaded.model.training
    state = model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    likes = {name: (p.requires_grad, p.dtype, p.stride()) for name, p in model.named_parameters()}
    assert {name: (p.requires_grad, p.dtype, p.stride()) for name, p in loaded.model.named_parameters()} == likes
    buffers = dict(model.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in loaded.model.named_buffers())
    with torch.no_grad():
        found, expected = loaded.model(images)[0], model.eval()(images)[0]
    assert len(expected["scores"]) > 2
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A detector's file, which tests leave as it is."""
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    torch.manual_seed(0)
    save_detector(path, build(small("faster_rcnn_r18_c5")), class_names=NAMES, preset="faster_rcnn_r18_c5", extra={})
    yield path
    path.unlink()


def test_a_save_that_fails_leaves_the_earlier_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_detector(tmp_path / "file" / "d.safetensors", build(small("faster_rcnn_r18_c5")), **HEADER)
    assert (tmp_path / "file").read_text() == "in the way"


HEADER: dict[str, Any] = {"class_names": NAMES, "preset": "", "extra": {}}


# Detectors: broken, foreign, hostile


@pytest.mark.parametrize("kept", [0, 4, 8, 500, 0.5, 0.9999])
def test_a_truncated_detector(saved: Path, tmp_path: Path, kept: float) -> None:
    path, size = tmp_path / "cut.safetensors", saved.stat().st_size
    shutil.copy(saved, path)
    with open(path, "r+b") as file:
        file.truncate(int(kept) if kept >= 1 else int(kept * size))
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: cannot be read as safetensors"):
        load_detector(path)


def test_flipped_bits_of_the_header(saved: Path, tmp_path: Path) -> None:
    """Any outcome but a CheckpointError or a detector of the same size would be a bug."""
    path = tmp_path / "flipped.safetensors"
    shutil.copy(saved, path)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    with open(path, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        for place in [*range(8), *(torch.randint(8 + length, (60,), generator=generator)).tolist()]:
            file.seek(place)
            (byte,) = file.read(1)
            bit = 1 << int(torch.randint(8, (1,), generator=generator))
            file.seek(place)
            file.write(bytes([byte ^ bit]))
            file.flush()
            try:
                loaded = load_detector(path)
                assert len(loaded.class_names) == 3
            except CheckpointError as error:
                refused += 1
                message = str(error)
                assert "flipped.safetensors" in message
                assert "\n" not in message
            file.seek(place)
            file.write(bytes([byte]))
    assert refused > 40


Edit = Callable[[dict[str, Any], dict[str, Any]], None]  # (header of the file, header of the detector)


def edited(saved: Path, path: Path, edit: Edit) -> Path:
    """A copy of the detector's file with another header; lengths and offsets stay consistent."""
    with open(saved, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, tensors = json.loads(file.read(length)), file.read()
    own = json.loads(header["__metadata__"]["grcn"])
    edit(header, own)
    if "__metadata__" in header and "grcn" in header["__metadata__"]:
        header["__metadata__"].setdefault("raw", "")
        header["__metadata__"]["grcn"] = header["__metadata__"]["raw"] or json.dumps(own)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def raw(text: str) -> Edit:
    return lambda header, _: header["__metadata__"].update(raw=text)


def own(**values: Any) -> Edit:
    return lambda _, detector: detector.update(values)


def config(**values: Any) -> Edit:
    def edit(_: dict[str, Any], detector: dict[str, Any]) -> None:
        for key, value in values.items():
            section, _, name = key.rpartition("__")
            (detector["config"][section] if section else detector["config"])[name] = value

    return edit


def tensor(**values: Any) -> Edit:
    return lambda header, _: header["roi.scores.weight"].update(values)


def renamed(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["roi.scores.wait"] = header.pop("roi.scores.weight")


def far_beyond(header: dict[str, Any], _: dict[str, Any]) -> None:
    last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    start = header[last]["data_offsets"][0]
    header[last].update(shape=[10**6, 10**6], data_offsets=[start, start + 4 * 10**12])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda header, _: header.pop("__metadata__"), "not a grcn detector.*'grcn'"),
        (raw("{"), "not a grcn detector"),
        (raw("[" * 100_000), "not a grcn detector"),
        (raw('{"format": ' + "9" * 5000 + "}"), "not a grcn detector"),
        (raw("[1]"), "not a grcn detector"),
        (lambda _, detector: detector.pop("config"), "lacks 'config'"),
        (own(format="grcn-99"), r"safetensors: format 'grcn-99', this version reads 'grcn-1'"),
        (own(class_names="abc"), "class names"),
        (own(class_names=[1, 2, 3]), "class names"),
        (own(class_names=["a", "b"]), "4 tensors do not fit"),
        (own(class_names=[]), "class names"),
        (own(preset=["x"]), "preset or the class names"),
        (own(extra=[1, 2]), "'extra'"),
        (own(config=[1]), "expected keys and values"),
        (config(norm="auto"), "norm 'auto'"),
        (config(backbone="resnet19"), "its backbone 'resnet19' is your own network"),
        (
            config(backbone="os.path"),
            r"its backbone 'os\.path' is your own network; load it in Python with load_detector",
        ),
        (config(backbone="my\nown"), "backbone 'my"),
        (config(backbone="timm:hf_hub:someone/network"), r"not a name in timm\.list_models\(\)"),
        (config(backbone=7), "backbone: expected str"),
        (config(backbone="resnet34"), "tensors do not fit"),
        (config(bakcbone="resnet18"), "did you mean 'backbone'"),
        (config(roi__fc_channels=10**6), "tensors do not fit"),
        (config(roi__fc_channels=10**15), "needs 1 to"),
        (config(roi__size=10**9), "needs 1 to"),
        (config(rpn__channels=10**30), "needs 1 to"),
        (config(rpn__anchor_sizes=[1.0] * 10_000), "needs 1 to 100 values"),
        (tensor(shape=[4, 10**12]), "cannot be read as safetensors"),
        (far_beyond, "cannot be read as safetensors"),
        (tensor(dtype="I32"), "1 tensors do not fit its configuration: roi.scores.weight"),
        (renamed, "2 tensors do not fit its configuration: roi.scores.wait, roi.scores.weight"),
    ],
)
def test_foreign_and_hostile_headers(saved: Path, tmp_path: Path, edit: Edit, said: str) -> None:
    path = edited(saved, tmp_path / "edited.safetensors", edit)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=said) as caught:
            load_detector(path)
        assert tracemalloc.get_traced_memory()[1] < 2**28  # torch's own memory would fail far beyond any machine's
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_an_unedited_header_loads(saved: Path, tmp_path: Path) -> None:
    assert load_detector(edited(saved, tmp_path / "same.safetensors", lambda *_: None)).class_names == NAMES


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["d.pth", "d.pt", "d.safetensors"])
@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: {"conv1.weight": h}, lambda h: {h: torch.zeros(1)}])
def test_pickles_are_not_executed(tmp_path: Path, name: str, wrap: Callable[[Any], Any]) -> None:
    path, trace = tmp_path / name, tmp_path / "executed"
    content = wrap(Hostile(trace))
    writers: list[Callable[[], Any]] = [
        lambda: path.write_bytes(pickle.dumps(content)),
        lambda: torch.save(content, path),
        lambda: torch.save(content, path, _use_new_zipfile_serialization=False),
    ]
    for write in writers:
        write()
        with pytest.raises(CheckpointError, match="nothing in it was executed") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError):
            load_detector(path)
        with pytest.raises(CheckpointError):
            build_detector("faster_rcnn_r18_c5", 2, path)
        assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()  # so this test would have noticed


# Backbones


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """torchvision's ResNet-18 for classification, saved, and its state dict."""
    torch.manual_seed(3)
    state = torchvision.models.resnet18().state_dict()
    state = {k: v if v.dtype == torch.int64 else v + torch.rand(v.shape) * 0.1 for k, v in state.items()}
    path = tmp_path_factory.mktemp("backbone") / "resnet18.pth"
    torch.save(state, path)
    yield path, state
    path.unlink()


def stage_of(model: RCNN, chain: str, stage: str) -> dict[str, Tensor]:
    return getattr(getattr(model.separation, chain), stage).state_dict()


@pytest.mark.parametrize("norm", ["auto", "bn"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_both_branches_start_from_the_files_conv5(
    resnet: tuple[Path, dict[str, Tensor]], tmp_path: Path, suffix: str, norm: Any
) -> None:
    path, state = resnet
    if suffix == "safetensors":
        path = tmp_path / "resnet18.safetensors"
        safetensors.torch.save_file(state, path)
    model = build_detector(small("paper_r18", norm=norm), 3, path)
    assert model.config.frozen_stages == 2
    assert torch.equal(model.separation.trunk.conv1[0].weight, state["conv1.weight"])
    assert torch.equal(model.separation.trunk.conv4[1].bn2.running_var, state["layer3.1.bn2.running_var"])
    for chain in ("cls_branch", "loc_branch"):
        found = stage_of(model, chain, "conv5")
        assert len(found) >= 20
        for key, value in found.items():
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(value, state[f"layer4.{key}"]), key


def test_the_c4_head_starts_from_the_files_conv5(resnet: tuple[Path, dict[str, Tensor]]) -> None:
    model = build_detector(small("faster_rcnn_r18_c4"), 3, resnet[0])
    for key, value in model.roi.heads["shared"].conv5.state_dict().items():
        assert torch.equal(value, resnet[1][f"layer4.{key}"]), key


def test_a_backbones_answer_layer_is_not_needed(resnet: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    state = {k: v for k, v in resnet[1].items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "features.pt")
    model = build_detector(small("faster_rcnn_r18_c5"), 3, tmp_path / "features.pt")
    assert torch.equal(model.separation.trunk.conv1[0].weight, state["conv1.weight"])


def test_vgg16s_fc6_and_fc7_come_from_the_classifier(tmp_path: Path) -> None:
    network = torchvision.models.vgg16()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vgg16.safetensors")
    model = build_detector("faster_rcnn_vgg16", 3, tmp_path / "vgg16.safetensors")
    head = model.roi.heads["shared"]
    for layer, source in ((head.fc6, network.classifier[0]), (head.fc7, network.classifier[3])):
        assert torch.equal(layer.weight.flatten(1), source.weight)
        assert torch.equal(layer.bias, source.bias)
    assert torch.equal(model.separation.trunk.conv5[1].weight, network.features[24].weight)
    # A narrower head is its own, and the file may lack the classifier.
    features = {k: v for k, v in network.state_dict().items() if k.startswith("features.")}
    torch.save(features, tmp_path / "features.pth")
    with pytest.raises(CheckpointError, match=r"4 missing .*-classifier\.0\.weight"):
        build_detector("faster_rcnn_vgg16", 3, tmp_path / "features.pth")
    narrow = build_detector(small("paper_vgg16"), 3, tmp_path / "features.pth")
    convs = [m for m in narrow.separation.loc_branch.conv5 if isinstance(m, torch.nn.Conv2d)]
    assert torch.equal(convs[2].weight, network.features[28].weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "conv1.weight"}, r"1 missing \(-\), 0 .*-conv1.weight"),
        (lambda s: s | {"conv1.weight": s["conv1.weight"][:, :1]}, r"1 that do not fit \(\+\): \+conv1.weight"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, r"\+extra.weight"),
        (lambda s: s | {"conv1.weight": s["conv1.weight"].to(torch.complex64)}, r"\+conv1.weight"),
        (lambda s: s | {"conv1.weight": s["conv1.weight"].to("meta")}, r"\+conv1.weight"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "100 missing"),
        (lambda s: s | {1: torch.zeros(1)}, "no state dict"),
        (lambda s: s | {"epoch": 3}, "no state dict"),
        (lambda s: {"state_dict": s}, "no state dict"),
        (lambda s: list(s.values()), "no state dict"),
        (lambda s: {}, "not the weights of resnet18"),
    ],
)
def test_state_dicts_that_do_not_fit(
    resnet: tuple[Path, dict[str, Tensor]], tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    torch.save(change(resnet[1]), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=said) as caught:
        build_detector("faster_rcnn_r18_c5", 3, tmp_path / "w.pth")
    assert "w.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_backbones_file(resnet: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(CheckpointError, match="not the weights of resnet34 with norm 'frozen_bn'"):
        build_detector("grcn_r34", 3, resnet[0])
    with pytest.raises(CheckpointError, match="not the weights of resnet18 with norm 'group'"):
        build_detector(small("grcn_r18", norm="group"), 3, resnet[0])


@pytest.mark.parametrize("content", [b"", b"x", b"hello\n" * 99, b"PK\x03\x04" + b"\0" * 99, b"\x80\x02."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_state_dict(tmp_path / name)


def test_truncated_and_missing_state_dicts(resnet: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    shutil.copy(resnet[0], path)
    for kept in (0.99, 0.5, 0.01):
        with open(path, "r+b") as file:
            file.truncate(int(kept * resnet[0].stat().st_size))
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            read_state_dict(path)
    with pytest.raises(CheckpointError, match=r"none.pth: cannot be read: No such file"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(tmp_path)


# Downloads


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Tests are silent."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served at; torch's cache is a fresh folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def publish(folder: Path, state: dict[str, Tensor]) -> str:
    """Writes a state dict under a name that carries its hash, as torchvision's do."""
    torch.save(state, folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    return (folder / "w.pth").rename(folder / f"resnet18-{digest[:8]}.pth").name


def test_download(server: tuple[Path, str]) -> None:
    folder, address = server
    name = publish(folder, {"a": torch.arange(5.0)})
    assert torch.equal(download_state_dict(f"{address}/{name}")["a"], torch.arange(5.0))
    (folder / name).unlink()
    assert torch.equal(download_state_dict(f"{address}/{name}")["a"], torch.arange(5.0))  # from the cache


@pytest.mark.parametrize("weights", ["imagenet"])
def test_a_detector_starts_from_what_is_published(
    server: tuple[Path, str], resnet: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    folder, address = server
    name = publish(folder, resnet[1])
    monkeypatch.setattr(ResNet, "url", property(lambda _: f"{address}/{name}", lambda *_: None), raising=False)
    model = build_detector(small("grcn_r18"), 3, weights)
    assert torch.equal(model.separation.trunk.conv1[0].weight, resnet[1]["conv1.weight"])


def test_lite0_starts_from_what_timm_publishes(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the address that test_published_weights holds to; with the classifier, which is not taken."""
    folder, address = server
    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    state = {k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}
    assert {"classifier.weight", "conv_head.weight"} <= state.keys()
    name = publish(folder, state)
    monkeypatch.setitem(PUBLISHED, "tf_efficientnet_lite0", f"{address}/{name}")
    model = build_detector("grcn_lite0", 3, "imagenet")
    assert torch.equal(model.separation.trunk.conv1.conv_stem.weight, state["conv_stem.weight"])
    found = stage_of(model, "trunk", "conv5")
    assert torch.equal(found["blocks_5.0.conv_dw.weight"], state["blocks.5.0.conv_dw.weight"])
    assert model.config.norm == "frozen_bn"


def test_the_shared_file_fills_lite0(shared_weights: Path) -> None:
    file = shared_weights / "tf_efficientnet_lite0.safetensors"
    model = build_detector("grcn_lite0", 3, file)
    wanted = safetensors.torch.load_file(file)["blocks.6.0.bn3.running_var"]
    assert torch.equal(stage_of(model, "trunk", "conv5")["blocks_6.0.bn3.running_var"], wanted)


def test_a_wrong_hash_is_refused(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    name = publish(folder, {"a": torch.arange(5.0)})
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    for _ in range(2):  # nor kept in the cache
        with pytest.raises(CheckpointError, match=r"invalid hash value .*; download it elsewhere") as caught:
            download_state_dict(f"{address}/{name}")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_hostile_download_is_not_executed(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = server
    name = publish(folder, {"a": Hostile(tmp_path / "executed")})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="download it elsewhere"):
        download_state_dict(f"{address}/{name}")
    assert not (tmp_path / "executed").exists()


def test_what_is_not_there(server: tuple[Path, str]) -> None:
    with pytest.raises(CheckpointError, match=r"nothing-12345678\.pth: HTTP Error 404"):
        download_state_dict(f"{server[1]}/nothing-12345678.pth")
    with pytest.raises(CheckpointError, match="refused"):
        download_state_dict("http://127.0.0.1:9/resnet18-12345678.pth")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_published_weights_lie_at_one_address_that_ends_with_their_hash(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        url = make_backbone(config.backbone, config.norm, pretrained=True).url
    timms = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights"
    folder = timms if config.backbone.startswith("timm:") else "https://download.pytorch.org/models"
    assert url is not None
    assert re.fullmatch(rf"{folder}/{config.backbone.removeprefix('timm:')}-[0-9a-f]{{8}}\.pth", url)


def test_vgg16_with_batch_norm_has_weights_of_its_own() -> None:
    with torch.device("meta"):
        urls = [make_backbone("vgg16", norm).url or "" for norm in ("frozen_bn", "none")]
    assert "vgg16_bn-" in urls[0]
    assert "vgg16-" in urls[1]
