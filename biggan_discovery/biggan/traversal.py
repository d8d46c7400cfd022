"""Pictures of directions: a row a direction, a column a sample, along the path from -path_size to +path_size."""

import numpy as np
import torch

from experiment_utils.errors import UserError
from latent_traversal import activeness, grid_frames, path_strips, sweep_values, there_and_back


def direction_paths(Q, z, path_size, steps, eased=True):
    """Return the latents of all sweeps, float32 [ndirs, samples, steps, dim_z].

    Each sample z [samples, dim_z] loses its own component along the direction q, so that all of them pass the same
    points of it: z - (z·q/q·q) q + t q, t from -path_size to +path_size, in units of q's length (1, unless A is not
    orthonormalised). `eased`: slow at both ends, otherwise evenly spaced.
    """
    Q, z = np.asarray(Q, np.float32), np.asarray(z, np.float32)
    own = Q @ z.T / (Q**2).sum(1)[:, None]
    distances = sweep_values(steps, path_size, eased) - own[:, :, None]
    return z[:, None, :] + distances[..., None] * Q[:, None, None, :]


def direction_strips(G, Q, z, y=None, path_size=5.0, steps=91, minibatch=80, eased=True):
    """Generate the images of all sweeps: strips [ndirs, samples, steps, H, W, C], uint8.

    G     FrozenGenerator
    Q     [ndirs, dim_z], directions
    z, y  [samples, dim_z] and int64 [samples], or None for a generator without classes
    """
    Q, z = (tensor.detach().cpu().numpy() for tensor in (Q, z))
    columns = []
    for number in range(len(z)):  # column by column, since all images of one have its class
        label = None if y is None else int(y[number])
        paths = direction_paths(Q, z[number : number + 1], path_size, steps, eased)
        columns.append(path_strips(lambda latents, label=label: images_of(G, latents, label), paths, minibatch))
    return np.concatenate(columns, axis=1)


@torch.no_grad()
def images_of(G, latents, label):
    """Return images [N, H, W, C], float32, of latents [N, dim_z] that all have the class `label` (None: no classes).

    Raises UserError where values are not finite.
    """
    z = torch.as_tensor(latents, device=G.device)
    y = None if label is None else torch.full((len(z),), label, dtype=torch.int64, device=G.device)
    images = G(z, y)
    if not torch.isfinite(images).all():
        raise UserError(f"{G.name}: gives values that are not finite here; go less far from the samples (--path_size)")
    return images.permute(0, 2, 3, 1).float().cpu().resolve_neg().numpy()


def direction_activeness(G, Q, z, y=None, path_size=5.0, minibatch=80):
    """Return float64 [ndirs]: the activeness of each direction, over the ends and the centre of its path.

    As it is measured of a ProGAN's components (Peebles et al. 2020, Sec. 4). Arguments as for `direction_strips`.
    """
    scores = []
    for q in Q:  # one at a time: memory for 3 images a sample, however many directions there are
        strips = direction_strips(G, q[None], z, y, path_size, 3, minibatch, eased=False)
        scores.append(activeness(strips)[0])
    return np.array(scores)


def direction_frames(strips, numbers, column_labels=None, row_values=None, **layout):
    """Lay the strips out as a grid whose rows are labelled with the directions' numbers: frames [steps, h, w, 3]."""
    labels = [f"{number}" for number in numbers]
    return grid_frames(strips, row_labels=labels, row_values=row_values, column_labels=column_labels, **layout)


def round_trip(frames):
    """The frames of a video that closes: from the centre to the right end, to the left one, and back to the centre."""
    return there_and_back(frames, start=len(frames) // 2)
