"""The embedded set: the same bytes twice, exact boxes, the promised sizes, and a folder that is whole or absent."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from grcn.errors import ConfigError, DataError
from grcn.scenes import render as scenes
from grcn.scenes.generate import generate

SMALL = {"size": (160, 120), "object_size": (16.0, 70.0)}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def boxes_of(folder: Path) -> list[tuple[str, tuple[int, int, int, int], bool, bool]]:
    """Name, half-open box, truncated, occluded of every object, from the XML."""
    found = []
    for path in sorted((folder / "Annotations").iterdir()):
        for item in ElementTree.parse(path).iter("object"):
            corners = [int(item.findtext(f"bndbox/{tag}", "")) for tag in ("xmin", "ymin", "xmax", "ymax")]
            box = (corners[0] - 1, corners[1] - 1, corners[2], corners[3])
            found.append((item.findtext("name", ""), box, item.findtext("truncated") == "1", item.findtext("occluded")))
    return found


def test_same_seed_same_bytes_and_other_seed_other_pictures(tmp_path: Path) -> None:
    first = digest(generate(tmp_path / "a", images=5, seed=3, **SMALL))
    assert first == digest(generate(tmp_path / "b", images=5, seed=3, **SMALL))
    other = digest(generate(tmp_path / "c", images=5, seed=4, **SMALL))
    assert not {first[name] for name in first if name.endswith("jpg")} & set(other.values())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, more = digest(generate(tmp_path / "a", images=4, **SMALL)), digest(generate(tmp_path / "b", images=6, **SMALL))
    shared = [name for name in few if name.startswith(("JPEGImages", "Annotations"))]
    assert len(shared) == 8
    assert all(few[name] == more[name] for name in shared)


def test_folder_splits_and_pictures(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    out = generate(tmp_path / "set", images=20, progress=lambda i, n: done.append((i, n)), **SMALL)
    splits = {s: (out / "ImageSets" / "Main" / f"{s}.txt").read_text().split() for s in ("train", "val", "test")}
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 12, "val": 3, "test": 5}
    ids = [i for names in splits.values() for i in names]
    assert sorted(ids) == [f"{i:06d}" for i in range(20)]
    for i in ids:
        assert (out / "Annotations" / f"{i}.xml").is_file()
        with Image.open(out / "JPEGImages" / f"{i}.jpg") as picture:
            assert (picture.size, picture.mode) == ((160, 120), "RGB")
            assert np.asarray(picture).std() > 10
    assert done == [(i + 1, 20) for i in range(20)]
    assert os.listdir(tmp_path) == ["set"]


def test_two_that_render_the_same_set_at_once(tmp_path: Path) -> None:
    """As two `grcn study run` of one folder do."""

    def another(done: int, of: int) -> None:
        if done == of:
            assert generate(tmp_path / "set", images=4, **SMALL) == tmp_path / "set"

    assert generate(tmp_path / "set", images=4, progress=another, **SMALL) == tmp_path / "set"
    assert os.listdir(tmp_path) == ["set"]
    assert digest(tmp_path / "set") == digest(generate(tmp_path / "alone", images=4, **SMALL))


def test_what_comes_into_being_meanwhile_is_kept(tmp_path: Path) -> None:
    def other(done: int, of: int) -> None:
        if done == of:
            generate(tmp_path / "set", images=5, **SMALL)

    with pytest.raises(DataError, match="set: cannot be created: Directory not empty; choose another folder"):
        generate(tmp_path / "set", images=4, progress=other, **SMALL)
    assert len(digest(tmp_path / "set")) == len(digest(generate(tmp_path / "alone", images=5, **SMALL)))
    assert sorted(os.listdir(tmp_path)) == ["alone", "set"]


def test_every_class_and_the_promised_sizes(tmp_path: Path) -> None:
    found = boxes_of(generate(tmp_path / "set", images=60, size=(320, 240), object_size=(12.0, 120.0)))
    names = [name for name, *_ in found]
    assert set(names) == set(scenes.CLASS_NAMES)
    assert min(names.count(name) for name in scenes.CLASS_NAMES) >= 10
    sides = [max(x2 - x1, y2 - y1) for _, (x1, y1, x2, y2), _, _ in found]
    assert max(sides) <= 120 * 1.1
    untouched = [s for s, (_, _, cut, occluded) in zip(sides, found, strict=True) if not cut and occluded == "0"]
    assert min(untouched) >= 12 * 0.9
    assert min(untouched) < 24  # both ends of the range occur
    assert max(untouched) > 90
    for _, (x1, y1, x2, y2), truncated, _ in found:
        assert 0 <= x1 < x2 <= 320
        assert 0 <= y1 < y2 <= 240
        if truncated:
            assert x1 == 0 or y1 == 0 or x2 == 320 or y2 == 240
    assert any(truncated for *_, truncated, _ in found)
    assert any(occluded == "1" for *_, occluded in found)


@pytest.mark.parametrize("name", scenes.CLASS_NAMES)
def test_an_object_alone_has_the_box_of_its_pixels(name: str) -> None:
    """The picture changes inside the box, up to each of its four sides; outside only shadow and foam do."""
    rng = np.random.default_rng(5)
    wet = np.full((140, 140), -1.0 if name in ("parasol", "towel") else 1.0, dtype=np.float32)
    for _ in range(30):
        canvas = np.full((140, 140, 3), 0.5, dtype=np.float32)
        scene = scenes._Scene(canvas, wet, sun=0.3)
        if scene.place(name, scenes._Sprite.draw(rng, name, 60.0), rng) and not scene.cut[0]:
            break
    item = scene.found()[0]
    x1, y1, x2, y2 = item.box
    assert max(x2 - x1, y2 - y1) == pytest.approx(60, abs=2.5)
    assert item.visible == 1.0
    mask = scene.owner == 0
    assert mask[y1:y2, x1:x2].any(axis=1).all()
    assert mask[y1:y2, x1:x2].any(axis=0).all()
    assert mask.sum() == mask[y1:y2, x1:x2].sum() == scene.seen[0]
    # The painted colours are those of the object exactly where the mask says so.
    saturation = np.ptp(canvas, axis=2)
    assert (saturation[mask] > 0.05).mean() > 0.3
    assert (saturation[~mask] > 0.25).mean() < 0.02


def test_what_is_covered_shrinks_the_box_and_too_much_is_refused() -> None:
    rng = np.random.default_rng(0)
    scene = scenes._Scene(np.full((100, 100, 3), 0.5, np.float32), np.full((100, 100), -1.0, np.float32), sun=0.0)
    while not scene.place("towel", scenes._Sprite.draw(rng, "towel", 50.0), rng):
        pass
    x1, _, x2, _ = before = scene.found()[0].box
    everything = (slice(0, 100), slice(0, 100))
    scene.occlude(everything, np.ones((100, 100), np.float32), np.zeros((100, 100, 3), np.float32))
    assert scene.found()[0].box == before  # refused
    assert scene.canvas.mean() > 0.3
    strip = np.zeros((100, 100), np.float32)
    strip[:, x1 : x1 + 4] = 1
    scene.occlude(everything, strip, np.zeros((100, 100, 3), np.float32))
    after = scene.found()[0]
    assert after.box[0] == x1 + 4
    assert after.box[2] == x2
    assert scenes.MIN_VISIBLE <= after.visible < 1


def test_the_siblings_differ_only_by_their_ground() -> None:
    for one, other in (("parasol", "buoy"), ("towel", "raft")):
        sprites = [scenes._Sprite.draw(np.random.default_rng(1), name, 40.0) for name in (one, other)]
        axis = np.linspace(-1, 1, 50, dtype=np.float32)
        u, v = np.meshgrid(axis, axis)
        distances = [sprite.distance(u, v) for sprite in sprites]
        colors = [s.color(u, v, d, 0.0) for s, d in zip(sprites, distances, strict=True)]
        assert np.array_equal(*distances)
        assert np.array_equal(*colors)


def test_a_second_call_leaves_the_set_as_it_is(tmp_path: Path) -> None:
    out = generate(tmp_path / "set", images=4, **SMALL)
    before = [path.stat().st_mtime_ns for path in sorted(out.rglob("*.jpg"))]
    assert generate(out, images=4, **SMALL) == out
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*.jpg"))] == before
    with pytest.raises(DataError, match="exists and is not this set"):
        generate(out, images=5, **SMALL)
    assert len(list((out / "JPEGImages").iterdir())) == 4


def test_refuses_a_folder_or_file_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for name in ("mine", "file"):
        with pytest.raises(DataError, match=name):
            generate(tmp_path / name, images=4, **SMALL)
    assert (tmp_path / "mine" / "holiday.txt").read_text() == "keep me"
    (tmp_path / "empty").mkdir()
    assert len(list(generate(tmp_path / "empty", images=4, **SMALL).rglob("*.jpg"))) == 4


def test_an_interrupted_run_leaves_no_half_set(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", images=4, progress=stop, **SMALL)
    assert not (tmp_path / "set").exists()
    whole = digest(generate(tmp_path / "set", images=4, **SMALL))
    assert whole == digest(generate(tmp_path / "again", images=4, **SMALL))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 3}, "images 3"),
        ({"size": (640, 40)}, "size 640x40"),
        ({"size": (160, 120), "object_size": (20, 110)}, "80% of the shorter side"),
        ({"object_size": (50, 20)}, "least <= greatest"),
        ({"object_size": (2, 20)}, "8 <= least"),
        ({"object_size": (math.nan, 20)}, "8 <= least"),
        ({"objects": (0, 4)}, "objects"),
    ],
)
def test_arguments_that_cannot_be_carried_out(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(tmp_path / "set", **{"images": 4, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_default_sizes_follow_the_picture(tmp_path: Path) -> None:
    found = boxes_of(generate(tmp_path / "set", images=12, size=(320, 240)))
    assert found
    assert max(max(x2 - x1, y2 - y1) for _, (x1, y1, x2, y2), *_ in found) <= 110
