"""Configurations: what cannot exist is refused with the reason; plain values there and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grcn import config as config_module
from grcn.config import (
    FREE_TEXT,
    AugmentConfig,
    Bounds,
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
from grcn.presets import PRESETS, detector_of, preset, stage_strides, train_config
from grcn.study.run import Resources

FPN: dict[str, Any] = {"neck": "fpn", "head": "fc2"}


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
        (
            {"separation": "conv4", "rpn": RPNConfig(source="conv5")},
            "rpn.source 'conv5' after a trunk that ends at conv4: .* use 'cls', 'loc' or an earlier stage",
        ),
        ({"separation": "conv3", "rpn": RPNConfig(source="conv4")}, "rpn.source 'conv4' after a trunk .* conv3"),
        ({"head": "conv5", "rpn": RPNConfig(source="conv5")}, "rpn.source 'conv5' after a trunk .* conv4"),
        ({"separation": "neck"}, "separation 'neck' with neck 'none': there is no neck to separate; use neck 'fpn'"),
        ({"cls_cells": 7.0}, "cls_cells 7 with neck 'none': RoIs have one map .* use cls_stride, or neck 'fpn'"),
        ({"separation": "roi", "loc_cells": 28.0}, "loc_cells 28 with neck 'none': .* use loc_stride, or neck 'fpn'"),
        ({"neck": "fpn"}, "head 'light_fc2' with neck 'fpn': .* use head 'fc2'"),
        ({**FPN, "head": "conv5"}, "head 'conv5' with neck 'fpn'"),
        ({**FPN, "head": "vgg_fc"}, "head 'vgg_fc' with neck 'fpn'"),
        ({**FPN, "separation": "conv5"}, "separation 'conv5' with neck 'fpn': use separation 'none', 'roi', 'neck'"),
        ({**FPN, "separation": "conv3"}, "separation 'conv3' with neck 'fpn'"),
        ({**FPN, "cls_stride": 32}, "cls_stride 32 with neck 'fpn': .* leave it out, use cls_cells"),
        ({**FPN, "separation": "conv4", "loc_stride": 8}, "loc_stride 8 with neck 'fpn': .* use loc_cells"),
        ({**FPN, "loc_cells": 3.5}, "cls_cells 14 and loc_cells 3.5 with separation 'none': one head .* 'roi'"),
        ({**FPN, "cls_context": "attention"}, "cls_context 'attention' with neck 'fpn': it reads one map"),
        ({**FPN, "loc_context": "attention"}, "loc_context 'attention' with neck 'fpn': it reads one map"),
        ({**FPN, "roi": RoIConfig(pooling="pool")}, "roi.pooling 'pool' with neck 'fpn': use 'align'"),
        ({**FPN, "neck_stride": 8}, "rpn.anchor_sizes: 5 with neck 'fpn' and neck_stride 8: needs 4, one for each map"),
        ({**FPN, "rpn": RPNConfig(anchor_sizes=(8, 16))}, "rpn.anchor_sizes: 2 with .* neck_stride 4: needs 5"),
        (
            {**FPN, "rpn": RPNConfig(source="conv4")},
            "rpn.source 'conv4' with neck 'fpn' .*: not a pyramid; use 'loc'",
        ),
        ({**FPN, "separation": "neck"}, "rpn.source 'trunk' with neck 'fpn' and separation 'neck': .* use 'loc'"),
        ({**FPN, "separation": "conv4"}, "rpn.source 'trunk' with neck 'fpn' and separation 'conv4'"),
    ],
)
def test_what_cannot_exist_is_refused_with_the_reason(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        DetectorConfig(**fields)
    assert "\n" not in str(caught.value)
    model = {key: to_dict(value) if is_dataclass(value) else value for key, value in fields.items()}
    with pytest.raises(ConfigError, match=f"model.{said}" if said.startswith("cls_stride") else said):
        from_dict(TrainConfig, {"data": "x", "model": model})


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
        {**FPN, "cls_context": "global", "cls_cells": 7.0, "loc_cells": 7.0},
        {**FPN, "separation": "roi", "cls_cells": 3.5, "loc_cells": 28.0},
        {**FPN, "neck_stride": 8, "neck_channels": 96, "rpn": RPNConfig(anchor_sizes=(64, 128, 256, 512))},
        {**FPN, "head": "avgpool", "separation": "neck", "rpn": RPNConfig(source="loc"), "cls_cells": 3.5},
        {**FPN, "separation": "conv4", "rpn": RPNConfig(source="cls"), "loc_cells": 28.0},
        {"roi": RoIConfig(aligned=False, positive_fraction=1.0, score_threshold=0.0), "rpn": RPNConfig(min_size=0.0)},
    ],
)
def test_what_can_exist_is_not_refused(fields: dict[str, Any]) -> None:
    assert DetectorConfig(**fields).fc_channels in (1024, 4096)


def test_presets_are_those_of_the_paper_and_its_baselines() -> None:
    names = {f"faster_rcnn_r{n}_{p}" for n in (18, 34, 50, 101) for p in ("c4", "c5")}
    names |= {f"grcn_r{n}" for n in (18, 34, 50, 101)} | {"faster_rcnn_vgg16", "grcn_vgg16"}
    lite = {"faster_rcnn_lite0_c4", "faster_rcnn_lite0_c5", "grcn_lite0"}
    pyramids = {f"{kind}_{size}_fpn" for kind in ("faster_rcnn", "grcn") for size in ("lite0", "r18", "r50")}
    assert PRESETS.keys() == names | lite | pyramids | {"faster_rcnn_r50_fpn_v2"}
    strides = {
        name: (trunk_stride(c, stage_strides(c.backbone)), c.cls_stride, c.loc_stride) for name, c in PRESETS.items()
    }
    assert strides["faster_rcnn_r50_c4"] == strides["faster_rcnn_r50_c5"] == strides["faster_rcnn_vgg16"] == (16,) * 3
    assert {strides[f"grcn_{name}"] for name in ("r18", "r101", "vgg16", "lite0")} == {(16,) * 3}
    assert PRESETS["faster_rcnn_r34_c4"].roi_size == 14
    assert PRESETS["grcn_r34"].roi_size == 7
    assert {c.cls_context for c in PRESETS.values()} == {"none"}
    assert {n: c.separation for n, c in PRESETS.items()} == {
        n: "roi" if n.startswith("grcn") else "none" for n in PRESETS
    }
    baseline = {f"{n}_fpn": f"{n}_fpn" for n in ("lite0", "r18", "r50")} | {"vgg16": "vgg16", "lite0": "lite0_c5"}
    for name, shared in (baseline | {f"r{n}": f"r{n}_c5" for n in (18, 34, 50, 101)}).items():
        own, other = PRESETS[f"grcn_{name}"], PRESETS[f"faster_rcnn_{shared}"]
        assert replace(own, separation="none", rpn=other.rpn) == other


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
        (FPN, 4),
        ({**FPN, "separation": "conv4", "rpn": RPNConfig(source="loc")}, 4),
        ({**FPN, "neck_stride": 8, "rpn": RPNConfig(anchor_sizes=(64, 128, 256, 512))}, 8),
    ],
)
def test_the_stride_that_the_rpn_sees(fields: dict[str, Any], stride: int) -> None:
    assert rpn_stride(DetectorConfig(**fields), (2, 4, 8, 16, 32)) == stride


def test_a_pyramid_has_every_stage_at_its_own_stride() -> None:
    config = DetectorConfig(**FPN)
    strides = stage_strides(config.backbone)
    assert (config.level_strides, DetectorConfig().level_strides) == ((4, 8, 16, 32), ())
    assert trunk_stride(config, strides) == 32
    separated = replace(config, separation="conv4", rpn=RPNConfig(source="loc"))
    assert trunk_stride(separated, strides) == 16
    coarse = replace(config, neck_stride=8, rpn=RPNConfig(anchor_sizes=(64, 128, 256, 512)))
    assert coarse.level_strides == (8, 16, 32)


# There and back


def values_of(hint: Any, least: int = 0, most: int = 9) -> st.SearchStrategy[Any]:
    """Values that a field takes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = arguments[1] if isinstance(arguments[1], Bounds) else Bounds()
        return values_of(arguments[0], int(bounds.ge or 0), int(bounds.le or 9))
    if is_dataclass(hint):
        return instances(hint)  # type: ignore[arg-type]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), min_size=least, max_size=4).map(tuple)
        return st.tuples(*map(values_of, arguments))
    if type(None) in arguments:
        return st.none() | values_of(next(a for a in arguments if a is not type(None)))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(least, most),
        float: st.floats(0.01, 0.99),
        bool: st.booleans(),
        str: st.text(max_size=8),
    }
    return simple[hint]


@st.composite
def instances(draw: st.DrawFn, kind: type[Any]) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    chosen = draw(st.sets(st.sampled_from([f.name for f in fields(kind)]), max_size=3))
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    values = {name: draw(values_of(hints[name])) for name in sorted(chosen | needed)}
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
        ({"cls_stride": 16.0}, "cls_stride: 16.0 is not one of 8, 16, 32"),
        ({"cls_stride": "16"}, "cls_stride: '16' is not one of"),
        ({"dilation": 1}, "dilation: expected bool, found 1"),
        ({"dilation": "yes"}, "dilation: expected bool"),
        ({"frozen_stages": True}, "frozen_stages: expected int, found True"),
        ({"frozen_stages": 2.0}, "frozen_stages: expected int"),
        ({"rpn": None}, "rpn: expected keys and values, found None"),
        ({"rpn": [1]}, "rpn: expected keys and values"),
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


# Every field of every configuration

NUMBERS = (int, float)


def configurations() -> list[type[Any]]:
    found = [kind for kind in vars(config_module).values() if is_dataclass(kind) and kind is not Bounds]
    return [*found, Resources]  # type: ignore[list-item]


FIELDS = [
    pytest.param(kind, name, hint, id=f"{kind.__name__}.{name}")
    for kind in configurations()
    for name, hint in get_type_hints(kind, include_extras=True).items()
]


def says_what_it_takes(hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *marks = arguments
        if kind in NUMBERS or get_origin(kind) is tuple:
            bounded = any(isinstance(mark, Bounds) for mark in marks)
            return bounded and (kind in NUMBERS or says_what_it_takes(kind.__args__[0]))
        return kind is str and FREE_TEXT in marks
    if origin is tuple and arguments[-1] is Ellipsis:
        return get_origin(arguments[0]) is Literal
    if origin is tuple or type(None) in arguments:
        return all(says_what_it_takes(argument) for argument in arguments if argument is not type(None))
    return origin is Literal or hint is bool or is_dataclass(hint)


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS)
def test_every_field_has_bounds_or_choices_or_is_said_to_be_free_text(kind: type[Any], name: str, hint: Any) -> None:
    assert says_what_it_takes(hint)


def wrong(hint: Any, default: Any) -> Iterator[tuple[Any, str]]:
    """Values that a field does not take, each with what the error says that it does."""
    origin, arguments = get_origin(hint), get_args(hint)
    if type(None) in arguments:
        inner = next(argument for argument in arguments if argument is not type(None))
        yield from ((value, said) for value, said in wrong(inner, default) if value is not None)
    elif origin is Annotated:
        yield from wrong(arguments[0], default)
        for bounds in (mark for mark in arguments[1:] if isinstance(mark, Bounds)):
            if arguments[0] in NUMBERS:
                low = bounds.gt if bounds.gt is not None else bounds.ge - 1
                high = bounds.lt if bounds.lt is not None else bounds.le + 1 if bounds.le is not None else math.inf
                beyond = [low, high] if arguments[0] is int else [low, high, math.nan, math.inf, -math.inf]
                yield from ((value, str(bounds)) for value in beyond)
            else:
                counts = [int(bounds.le) + 1, *([0] if bounds.ge else [])]
                yield from (((0.5,) * count, f"needs {bounds} values") for count in counts)
    elif origin is tuple:
        yield from (((), f"expected {len(arguments)} values"),) if arguments[-1] is not Ellipsis else ()
        yield from ((value, "expected a list") for value in (None, 0.5, "csv"))
        places = range(1 if arguments[-1] is Ellipsis else len(arguments))
        for place in places:
            for value, said in wrong(arguments[place], default[place]):
                yield (*default[:place], value, *default[place + 1 :]), said
    elif origin is Literal:
        yield from ((value, str(arguments[0])) for value in ("nonsense", 17, None, True, 1.5, [arguments[0]]))
    elif is_dataclass(hint):
        yield from ((value, "expected keys and values") for value in (5, "text", [1], None))
    else:
        others = {int: (1.5, "1", True, None), float: ("fast", True, None, [1.0]), bool: (1, "yes", None)}
        said = f"expected {hint.__name__}"
        yield from ((value, said) for value in others.get(hint, (5, None, ["a"], b"a", Path("a"))))


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS)
def test_every_field_refuses_what_it_does_not_take(kind: type[Any], name: str, hint: Any) -> None:
    """Below, above, not a number, another type: from Python and from a file, in a line with field, value and range."""
    own = next(field for field in fields(kind) if field.name == name)
    default = own.default if own.default_factory is MISSING else own.default_factory()
    needed = {"data": "x"} if kind is TrainConfig else {}
    tried = list(wrong(hint, default))
    assert len(tried) >= 3
    for value, said in tried:
        for make in (lambda values: kind(**values), lambda values: from_dict(kind, values)):
            with pytest.raises(ConfigError) as caught:
                make({**needed, name: value})
            message = str(caught.value)
            assert message.startswith(name)
            assert said in message
            assert "\n" not in message
            if not isinstance(value, tuple):
                assert str(value) in message


def test_numbers_too_long_to_print_and_texts_of_many_lines_are_refused_in_one_line() -> None:
    for values in ({"seed": 10**5000}, {"seed": "1\n" * 500}, {"minutes": 10**5000}, {"fit": 10**5000}):
        with pytest.raises(ConfigError, match=next(iter(values))) as caught:
            TrainConfig(data="x", **values)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"augment": {"scale_jitter": [1.2, 0.8]}}, r"augment.scale_jitter \[1.2, 0.8\]: needs the lower factor first"),
        (
            {"schedule": {"milestones": [0.9, 0.5]}},
            r"schedule.milestones \[0.9, 0.5\]: needs fractions of the run in ascending order",
        ),
        (
            {"schedule": {"milestones": [0.5, 0.5]}},
            r"schedule.milestones \[0.5, 0.5\]: needs fractions of the run in ascending order",
        ),
        (
            {"model": {"input": {"short_side": 600, "long_side": 500}}},
            "model.input.long_side 500: needs short_side 600",
        ),
        ({"model": {"rpn": {"foreground_iou": 0.2}}}, "model.rpn.background_iou 0.3 above foreground_iou 0.2"),
        ({"model": {"rpn": {"anchor_sizes": [32.0, -1.0]}}}, r"model.rpn.anchor_sizes\[1\] -1.0: needs above 0"),
        # of which nothing, or not all, would be learned
        ({"optim": {"lr": 0.0}}, "optim.lr 0.0: needs above 0"),
        ({"model": {"rpn": {"positive_fraction": 0.0}}}, "model.rpn.positive_fraction 0.0: needs above 0"),
        ({"model": {"rpn": {"background_iou": 0.0}}}, "model.rpn.background_iou 0.0: needs above 0"),
        ({"model": {"roi": {"positive_fraction": 0.0}}}, "model.roi.positive_fraction 0.0: needs above 0"),
        ({"model": {"roi": {"foreground_iou": 0.0}}}, "model.roi.foreground_iou 0.0: needs above 0"),
    ],
)
def test_fields_that_are_nothing_or_do_not_go_together_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        from_dict(TrainConfig, {"data": "x", **values})


def test_whole_numbers_and_lists_are_taken_for_floats_and_tuples() -> None:
    config = TrainConfig(data="x", minutes=3, loggers=["csv"], augment=AugmentConfig(scale_jitter=[1, 2]))  # type: ignore[arg-type]
    assert config == from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))))
    assert repr((config.minutes, config.loggers, config.augment.scale_jitter)) == "(3.0, ('csv',), (1.0, 2.0))"


def test_no_model_is_the_presets_and_a_given_one_stays_what_it_is() -> None:
    assert TrainConfig(data="x").model is None
    assert detector_of(TrainConfig(data="x", preset="grcn_r18")) == PRESETS["grcn_r18"]
    assert detector_of(TrainConfig(data="x", preset="grcn_r18", model=DetectorConfig())) == DetectorConfig()
    values = {"data": "x", "preset": "grcn_r18"}
    for model in ({}, {"model": None}, {"model": {}}):
        assert train_config({**values, **model}) == TrainConfig(data="x", preset="grcn_r18")
    rpn = replace(PRESETS["grcn_r18"].rpn, nms=0.3)
    assert train_config({**values, "model": {"rpn": {"nms": 0.3}}}).model == replace(PRESETS["grcn_r18"], rpn=rpn)
    assert train_config({**values, "model": to_dict(DetectorConfig())}).model == DetectorConfig()
    with pytest.raises(ConfigError, match=r"model: expected keys and values, found 5"):
        train_config({**values, "model": 5})


def test_a_run_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig: .*'data'"):
        from_dict(TrainConfig, {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"iterations": 5, "epochs": 1.0}, "iterations and epochs: give only one of them"),
        ({"minutes": 5.0, "epochs": 1.0}, "epochs and minutes: give only one of them"),
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
