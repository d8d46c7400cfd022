"""traversal.py on a generator that paints its latent, so that pictures say where on the path they are."""

import numpy as np
import pytest
import torch
from closeness import ROUNDED, assert_close

from biggan.directions import orthonormalise
from biggan.traversal import direction_frames, direction_paths, direction_strips, round_trip

DIM_Z = 6


class Painter:
    """A picture of DIM_Z pixels, its components; z = -1..1 becomes black..white. The second row is the class."""

    device, dim_z, num_classes = torch.device("cpu"), DIM_Z, 4

    def __init__(self):
        self.batches = []

    def __call__(self, z, y=None):
        self.batches.append(len(z))
        classes = torch.zeros(len(z), DIM_Z) if y is None else y[:, None].float().expand(-1, DIM_Z) / 4
        return torch.stack([z / 10, classes], 1)[:, None]


@pytest.fixture
def setting():
    random = torch.Generator().manual_seed(0)
    Q = orthonormalise(torch.randn(3, DIM_Z, generator=random))
    return Q, torch.randn(4, DIM_Z, generator=random), torch.tensor([2, 0, 3, 2])


def painted(z):
    return np.clip(z / 10 * 127.5 + 128, 0, 255).astype(np.uint8)


def test_strips_equal_a_loop_over_the_definition(setting):
    Q, z, y = setting
    G = Painter()
    strips = direction_strips(G, Q, z, y, path_size=2.5, steps=7, minibatch=5)
    assert strips.shape == (3, 4, 7, 2, DIM_Z, 1) and strips.dtype == np.uint8 and max(G.batches) == 5
    for i, q in enumerate(Q.double()):
        for j, sample in enumerate(z.double()):
            for step, angle in enumerate(np.linspace(-np.pi / 2, np.pi / 2, 7)):
                at = sample - (sample @ q) * q + 2.5 * np.sin(angle) * q
                expected = painted(at.numpy())
                assert np.abs(strips[i, j, step, 0, :, 0].astype(int) - expected).max() <= 1  # float32 at a rounding
                assert (strips[i, j, step, 1] == int(y[j] / 4 * 127.5 + 128)).all()


def test_generators_without_classes(setting):
    Q, z, _ = setting
    assert (direction_strips(Painter(), Q, z, None, steps=3)[..., 1, :, :] == 128).all()


def test_every_sample_passes_the_same_points_of_the_direction(setting):
    Q, z, _ = setting
    paths = direction_paths(Q, z, 3.0, 5, eased=False)
    along = np.einsum("dsti,di->dst", paths, Q.numpy())
    assert_close(along, np.broadcast_to(np.linspace(-3, 3, 5), along.shape), within=ROUNDED)
    across = paths - along[..., None] * Q.numpy()[:, None, None]
    own = z.numpy() - (z.numpy() @ Q.numpy().T).T[..., None] * Q.numpy()[:, None]
    assert_close(across, np.broadcast_to(own[:, :, None], across.shape), within=ROUNDED)


def test_directions_of_any_length_still_lose_the_whole_component(setting):
    """Without orthonormalisation a step of 1 is as long as the direction, and the centre is still at 0 of it."""
    Q, z, _ = setting
    paths = direction_paths(3 * Q, z, 1.0, 3, eased=False)
    assert_close(paths, direction_paths(Q, z, 3.0, 3, eased=False), within=ROUNDED)


def test_the_round_trip_goes_centre_right_centre_left_centre():
    assert round_trip(list(range(-3, 4))) == [0, 1, 2, 3, 2, 1, 0, -1, -2, -3, -2, -1]
    assert len(round_trip(list(range(91)))) == 180


def test_frames_are_a_grid_of_directions_and_samples(setting):
    Q, z, y = setting
    strips = direction_strips(Painter(), Q, z, y, steps=3)
    plain = direction_frames(strips, [0, 5, 17], scale=20, pad_x=0)
    labelled = direction_frames(strips, [0, 5, 17], ["cube", "sphere", "cube", "cone"], scale=20, pad_x=0)
    assert len(plain) == 3 and labelled.shape[1] > plain.shape[1]
    turned = direction_frames(strips, [0, 5, 17], scale=20, pad_x=0, transpose=True)
    assert plain.shape[2] > 4 * 20 * DIM_Z > turned.shape[2] > 3 * 20 * DIM_Z
