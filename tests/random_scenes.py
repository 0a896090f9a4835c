"""Random objects and detections for the tests of evaluation: near hits, wrong classes, duplicates, ties, crowds."""

import numpy as np
from hypothesis import strategies as st

from grcn.types import Detections, Target

CLASSES = 4
NAMES = ("a", "b", "c", "d")


def random_scene(seed, images=12, per_image=30, whole_pixels=True):
    """Crowded images with few distinct scores (ties), duplicates, difficult and crowd objects, and empty images.

    Whole pixels give IoUs that are equal to each other and to the thresholds (6 / 10); class 3 has no objects.
    """
    rng = np.random.default_rng(seed)
    targets, detections = [], []
    for _ in range(images):
        n = int(rng.integers(0, 8))
        corner, size = (
            rng.uniform(0, 100, (n, 2)),
            rng.choice([10, 20, 40, 120], (n, 2)) * rng.uniform(0.8, 1.2, (n, 1)),
        )
        boxes = np.concatenate([corner, corner + size], axis=1)
        labels = rng.integers(0, CLASSES - 1, n)
        near = rng.integers(0, max(n, 1), per_image if n and rng.random() < 0.9 else 0)
        found = boxes[near] + rng.choice([0, 0, 1, 2, 5], (len(near), 4)) * rng.choice([-1, 1], (len(near), 4))
        stray = rng.uniform(0, 100, (3, 2))
        found = np.concatenate([found, np.concatenate([stray, stray + 15], axis=1)])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        classes = np.append(np.where(rng.random(len(near)) < 0.9, labels[near], 3), rng.integers(0, CLASSES, 3))
        if whole_pixels:
            boxes, found = boxes.round(), found.round()
        targets.append(
            Target(
                boxes,
                labels,
                difficult=rng.random(n) < 0.2,
                crowd=rng.random(n) < 0.2,
                areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.choice([0.3, 1], n),
            )
        )
        detections.append(Detections(found, rng.choice(10, len(found)) / 10, classes, NAMES))
    return targets, detections


@st.composite
def small_scenes(draw):
    """Scenes of one to three images that hypothesis can shrink."""
    side = st.integers(1, 6)
    box = st.tuples(st.integers(0, 6), st.integers(0, 6), side, side).map(lambda b: (*b[:2], b[0] + b[2], b[1] + b[3]))
    label = st.integers(0, CLASSES - 1)
    targets, detections = [], []
    for _ in range(draw(st.integers(1, 3))):
        objects = draw(st.lists(st.tuples(box, label, st.booleans(), st.booleans()), max_size=5))
        found = draw(st.lists(st.tuples(box, label, st.sampled_from([0.25, 0.5, 0.75])), max_size=8))
        targets.append(Target(*map(list, zip(*objects, strict=True))) if objects else Target([], []))
        boxes, classes, scores = zip(*found, strict=True) if found else ([], [], [])
        detections.append(Detections(boxes, scores, classes, NAMES))
    return targets, detections


def with_distinct_scores(detections, seed):
    """The same detections, no two scores alike."""
    scores = np.random.default_rng(seed).permutation(sum(map(len, detections))) / 1e4
    parts = np.split(scores, np.cumsum([len(d) for d in detections])[:-1])
    return [Detections(d.boxes, s, d.class_ids, d.class_names) for d, s in zip(detections, parts, strict=True)]
