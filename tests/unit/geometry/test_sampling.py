"""Which boxes are drawn, and how many."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.geometry.sampling import sample


@given(
    st.lists(st.lists(st.sampled_from((-1, 0, 1, 3)), min_size=0, max_size=30), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    st.integers(0, 2**31),
)
@settings(deadline=None)
def test_counts_and_kinds(images: list[list[int]], count: int, fraction: float, seed: int) -> None:
    torch.manual_seed(seed)
    length = max(map(len, images))
    labels = torch.tensor([image + [-1] * (length - len(image)) for image in images], dtype=torch.int64)
    labels = labels.reshape(len(images), length)
    samples = sample(labels, count, fraction)
    for image in range(len(images)):
        drawn = samples.indices[image, samples.valid[image]]
        assert len(drawn.unique()) == len(drawn)
        positives, negatives = (labels[image] > 0).sum().item(), (labels[image] == 0).sum().item()
        most = min(int(count * fraction), positives)
        kinds = labels[image, drawn]
        assert (kinds > 0).sum() == most
        assert (kinds == 0).sum() == min(count - most, negatives)
        assert (kinds >= 0).all()
        assert torch.equal(samples.positive[image, samples.valid[image]], kinds > 0)
        assert not samples.positive[image, ~samples.valid[image]].any()
        # Packed: the same ones in their order, then in turn again.
        packed, size = samples.packed(count), min(count, samples.valid.shape[1])
        assert torch.equal(packed.indices[image, packed.valid[image]], drawn)
        if len(drawn):
            assert torch.equal(packed.indices[image], drawn[torch.arange(size) % len(drawn)])
        assert packed.valid[image].sum() == len(drawn) <= packed.valid.shape[1] == size
        assert packed.positive[image].sum() == most


def test_every_box_is_as_likely_as_every_other() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[1] * 10 + [0] * 20 + [-1] * 5]).expand(2000, -1)
    samples = sample(labels, 8, 0.5)
    drawn = torch.zeros(labels.shape).scatter_add(1, samples.indices, samples.valid.float()).mean(dim=0)
    assert (drawn[:10] - 4 / 10).abs().max() < 0.05
    assert (drawn[10:30] - 4 / 20).abs().max() < 0.05
    assert (drawn[30:] == 0).all()


def test_with_generators_an_images_samples_do_not_depend_on_the_others():
    labels = torch.randint(-1, 2, (3, 50))

    def draw(rows: list[int]) -> list[torch.Tensor]:
        samples = sample(labels[rows], 8, 0.5, [torch.Generator().manual_seed(row) for row in rows])
        return [index[real] for index, real in zip(samples.indices, samples.valid, strict=True)]

    together = draw([0, 1, 2])
    for row in range(3):
        assert torch.equal(draw([row])[0], together[row])
    assert torch.equal(draw([2, 0])[1], together[0])
