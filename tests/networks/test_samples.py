"""Samples on a device: standardized bytes, features as they are, moved images."""

import numpy as np
import pytest
import torch

from nclib.networks import Samples
from nclib.networks.samples import moved, random_moves


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 3, 6, 5)).astype(np.uint8)


LABELS = np.repeat(np.arange(3), 4)


def test_bytes_are_standardized_per_channel(images):
    x = Samples(images, LABELS, dtype=torch.float64).inputs(slice(None)).numpy()
    plain = images.astype(float)
    plain = (plain - plain.mean((0, 2, 3), keepdims=True)) / plain.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(x, plain, rtol=1e-12, atol=1e-14)
    batch = Samples(images, LABELS, dtype=torch.float64).inputs(torch.tensor([7, 2]))
    np.testing.assert_allclose(batch.numpy(), plain[[7, 2]], rtol=1e-12, atol=1e-14)
    assert Samples(images, LABELS).inputs(slice(2)).dtype == torch.float32


def test_features_stay_as_they_are():
    values = np.random.default_rng(1).standard_normal((5, 4))
    samples = Samples(values, np.array([1, 0, 2, 0, 1]), dtype=torch.float64)
    assert np.array_equal(samples.inputs(torch.tensor([3, 1])), values[[3, 1]])
    assert len(samples) == 5 and samples.K == 3
    assert [members.tolist() for members in samples.classes] == [[1, 3], [0, 4], [2]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 2, 2], "class 1 has no samples"),
        ([0, 1], "one per sample"),
        ([0, 1, 1, -1], "negative"),
    ],
)
def test_labels_must_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        Samples(np.zeros((4, 2)), np.array(labels))


def test_moved_images_are_those_shifted_by_hand(images):
    moves = torch.tensor([[0, 0, 0], [2, -3, 0], [-4, 4, 1], [0, 0, 1]])
    ours = moved(torch.as_tensor(images[:4]), moves).numpy()
    for image, (down, right, mirror), result in zip(images, moves.tolist(), ours, strict=False):
        plain = np.zeros_like(image)
        for r in range(6):
            for c in range(5):
                if 0 <= r - down < 6 and 0 <= c - right < 5:
                    plain[:, r, c] = image[:, r - down, c - right]
        assert np.array_equal(result, plain[:, :, ::-1] if mirror else plain)


def test_moves_reach_every_shift_and_repeat_under_a_seed():
    moves = random_moves(2000, torch.Generator().manual_seed(1))
    assert torch.equal(moves, random_moves(2000, torch.Generator().manual_seed(1)))
    assert [sorted(set(column.tolist())) for column in moves.T] == [list(range(-4, 5))] * 2 + [
        [0, 1]
    ]


def test_moves_enter_the_inputs(images):
    samples = Samples(images, LABELS)
    moves = torch.tensor([[1, 0, 0]])
    x, still = samples.inputs(torch.tensor([5]), moves), samples.inputs(torch.tensor([5]))
    assert torch.equal(x[..., 1:, :], still[..., :-1, :])
    assert torch.allclose(x[..., 0, :], (-samples.mean * samples.scale)[..., 0].expand(3, 5))


@pytest.mark.parametrize(("channel", "value"), [(0, 0), (1, 7), (2, 255)])
def test_a_constant_channel_is_refused_by_its_number(images, channel, value):
    images[:, channel] = value
    with pytest.raises(
        ValueError, match=rf"channel {channel} .* constant \(every value is {value}\)"
    ):
        Samples(images, LABELS)
