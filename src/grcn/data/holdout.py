"""Holds out a part of the training split for validation, for data sets without a validation split.

The choice depends only on the photos and labels, so every run and every evaluation gets the same part.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from grcn.data.image import read_thumbnail
from grcn.data.records import Dataset, ImageRecord
from grcn.errors import ImageError

HELD_OUT = "held-out"
"""The name of the split."""
SHARE, MOST = 0.2, 1000  # of the photos are held out: this share, but at most this many
FEWEST = 5  # with fewer photos in all, none is held out

_SIDE = 16  # of the perceptual hash
_BITS = _SIDE * _SIDE
_ALIKE = 24
"""Near-duplicates differ in at most this many bits.

A photo that is saved again, resized or made a little brighter differs in about 10 bits. The two most similar of 439
photographs of vehicles differ in 72 bits, those of 448 from two aquariums in 34."""
_MOST_HASHED = 10_000  # photos; comparing this many takes seconds
_SEED = 0


def hold_out(data: Dataset, workers: int = 2) -> tuple[Dataset, Dataset | None]:
    """Splits a data set into a part to train on and a part to validate on, a fifth or MOST photos.

    The parts are stratified by class, starting with the rarest class (Sechidis et al. 2011, "On the Stratification of
    Multi-Label Data"). The rarest class has a photo in the smaller part if it has three photos, and training keeps one
    photo of every class. Near-duplicates, such as neighbouring frames, stay together, since a detector that is
    validated on photos very similar to its training photos looks better than it is.

    Args:
        data: the training split.
        workers: threads that read photos.

    Returns:
        Both parts, in the order of `data`; None as the second if there are too few different photos.
    """
    order = sorted(range(len(data)), key=lambda i: data[i].path.relative_to(data.root).as_posix())
    records = [data[i] for i in order]
    groups = near_duplicates([record.path for record in records], workers)
    held = np.zeros(len(data), dtype=bool)
    held[order] = _choose(_counts(records, len(data.class_names), groups))[groups]
    if len(data) < FEWEST or not held.any():
        return data, None
    rest, out = (tuple(r for r, is_out in zip(data.records, held, strict=True) if is_out == which) for which in (0, 1))
    return replace(data, records=rest), replace(data, records=out, split=HELD_OUT, defects=())


def near_duplicates(paths: Sequence[object], workers: int = 2) -> NDArray[np.intp]:
    """[N] the number of each photo's group. Photos that differ little, directly or through others, form a group.

    Photos are compared by whether each cell of a 16x16 reduction is brighter than its left neighbour. A photo that
    cannot be read forms its own group, and so does every photo if there are more than 10,000.
    """
    if len(paths) > _MOST_HASHED:
        return np.arange(len(paths))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        hashes = list(pool.map(_hash, paths))
    parent = list(range(len(paths)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    readable = [i for i, signs in enumerate(hashes) if signs is not None]
    signs = np.array([hashes[i] for i in readable], dtype=np.float32).reshape(-1, _BITS)
    for row, i in enumerate(readable):
        same = signs[row + 1 :] @ signs[row]  # equal bits minus different bits
        for other in np.flatnonzero(same >= _BITS - 2 * _ALIKE):
            parent[root(readable[row + 1 + int(other)])] = root(i)
    return np.unique([root(i) for i in range(len(paths))], return_inverse=True)[1]


def _hash(path: object) -> NDArray[np.float32] | None:
    """The perceptual hash of a photo, [256] values 1 or -1; None if it cannot be read."""
    try:
        grey = read_thumbnail(path, _SIDE + 1, _SIDE).astype(np.int16)  # type: ignore[arg-type]
    except ImageError:
        return None
    return np.where(grey[:, 1:] > grey[:, :-1], 1, -1).astype(np.float32).ravel()


def _counts(records: Sequence[ImageRecord], classes: int, groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """[G, C + 1] for each group, the number of photos that show each class, and the number of its photos."""
    counts = np.zeros((int(groups.max(initial=-1)) + 1, classes + 1))
    for record, group in zip(records, groups, strict=True):
        counts[group, np.unique(record.target.labels)] += 1
        counts[group, classes] += 1
    return counts


def _choose(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[G] whether each group is held out. A group goes to the part that lacks most photos of its rarest class.

    A group without objects goes to the part that lacks most photos.
    """
    photos = counts[:, -1].sum()
    share = min(SHARE, MOST / max(photos, 1))
    wanted = np.outer((1 - share, share), counts.sum(axis=0))  # [2, C + 1]: for training, for the part held out
    held = np.zeros(len(counts), dtype=bool)
    left = np.random.default_rng(_SEED).permutation(len(counts))
    while len(left):
        remaining = (counts[left] > 0).sum(axis=0)
        rarest = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        has_it = counts[left, rarest] > 0
        for group in left[has_it]:
            # Ties go to training. If a class has two photos, for instance, both go there.
            is_last = counts.sum(axis=0) - counts[held].sum(axis=0) == counts[group]  # last of a class in training
            side = int(wanted[1, rarest] > wanted[0, rarest] and not (is_last & (counts[group] > 0)).any())
            held[group] = bool(side)
            wanted[side] -= counts[group]
        left = left[~has_it]
    return held
