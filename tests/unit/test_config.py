"""Configurations: what cannot exist is refused with the reason; plain values there and back."""

from __future__ import annotations

import json
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grcn.config import (
    AugmentConfig,
    DetectorConfig,
    InputConfig,
    OptimConfig,
    RoIConfig,
    RPNConfig,
    ScheduleConfig,
    TrainConfig,
    from_dict,
    rpn_stride,
    to_dict,
    trunk_stride,
)
from grcn.errors import ConfigError
from grcn.presets import PRESETS, preset, stage_strides


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cls_stride": 32}, "cls_stride 32 and loc_stride 16 with separation 'none': both tasks share one map"),
        ({"separation": "roi", "loc_stride": 8}, "both tasks share one map"),
        ({"separation": "conv5", "loc_stride": 8}, "both tasks share one map"),
        ({"head": "conv5", "separation": "conv4"}, "conv5 runs per RoI there"),
        ({"head": "conv5", "separation": "conv5"}, "conv5 runs per RoI there"),
        ({"head": "conv5", "cls_stride": 32, "loc_stride": 32}, "conv4, whose stride is 16 or 8"),
        ({"backbone": "vgg16", "head": "vgg_fc", "roi": RoIConfig(size=14)}, "fc6 takes 7x7 cells"),
        ({"separation": "conv5", "head": "fc2"}, "no layer to separate; use separation 'roi'"),
        ({"separation": "conv5", "head": "avgpool"}, "no layer to separate"),
        ({"frozen_stages": 6}, "frozen_stages 6: use 0"),
        ({"frozen_stages": -1}, "frozen_stages -1"),
        (
            {"separation": "conv4", "rpn": RPNConfig(source="conv5")},
            "rpn.source 'conv5' after a trunk that ends at conv4: .* use 'cls', 'loc' or an earlier stage",
        ),
        ({"separation": "conv3", "rpn": RPNConfig(source="conv4")}, "rpn.source 'conv4' after a trunk .* conv3"),
        ({"head": "conv5", "rpn": RPNConfig(source="conv5")}, "rpn.source 'conv5' after a trunk .* conv4"),
        ({"rpn": RPNConfig(source="conv2")}, "rpn.source: 'conv2' is none of trunk, cls, loc, conv3"),
        ({"roi": RoIConfig(pooling="max")}, "roi.pooling: 'max' is none of align, pool"),
        ({"input": InputConfig(16, 100)}, "input 16..100"),
        ({"input": InputConfig(600, 500)}, "input 600..500"),
        ({"rpn": RPNConfig(anchor_sizes=())}, r"rpn.anchor_sizes \[\]: needs positive"),
        ({"rpn": RPNConfig(anchor_sizes=(32.0, -1.0))}, "rpn.anchor_sizes"),
        ({"rpn": RPNConfig(anchor_ratios=(float("nan"),))}, "rpn.anchor_ratios"),
        ({"rpn": RPNConfig(anchor_ratios=(float("inf"),))}, "rpn.anchor_ratios"),
        ({"rpn": RPNConfig(channels=0)}, "rpn.channels 0: needs at least 1"),
        ({"rpn": RPNConfig(batch_per_image=0)}, "rpn.batch_per_image 0"),
        ({"rpn": RPNConfig(nms=1.5)}, "rpn.nms 1.5: needs 0 to 1"),
        ({"rpn": RPNConfig(min_size=float("nan"))}, "rpn.min_size nan"),
        ({"rpn": RPNConfig(foreground_iou=0.2)}, "rpn.background_iou 0.3 above rpn.foreground_iou 0.2"),
        ({"roi": RoIConfig(size=-3)}, "roi.size -3"),
        ({"roi": RoIConfig(sampling_ratio=-1)}, "roi.sampling_ratio -1: needs at least 0"),
        ({"roi": RoIConfig(positive_fraction=float("nan"))}, "roi.positive_fraction nan"),
        ({"roi": RoIConfig(box_weights=(10.0, 10.0, 0.0, 5.0))}, "roi.box_weights"),
        ({"cls_stride": 4, "loc_stride": 4}, "cls_stride: 4 is none of 8, 16, 32"),
        ({"separation": "conv2"}, "separation: 'conv2' is none of none, roi"),
    ],
)
def test_what_cannot_exist_is_refused_with_the_reason(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        DetectorConfig(**fields)
    assert "\n" not in str(caught.value)
    plain = {key: to_dict(value) if is_dataclass(value) else value for key, value in fields.items()}
    with pytest.raises(ConfigError, match=said):
        from_dict(DetectorConfig, plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"separation": "conv3", "cls_stride": 32, "loc_stride": 8},
        {"separation": "conv4", "cls_stride": 16, "loc_stride": 8},
        {"backbone": "vgg16", "separation": "conv4", "cls_stride": 32, "loc_stride": 8, "head": "vgg_fc"},
        {"backbone": "vgg16", "cls_stride": 32, "loc_stride": 32, "head": "fc2"},
        {"backbone": "vgg16", "norm": "none", "frozen_stages": 5, "head": "avgpool"},
        {"head": "conv5", "separation": "roi", "cls_stride": 8, "loc_stride": 8, "cls_context": "attention"},
        {"separation": "conv5", "cls_stride": 8, "loc_stride": 8},
        {"rpn": RPNConfig(source="conv5")},
        {"separation": "conv4", "rpn": RPNConfig(source="conv3")},
        {"backbone": "a network of one's own"},
        {"roi": RoIConfig(aligned=False, positive_fraction=0.0, score_threshold=0.0), "rpn": RPNConfig(min_size=0.0)},
    ],
)
def test_what_can_exist_is_not_refused(fields: dict[str, Any]) -> None:
    assert DetectorConfig(**fields).fc_channels in (1024, 4096)


def test_presets_are_those_of_the_paper_and_its_baselines() -> None:
    names = {f"faster_rcnn_r{n}_{p}" for n in (18, 34, 50, 101) for p in ("c4", "c5")}
    names |= {f"grcn_r{n}" for n in (18, 34, 50, 101)} | {"faster_rcnn_vgg16", "grcn_vgg16"}
    assert PRESETS.keys() == names | {"faster_rcnn_lite0_c4", "faster_rcnn_lite0_c5", "grcn_lite0"}
    strides = {
        name: (trunk_stride(c, stage_strides(c.backbone)), c.cls_stride, c.loc_stride) for name, c in PRESETS.items()
    }
    assert strides["faster_rcnn_r50_c4"] == strides["faster_rcnn_r50_c5"] == strides["faster_rcnn_vgg16"] == (16,) * 3
    assert strides["grcn_r101"] == (16, 32, 16)
    assert strides["grcn_vgg16"] == (8, 16, 8)
    assert strides["grcn_lite0"] == strides["faster_rcnn_lite0_c5"] == (16,) * 3
    assert PRESETS["faster_rcnn_r34_c4"].roi_size == 14
    assert PRESETS["grcn_r34"].roi_size == 7
    assert {n for n, c in PRESETS.items() if c.cls_context == "global"} == {n for n in names if n.startswith("grcn")}
    assert {c.separation for n, c in PRESETS.items() if n.startswith("grcn")} == {"conv4"}


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'grcn_r500'; did you mean 'grcn_r50'"):
        preset("grcn_r500")
    with pytest.raises(ConfigError, match="`grcn models` lists them"):
        preset("yolo")


@pytest.mark.parametrize(
    ("fields", "stride"),
    [
        ({}, 16),
        ({"cls_stride": 32, "loc_stride": 32}, 32),
        ({"rpn": RPNConfig(source="conv5")}, 16),
        ({"rpn": RPNConfig(source="conv4")}, 16),
        ({"rpn": RPNConfig(source="conv3")}, 8),
        ({"rpn": RPNConfig(source="conv4"), "cls_stride": 8, "loc_stride": 8}, 8),
        ({"separation": "conv4", "cls_stride": 32, "rpn": RPNConfig(source="cls")}, 32),
        ({"separation": "conv4", "loc_stride": 8, "rpn": RPNConfig(source="loc")}, 8),
        ({"separation": "conv4", "loc_stride": 8}, 8),
        ({"separation": "conv4", "cls_stride": 32, "loc_stride": 32, "rpn": RPNConfig(source="conv3")}, 8),
    ],
)
def test_the_stride_that_the_rpn_sees(fields: dict[str, Any], stride: int) -> None:
    assert rpn_stride(DetectorConfig(**fields), (2, 4, 8, 16, 32)) == stride


# There and back


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, sensible for most fields of that type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return instances(hint)  # type: ignore[arg-type]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), min_size=1, max_size=4).map(tuple)
        return st.tuples(*map(values_of, arguments))
    if type(None) in arguments:
        return st.none() | values_of(next(a for a in arguments if a is not type(None)))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(0, 9),
        float: st.floats(0.01, 0.99),
        bool: st.booleans(),
        str: st.text(max_size=8),
    }
    return simple[hint]


@st.composite
def instances(draw: st.DrawFn, kind: type[Any]) -> Any:
    hints = get_type_hints(kind)
    chosen = draw(st.sets(st.sampled_from([f.name for f in fields(kind)]), max_size=3))
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    values = {name: draw(values_of(hints[name])) for name in sorted(chosen | needed)}
    if kind not in (DetectorConfig, TrainConfig):  # alone, the small ones refuse nothing
        return kind(**values)
    try:
        return kind(**values)
    except ConfigError:
        assume(False)


KINDS = (DetectorConfig, TrainConfig, RPNConfig, RoIConfig, InputConfig, AugmentConfig, OptimConfig, ScheduleConfig)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_there_and_back(kind: type[Any], data: st.DataObject) -> None:
    config = data.draw(instances(kind))
    plain = to_dict(config)
    assert from_dict(kind, plain) == config
    assert from_dict(kind, json.loads(json.dumps(plain))) == config
    assert from_dict(kind, yaml.safe_load(yaml.safe_dump(plain))) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_there_and_back(name: str) -> None:
    assert from_dict(DetectorConfig, yaml.safe_load(yaml.safe_dump(to_dict(PRESETS[name])))) == PRESETS[name]


def test_absent_keys_take_their_defaults() -> None:
    assert from_dict(DetectorConfig, {}) == DetectorConfig()
    assert from_dict(DetectorConfig, {"rpn": {"nms": 0.5}}) == DetectorConfig(rpn=RPNConfig(nms=0.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bakbone": "vgg16"}, "unknown key 'bakbone'; did you mean 'backbone'?"),
        ({"rpn": {"anchor_size": [1]}}, r"unknown key 'rpn.anchor_size'; did you mean 'rpn.anchor_sizes'\?"),
        ({"qqqqqq": 1}, "unknown key 'qqqqqq'$"),
        ({5: 1}, "unknown key '5'"),
        ({"rpn": {"\n": 1}}, r"unknown key 'rpn\.\\n'"),
        ({"backbone": ["resnet18"]}, "backbone: expected str"),
        ({"cls_stride": 16.0}, "cls_stride: 16.0 is none of 8, 16, 32"),
        ({"cls_stride": "16"}, "cls_stride: '16' is none of"),
        ({"dilation": 1}, "dilation: expected bool, found 1"),
        ({"dilation": "yes"}, "dilation: expected bool"),
        ({"frozen_stages": True}, "frozen_stages: expected int, found True"),
        ({"frozen_stages": 2.0}, "frozen_stages: expected int"),
        ({"rpn": None}, "rpn.: expected keys and values, found None"),
        ({"rpn": [1]}, "rpn.: expected keys and values"),
        ({"rpn": {"anchor_sizes": 32}}, "rpn.anchor_sizes: expected a list, found 32"),
        ({"rpn": {"anchor_sizes": ["a"]}}, r"rpn.anchor_sizes\[0\]: expected float, found 'a'"),
        ({"rpn": {"nms": True}}, "rpn.nms: expected float, found True"),
        ({"rpn": {"nms": None}}, "rpn.nms: expected float, found None"),
        ({"rpn": {"nms": 10**400}}, "rpn.nms: the number is too large"),
        ({"roi": {"box_weights": [1, 2, 3]}}, "roi.box_weights: expected 4 values, found 3"),
        ("text", "DetectorConfig: expected keys and values, found 'text'"),
        (None, "DetectorConfig: expected keys and values"),
    ],
)
def test_wrong_values_are_named(values: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        from_dict(DetectorConfig, values)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(data: st.DataObject) -> None:
    plain = to_dict(DetectorConfig())
    place, key = plain, data.draw(st.sampled_from(sorted(plain)))
    if isinstance(plain[key], dict) and data.draw(st.booleans()):
        place = plain[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON)
    refusal = ""
    try:
        config = from_dict(DetectorConfig, plain)
    except ConfigError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if not refusal:
        assert from_dict(DetectorConfig, to_dict(config)) == config


def test_a_run_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig: .*'data'"):
        from_dict(TrainConfig, {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"iterations": 5, "epochs": 1.0}, "iterations and epochs: give one positive length"),
        ({"minutes": -1.0}, "minutes: give one positive length"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"optim": OptimConfig(accumulate=0)}, "accumulate"),
    ],
)
def test_runs_that_cannot_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainConfig(data="somewhere", **fields)


def test_configurations_do_not_change() -> None:
    config = DetectorConfig()
    with pytest.raises(FrozenInstanceError):
        config.backbone = "vgg16"  # type: ignore[misc]
    assert replace(config, dilation=False) != config
    assert hash(config) == hash(DetectorConfig())
