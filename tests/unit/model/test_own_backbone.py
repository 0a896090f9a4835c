"""A reader's own network as backbone: it trains, is saved and read again, and nothing is imported for a file's sake."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from building import objects, random_images, small, total
from grcn import Detector
from grcn.config import DetectorConfig
from grcn.errors import CheckpointError, ConfigError
from grcn.export.graph import Graph
from grcn.model.backbones import Backbone
from grcn.model.detector import RCNN, build_detector
from grcn.predict.checkpoint import load_detector, save_detector

CONFIG = small(DetectorConfig(backbone="plain", separation="conv4", cls_stride=32, loc_stride=16))


class Plain(Backbone):
    """Five convolutions, each with a stride of two."""

    def __init__(self, name: str = "plain", norm: Literal["bn", "none"] = "bn") -> None:
        self.name, self.norm = name, norm
        self.channels, self.strides = (8, 8, 16, 16, 24), (2, 4, 8, 16, 32)
        self.mean, self.std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        torch.manual_seed(0)
        widths = (3, *self.channels)
        self.layers = [nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(5)]

    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        width = self.channels[number - 1]
        conv = nn.Conv2d((3, *self.channels)[number - 1], width, 3, after // before, padding=1)
        conv.load_state_dict(self.layers[number - 1].state_dict())
        return nn.Sequential(conv, nn.BatchNorm2d(width) if self.norm == "bn" else nn.Identity(), nn.ReLU())


@pytest.fixture
def model() -> RCNN:
    return build_detector(CONFIG, 3, None, backbone=Plain())


def saved(model: RCNN, folder: Path) -> Path:
    path = folder / "own.safetensors"
    save_detector(path, model, class_names=("a", "b", "c"), preset="", extra={})
    return path


def test_it_trains_and_is_read_again_with_its_object_alone(model: RCNN, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model.separation.cls_branch.conv5[0].weight.clone()
    images = random_images((64, 96))
    total(model.train()(images, [objects(3)])).backward()
    optimizer.step()
    assert not torch.equal(model.separation.cls_branch.conv5[0].weight, before)
    path = saved(model, tmp_path)
    loaded = load_detector(path, backbone=Plain())
    assert loaded.model.config.backbone == "plain"
    with torch.no_grad():
        found, expected = loaded.model(images)[0], model.eval()(images)[0]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with pytest.raises(
        CheckpointError, match=r"own\.safetensors: its backbone 'plain' is your own network; .* load_detector\("
    ):
        load_detector(path)
    for other, said in (
        (Plain("simple"), "backbone 'simple' with norm 'bn'"),
        (Plain(norm="none"), "with norm 'none'"),
    ):
        with pytest.raises(CheckpointError, match=f"{said}: the detector has 'plain' with norm 'bn'"):
            load_detector(path, backbone=other)


def test_its_name_and_norm_stand_in_the_configuration(model: RCNN) -> None:
    assert (model.config.backbone, model.config.norm, model.config.frozen_stages) == ("plain", "bn", 0)
    named = build_detector(replace(CONFIG, backbone="resnet18"), 3, None, backbone=Plain())
    assert named.config == model.config


def test_its_mean_and_deviation_reach_training_prediction_and_the_exported_graph(model: RCNN) -> None:
    seen: list[torch.Tensor] = []
    model.separation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    model = replace_input(model)
    model.train()([pixels], [objects(2)])
    with torch.no_grad():
        Detector(model, ("a", "b", "c")).predict(np.ascontiguousarray(pixels.permute(1, 2, 0)))
        Graph(model.eval())(pixels.permute(1, 2, 0)[None])
    expected = (pixels / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    assert len(seen) == 3
    for batch in seen:
        torch.testing.assert_close(batch, expected[None])


def replace_input(model: RCNN) -> RCNN:
    """The same detector, which sees photos of 64x96 pixels as they are."""
    model.config = replace(model.config, input=replace(model.config.input, short_side=64, long_side=96))
    return model


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        (CONFIG, "imagenet", "backbone 'plain' takes no file of weights; start with --weights random"),
        (CONFIG, "network.pth", "takes no file of weights"),
        (replace(CONFIG, head="vgg_fc", roi=replace(CONFIG.roi, size=7)), None, "it has no fc6 and fc7"),
        (replace(CONFIG, frozen_stages=2), None, "frozen_stages 2 with random weights"),
        (replace(CONFIG, loc_stride=8), None, "cls_stride 32 after a trunk of stride 8 .* at most 16"),
    ],
)
def test_what_cannot_be_built_on_it(config: DetectorConfig, weights: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_detector(config, 3, weights, backbone=Plain())


def test_its_fully_connected_layers_are_loaded_whatever_their_width(tmp_path: Path) -> None:
    """With the file of weights of its network, as VGG16's are."""

    class WithLayers(Plain):
        def __init__(self) -> None:
            super().__init__(norm="none")
            self.fc = (nn.Linear(24 * 49, 40), nn.Linear(40, 40))
            self.network = nn.ModuleDict({"layers": nn.ModuleList(self.layers), "fc": nn.ModuleList(self.fc)})
            self.behind = ("fc.",)

    state = {name: torch.randn_like(tensor) for name, tensor in WithLayers().network.state_dict().items()}
    torch.save(state, tmp_path / "network.pth")
    for width, loaded in ((40, True), (32, False)):
        config = replace(CONFIG, head="vgg_fc", roi=replace(CONFIG.roi, size=7, fc_channels=width))
        model = build_detector(config, 3, tmp_path / "network.pth", backbone=WithLayers())
        assert torch.equal(model.separation.trunk.conv1[0].weight, state["layers.0.weight"])
        fc7 = [weight for name, weight in model.named_parameters() if name.endswith("fc7.weight")]
        assert len(fc7) == 2
        assert all((weight.shape == (40, 40) and torch.equal(weight, state["fc.1.weight"])) == loaded for weight in fc7)


@pytest.mark.parametrize("name", ["evil", "timm:evil", "evil.network", "timm:hf_hub:some/evil"])
def test_nothing_is_imported_because_a_file_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('trace').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    model = build_detector(CONFIG, 3, None, backbone=Plain(name))
    with pytest.raises(
        CheckpointError, match=r"own\.safetensors: its (backbone '|configuration cannot be built: .*timm:).*evil"
    ):
        load_detector(saved(model, tmp_path))
    assert "evil" not in sys.modules
    assert not (tmp_path / "trace").exists()
    assert load_detector(tmp_path / "own.safetensors", backbone=Plain(name)).class_names == ("a", "b", "c")
