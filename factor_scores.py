"""How well images show the true factors behind them, in numbers.

Self-contained: copy this file into your project; it needs NumPy, scikit-learn and safetensors.

    regressor = FactorRegressor.fit(images, factors, factor_info)      # images with known factors
    regressor.held_out                                                 # {"position": 0.999, "shape": 0.98}
    values = regressor.predict(generated)                              # [N, factors]
    range_coverage(values[:, 0], low=-1, high=1)                       # 0.95
    nearest_image_error(generated, images)                             # levels of 255

    readings = ...                              # [directions, samples, steps, factors]: predict() along every sweep
    changes = direction_changes(readings, factor_info, regressor.spread)       # [directions, factors]
    purity(changes, regressor.noise)                                           # [directions], 0 to 1
    factor_coverage(changes, regressor.noise)                                  # factors with a direction of their own

    scores, matrices = latent_factor_scores(z, regressor.predict(G(z)), factor_info)
    scores                                      # {"DCI/disentanglement": 0.8, ..., "MIG": 0.6, "SAP": 0.5}
    matrices["importance"]                      # [nz, factors]: which component moves which factor

Images are uint8 [N, H, W, C] throughout; C is 1 or 3. Factors are float32 [N, F], column f described by factor_info[f]:

    {"name": "position", "kind": "continuous", "range": [-1.0, 1.0]}
    {"name": "shape", "kind": "categorical", "values": ["cube", "sphere"]}     # the column holds 0.0 or 1.0

Wrong arguments and unreadable files raise ValueError with one line that names the value.
"""

import json
import math
import os
import uuid
import warnings

import numpy as np
import safetensors
import safetensors.numpy
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.tree import DecisionTreeClassifier

# ----------------------------------------------------------------------------------------------------------------------
# Reading factors off images

_FORMAT = "factor_scores.FactorRegressor 2"
_LARGEST = 32  # images are averaged down to at most this many pixels a side: enough to place an object
_COMPONENTS = 100  # principal components that the networks see
_COPIES = 4  # degraded copies of every training image
_WIDENED = 0.1  # a continuous prediction leaves its range by at most this share of the range
_CHUNK = 1000  # images handled at a time


class FactorRegressor:
    """Reads the true factors off images.

    Principal components of the image, then one small network a factor (two hidden layers of 64, ReLU). It is fitted on
    the images and on degraded copies of them (another image shining through, blur, brightness, noise), so that it reads
    what a half-trained generator makes as a person would: the object that stands out counts. It always answers, also
    where no object is left to read: look at `nearest_image_error` beside it.

    factor_info   as given to `fit`
    image_shape   (H, W, C)
    held_out      {name: score} on a fifth of the images that the fit did not see: R² of a continuous factor, accuracy
                  of a categorical one
    spread        float64 [F]: `factor_spread` of the factors it was fitted on, all images
    noise         float64 [F], measured on the same fifth: how much two readings differ on average (as in
                  `direction_changes`, in units of the spread) though the true value is the same
    """

    def __init__(self, arrays, factor_info, image_shape, held_out, spread, noise):
        self.factor_info, self.image_shape, self.held_out = factor_info, tuple(image_shape), held_out
        self.spread, self.noise = np.asarray(spread), np.asarray(noise)
        self._arrays = arrays

    @classmethod
    def fit(cls, images, factors, factor_info, seed=0):
        """Fit on images, uint8 [N, H, W, C], and their factors, float32 [N, F]; the same seed gives the same result."""
        images = _checked_images("images", images)
        factors = _checked_factors(factors, factor_info, len(images))
        random = np.random.RandomState(seed)
        order = random.permutation(len(images))
        test, train = order[: len(images) // 5], order[len(images) // 5 :]
        small = _shrink(images)
        arrays = _principal_components(_degrade(small[train[:2000]], random), seed)
        copies = [_features(arrays, small[train])]
        copies += [_features(arrays, _degrade(small[train], random)) for _ in range(_COPIES)]
        features = np.concatenate(copies)
        for number, info in enumerate(factor_info):
            targets = np.tile(factors[train, number], len(copies))
            arrays.update(_fit_network(f"factor{number}", info, features, targets, seed))
        spread = factor_spread(factors, factor_info)
        regressor = cls(arrays, factor_info, images.shape[1:], None, spread, None)
        predicted = regressor.predict(images[test])
        regressor.held_out = _scores(predicted, factors[test], factor_info)
        regressor.noise = _noise(predicted, factors[test], factor_info) / spread
        return regressor

    def predict(self, images):
        """Return float32 [N, F] for images uint8 [N, H, W, C].

        A continuous factor may leave its range by a tenth of the range at either end, and no further; of a categorical
        one it is the number of the likeliest value.
        """
        images = _checked_images("images", images)
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images of shape {images.shape[1:]}: this regressor reads {self.image_shape}")
        factors = np.empty((len(images), len(self.factor_info)), np.float32)
        for begin in range(0, len(images), _CHUNK):
            features = _features(self._arrays, _shrink(images[begin : begin + _CHUNK]))
            for number, info in enumerate(self.factor_info):
                outputs = _apply_network(self._arrays, f"factor{number}", features)
                factors[begin : begin + _CHUNK, number] = _decode(self._arrays, f"factor{number}", info, outputs)
        return factors

    def save(self, path):
        """Write the regressor as one safetensors file; it appears under its name only when complete."""
        metadata = {"factor_info": self.factor_info, "image_shape": self.image_shape, "held_out": self.held_out}
        metadata.update(spread=self.spread.tolist(), noise=self.noise.tolist())
        data = safetensors.numpy.save(self._arrays, metadata={"format": _FORMAT, "json": json.dumps(metadata)})
        path = os.path.abspath(os.fspath(path))
        partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex}.part")
        try:
            with open(partial, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except OSError as error:
            error.filename = path
            raise
        finally:
            if os.path.exists(partial):
                os.remove(partial)

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. Nothing in the file is executed. Raises ValueError for any other file."""
        with open(os.fspath(path), "rb"):  # the system's own words for a file that is missing or closed to us
            pass
        try:
            with safetensors.safe_open(os.fspath(path), framework="numpy") as stream:
                header = stream.metadata() or {}
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}
        except safetensors.SafetensorError as problem:
            raise ValueError(f"{path}: not a readable safetensors file ({problem})") from None
        if header.get("format") != _FORMAT:
            raise ValueError(f"{path}: its format is {header.get('format')!r}, not {_FORMAT!r}")
        metadata = json.loads(header["json"])
        names = ("factor_info", "image_shape", "held_out", "spread", "noise")
        return cls(arrays, *(metadata[name] for name in names))


def _shrink(images):
    """uint8 [N, H, W, C] -> float32 [N, h, w, C] in [-1, 1]: averaged over blocks until no side exceeds _LARGEST."""
    count, height, width, channels = images.shape
    block = -(-max(height, width) // _LARGEST)
    images = images[:, : height // block * block, : width // block * block]
    blocks = images.reshape(count, height // block, block, width // block, block, channels)
    return blocks.mean((2, 4), dtype=np.float32) / np.float32(127.5) - 1


def _degrade(images, random):
    """What a generator might make of float32 images [N, h, w, C]: another shines through; blur; brightness; noise."""
    count, height, width, _ = images.shape
    ghost, blur, brightness, noise = np.float32(random.uniform(size=(4, count, 1, 1, 1)))
    images = images + 0.4 * ghost * (images[random.permutation(count)] - images)
    images += blur * (_blur(images, max(height, width) / 16) - images)
    images += 0.2 * brightness - 0.1
    return images + 0.08 * noise * np.float32(random.standard_normal(images.shape))


def _blur(images, sigma):
    """Gaussian blur of float32 images [N, h, w, C] by two matrix products, normalised at the borders."""

    def matrix(size):
        offsets = np.arange(size)[:, None] - np.arange(size)
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        return np.float32(weights / weights.sum(1, keepdims=True))

    rows, columns = matrix(images.shape[1]), matrix(images.shape[2])
    return np.einsum("ij,njwc->niwc", rows, np.einsum("ij,nhjc->nhic", columns, images, optimize=True), optimize=True)


def _principal_components(images, seed):
    """{"mean": [d], "components": [d, n]} such that the first feature has variance 1 and the others keep proportion."""
    flat = images.reshape(len(images), -1)
    solver = PCA(min(_COMPONENTS, *flat.shape), svd_solver="randomized", random_state=seed).fit(flat)
    scale = math.sqrt(solver.explained_variance_[0]) or 1.0
    return {
        "mean": np.float32(solver.mean_),
        "components": np.ascontiguousarray(np.float32(solver.components_.T / scale)),
    }


def _features(arrays, images):
    return (images.reshape(len(images), -1) - arrays["mean"]).dot(arrays["components"])


def _fit_network(prefix, info, features, targets, seed):
    """Fit one factor's network; return its arrays under names that begin with `prefix`."""
    options = {"hidden_layer_sizes": (64, 64), "alpha": 1e-2, "learning_rate_init": 2e-3, "random_state": seed}
    options.update(early_stopping=True, n_iter_no_change=15, max_iter=200)
    if info["kind"] == "continuous":
        low, high = info["range"]
        model = MLPRegressor(**options)
        targets = (2 * targets - low - high) / (high - low)
    else:
        model = MLPClassifier(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the held-out score says whether it was enough
        model.fit(features, targets)
    arrays = {}
    for layer, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_)):
        arrays[f"{prefix}/weight{layer}"] = np.ascontiguousarray(weight, np.float32)
        arrays[f"{prefix}/bias{layer}"] = np.ascontiguousarray(bias, np.float32)
    if info["kind"] == "categorical":
        arrays[f"{prefix}/classes"] = np.float32(model.classes_)
    return arrays


def _apply_network(arrays, prefix, features):
    for layer in range(3):
        features = features.dot(arrays[f"{prefix}/weight{layer}"]) + arrays[f"{prefix}/bias{layer}"]
        if layer < 2:
            features = np.maximum(features, 0)
    return features


def _decode(arrays, prefix, info, outputs):
    """Network outputs [N, 1] (or [N, classes]) -> the factor [N]."""
    if info["kind"] == "continuous":
        low, high = info["range"]
        limit = 1 + 2 * _WIDENED
        return (low + high + np.clip(outputs[:, 0], -limit, limit) * (high - low)) / 2
    classes = arrays[f"{prefix}/classes"]
    if outputs.shape[1] == 1:  # two classes: one logit
        return classes[(outputs[:, 0] > 0).astype(int)]
    return classes[outputs.argmax(1)]


def _scores(predicted, true, factor_info):
    scores = {}
    for number, info in enumerate(factor_info):
        if info["kind"] == "continuous":
            error = ((predicted[:, number] - true[:, number]) ** 2).sum()
            score = 1 - error / ((true[:, number] - true[:, number].mean()) ** 2).sum()
        else:
            score = (predicted[:, number] == true[:, number]).mean()
        scores[info["name"]] = float(score)
    return scores


def _noise(predicted, true, factor_info):
    """float64 [F]: the mean difference of readings of the same true value, in the factors' own units."""
    noise = []
    for number, info in enumerate(factor_info):
        read, truth = predicted[:, number].astype(float), true[:, number].astype(float)
        if info["kind"] == "continuous":
            noise.append(_mean_difference(read - truth, "continuous"))
        else:  # a value that turns up once has no other reading to differ from
            values, counts = np.unique(truth, return_counts=True)
            of_value = [_mean_difference(read[truth == value], "categorical") for value in values[counts > 1]]
            noise.append(np.average(of_value, weights=counts[counts > 1]) if of_value else 0.0)
    return np.array(noise)


def _checked_images(name, images):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{name} of type {images.dtype} and shape {images.shape}: expected uint8 [N, H, W, 1 or 3]")
    return images


def _checked_factors(factors, factor_info, count):
    factors = np.asarray(factors, np.float32)
    if factors.shape != (count, len(factor_info)):
        raise ValueError(f"factors of shape {factors.shape}: expected {(count, len(factor_info))}, as images and infos")
    if count < 50:
        raise ValueError(f"{count} images: at least 50 are needed to fit and to check")
    names = [info["name"] for info in factor_info]
    for info, column in zip(factor_info, factors.T):
        name = info["name"]
        if names.count(name) > 1:
            raise ValueError(f"factor {name}: there are two of that name")
        if info["kind"] == "continuous":
            low, high = info["range"]
            if not low < high:
                raise ValueError(f"factor {name}: its range is {info['range']}")
            fits = (column >= low - 1e-4 * (high - low)) & (column <= high + 1e-4 * (high - low))
        elif info["kind"] == "categorical":
            fits = np.isin(column, np.arange(len(info["values"])))
        else:
            raise ValueError(f"factor {name}: its kind is {info['kind']!r}, not continuous or categorical")
        if not fits.all():
            raise ValueError(
                f"factor {name}: image {int(np.argmin(fits))} has {column[np.argmin(fits)]}, beyond its info"
            )
        if (column == column[0]).all():
            raise ValueError(f"factor {name}: {column[0]} in every image, so there is nothing to learn")
    return factors


# ----------------------------------------------------------------------------------------------------------------------
# Scores


def range_coverage(values, low, high, bins=20, least=0.1):
    """Return the share of the range [low, high] that `values` cover, from 0 to 1.

    The range is cut into `bins` equal bins. A bin is covered if it holds at least `least` times the values that it
    would hold if all of them were spread evenly over the range, and at least one. The answer is the share of covered
    bins. Values beyond the range count in the number of values and cover nothing.

    Two clusters at the ends cover two bins of it, where the distance between extreme values or percentiles would call
    the whole range covered; and a few stray values do not cover a bin, so that a mistake of the regressor does not
    count as variety. With fewer than about 5 · bins values, chance leaves bins of an even spread empty.
    """
    values = np.asarray(values, float).ravel()
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} values, some not finite: expected at least one finite value")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low={low}, high={high}: expected low < high")
    if bins < 1:
        raise ValueError(f"bins={bins}: must be at least 1")
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    return float((counts >= max(1, least * len(values) / bins)).mean())


def nearest_image_error(images, training_images):
    """Return the mean, over images, of the root mean square pixel difference to the nearest training image.

    images, training_images   uint8 [N, H, W, C] and [M, H, W, C]
    The unit is one grey level of 255. The mean runs over pixels and channels, and nearest is meant in the same measure.
    Memory beyond the arguments stays below 200 MB at any N and M, up to 256 x 256 pixels.
    """
    images, training_images = _checked_images("images", images), _checked_images("training_images", training_images)
    if images.shape[1:] != training_images.shape[1:]:
        raise ValueError(f"images of shape {images.shape[1:]} against training_images of {training_images.shape[1:]}")
    pixels = int(np.prod(images.shape[1:]))
    chunk = max(1, min(_CHUNK, 2**23 // pixels))
    total = 0.0
    for begin in range(0, len(images), chunk):
        some = np.float32(images[begin : begin + chunk]).reshape(-1, pixels)
        best, nearest = np.full(len(some), np.inf, np.float32), np.zeros(len(some), int)
        for first in range(0, len(training_images), chunk):
            others = np.float32(training_images[first : first + chunk]).reshape(-1, pixels)
            distances = (others**2).sum(1) - 2 * some.dot(others.T)  # squared, less |image|²
            closest = distances.argmin(1)
            closest_distances = distances[np.arange(len(some)), closest]
            nearest = np.where(closest_distances < best, first + closest, nearest)
            best = np.minimum(best, closest_distances)
        difference = some - training_images[nearest].reshape(-1, pixels)  # again, since the products above round
        total += np.sqrt((difference**2).mean(1, dtype=np.float64)).sum()
    return float(total / len(images))


def faithfulness(generated, images, regressor):
    """Return {name: number} that compares generated images with the training images they were learnt from.

    generated, images   uint8 [N, H, W, C] and [M, H, W, C]
    regressor           FactorRegressor of the training images

    coverage/FACTOR         share of the factor's range, or of its values, that the generated images cover: a value
                            counts if at least a tenth as many images show it as of an even spread would
    held_out/FACTOR         the regressor's own score
    nearest_image_error     of the generated images to the training images
    nearest_image_baseline  the same of one half of the training images to the other half
    """
    half = len(images) // 2
    numbers = {
        "nearest_image_error": nearest_image_error(generated, images),
        "nearest_image_baseline": nearest_image_error(images[:half], images[half:]),
    }
    for values, info in zip(regressor.predict(generated).T, regressor.factor_info):
        numbers[f"held_out/{info['name']}"] = regressor.held_out[info["name"]]
        if info["kind"] == "continuous":
            numbers[f"coverage/{info['name']}"] = range_coverage(values, *info["range"])
        else:
            count = len(info["values"])
            numbers[f"coverage/{info['name']}"] = range_coverage(values, -0.5, count - 0.5, bins=count)
    return numbers


def effective_number(activeness):
    """Return how many components are at work: (Σa)² / Σa² for activeness a >= 0, [nz].

    It is nz where all are equally active, 1 where a single one is, and does not depend on their scale (it is known as
    the participation ratio). A generator that ignores all of them has 0.
    """
    activeness = np.asarray(activeness, float)
    if activeness.ndim != 1 or not (np.isfinite(activeness).all() and (activeness >= 0).all()):
        raise ValueError(f"activeness={activeness.tolist()}: expected one finite number >= 0 a component")
    squares = (activeness**2).sum()
    return float(activeness.sum() ** 2 / squares) if squares > 0 else 0.0


# ----------------------------------------------------------------------------------------------------------------------
# Which factors a direction of latent space moves


def factor_spread(factors, factor_info):
    """Return float64 [F]: how far apart two images of the data are on average, factor by factor.

    factors       [N, F], the data's own
    For a continuous factor that is the mean |a - b| over all pairs of images (Gini's mean difference: 1.13 standard
    deviations of a normal distribution, a third of the range of a uniform one), for a categorical one the share of
    pairs that differ. A change divided by it means the same for both kinds, and does not depend on a factor's unit.
    """
    factors = np.asarray(factors, float)
    if factors.ndim != 2 or factors.shape[1] != len(factor_info) or len(factors) < 2:
        raise ValueError(f"factors of shape {factors.shape}: expected [N, {len(factor_info)}], N at least 2")
    kinds = [info["kind"] for info in factor_info]
    return np.array([_mean_difference(column, kind) for column, kind in zip(factors.T, kinds)])


def direction_changes(readings, factor_info, spread):
    """Return float64 [D, F]: how much each of D directions changes each of F factors.

    readings      [D, samples, steps, F]: the factors of the images along each sweep
    spread        [F], above 0: `factor_spread` of the data, or a FactorRegressor's `.spread`

    The change is the mean, over samples and over all pairs of steps of a sweep, of |a - b| (categorical: of whether a
    and b differ), divided by the spread. So it is 1 where moving along the direction changes the factor as much as
    taking another image of the data does. All pairs, not the two ends: a factor that leaves and comes back has changed.
    And not the sum of steps from one image to the next, to which the reader's jitter would add up as steps are added.
    """
    readings, spread = np.asarray(readings, float), np.asarray(spread, float)
    factors = len(factor_info)
    if readings.ndim != 4 or readings.shape[3] != factors or 0 in readings.shape or readings.shape[2] < 2:
        raise ValueError(
            f"readings of shape {readings.shape}: expected [directions, samples, steps, {factors}], at least 2 steps"
        )
    if not np.isfinite(readings).all():
        raise ValueError("readings that are not finite")
    if spread.shape != (factors,) or not (np.isfinite(spread).all() and (spread > 0).all()):
        raise ValueError(f"spread={spread.tolist()}: expected {factors} numbers above 0")
    kinds = [info["kind"] for info in factor_info]
    changes = [_mean_difference(readings[..., number], kind).mean(1) for number, kind in enumerate(kinds)]
    return np.stack(changes, 1) / spread


def purity(changes, noise):
    """Return float64 [D]: the share that the largest factor has in a direction's total change; from 1/F to 1, or 0.

    changes   [D, F], from `direction_changes`
    noise     one number, or one a factor: a direction none of whose changes exceeds it moves nothing and gets 0.

    The noise should be the reader's own, as FactorRegressor measures it: readings of images with the same true value
    differ by that much. A sweep that moves no factor at all, but makes the reader err as it does from image to image,
    changes by `noise`; along a smooth sweep its errors resemble each other, and it changes by less. (Errors that are
    normal and leave R² on held-out images make a noise of about √(1 - R²): 0.1 at R² = 0.99.)
    """
    changes, moved = _checked_changes(changes, noise)
    total = changes.sum(1)
    return np.where(moved.any(1), changes.max(1) / np.where(total > 0, total, 1), 0.0)


def factor_coverage(changes, noise, majority=0.5):
    """Return how many factors have a direction of their own, 0 to F.

    changes, noise   as for `purity`
    A factor has one if some direction changes it beyond its noise, and has more than `majority` of its total change in
    it: at the default, more than in all other factors together. Several directions of one factor count once.
    """
    changes, moved = _checked_changes(changes, noise)
    if not 0.5 <= majority < 1:
        raise ValueError(f"majority={majority}: must be at least 0.5, and less than 1")
    own = moved & (changes > majority * changes.sum(1, keepdims=True))
    return int(own.any(0).sum())


def _mean_difference(values, kind):
    """float [..., n] -> [...]: over all pairs, the mean |a - b| (continuous) or the share that differ (categorical)."""
    n = values.shape[-1]
    if kind == "continuous":  # the gap between neighbours in order lies between k · (n - k) pairs
        k = np.arange(1, n)
        return np.diff(np.sort(values, -1), axis=-1).dot(k * (n - k) / (n * (n - 1) / 2))
    equal = 0
    for value in np.unique(values):
        count = (values == value).sum(-1)
        equal = equal + count * (count - 1)
    return 1 - equal / (n * (n - 1.0))


def _checked_changes(changes, noise):
    """Return (changes, which of them exceed the noise)."""
    changes, noise = np.asarray(changes, float), np.asarray(noise, float)
    if changes.ndim != 2 or 0 in changes.shape or not (np.isfinite(changes).all() and (changes >= 0).all()):
        raise ValueError(f"changes of shape {changes.shape}: expected [directions, factors], finite numbers >= 0")
    if noise.shape not in ((), changes.shape[1:]) or not (np.isfinite(noise).all() and (noise >= 0).all()):
        raise ValueError(f"noise={noise.tolist()}: expected a number >= 0, or {changes.shape[1]} of them")
    return changes, changes > noise


# ----------------------------------------------------------------------------------------------------------------------
# Which latent component moves which factor
#
# Codes are latents, [N, nz], and factors what a FactorRegressor reads off the images that a generator makes of them,
# [N, F]. A factor that is the same in all images is moved by no component: it scores 0 everywhere.

_FEWEST_CODES = 100


def latent_factor_scores(codes, factors, factor_info, seed=0):
    """Return (scores, matrices): DCI, MIG and SAP, and the matrices [nz, F] that they sum up.

    scores     {"DCI/disentanglement", "DCI/completeness", "DCI/informativeness", "MIG", "SAP": number}, each 1 where
               every factor has a component of its own, and 0 where none does. Of a single factor there is no
               "DCI/disentanglement": components cannot mix factors then.
    matrices   {"importance": `factor_importance`, "information": `mutual_information`,
               "separability": `code_separability`}

    Where images depend on a latent's direction alone (a ProGAN normalises it), give normalised latents.
    """
    importance, informativeness = factor_importance(codes, factors, factor_info, seed)
    matrices = {
        "importance": importance,
        "information": mutual_information(codes, factors, factor_info),
        "separability": code_separability(codes, factors, factor_info, seed),
    }
    scores = {
        "DCI/disentanglement": disentanglement(importance),
        "DCI/completeness": completeness(importance),
        "DCI/informativeness": float(informativeness.mean()),
        "MIG": mean_gap(matrices["information"]),
        "SAP": mean_gap(matrices["separability"]),
    }
    if len(factor_info) == 1:
        del scores["DCI/disentanglement"]
    return scores, matrices


def factor_importance(codes, factors, factor_info, seed=0):
    """Return (importance [nz, F], informativeness [F]), as gradient boosted trees predict each factor from the codes.

    importance       share that a component has in the trees' reduction of the error; a factor's shares add up to 1
    informativeness  how well they predict the factor of a quarter of the samples, which they were not fitted on: R² of
                     a continuous factor, and of a categorical one the accuracy on a scale from 0 (the commonest value
                     every time) to 1; never below 0

    Eastwood & Williams 2018, Sec. 2 and 4 (who use random forests or the lasso; trees that are boosted need no codes
    that act linearly, and share an effect out less among codes that have none).
    """
    codes, factors = _checked_codes(codes, factors, factor_info)
    train, test = _split(len(codes), seed)
    importance, informativeness = np.zeros([codes.shape[1], len(factor_info)]), np.zeros(len(factor_info))
    for number, info in enumerate(factor_info):
        truth = factors[:, number]
        if (truth[train] == truth[train][0]).all():
            continue
        categorical = info["kind"] == "categorical"
        model = (GradientBoostingClassifier if categorical else GradientBoostingRegressor)(random_state=seed)
        predicted = model.fit(codes[train], truth[train]).predict(codes[test])
        importance[:, number] = np.maximum(model.feature_importances_, 0)  # rounding leaves some at -1e-17
        if categorical:
            values, counts = np.unique(truth[train], return_counts=True)
            wrong, chance = (predicted != truth[test]).mean(), (values[counts.argmax()] != truth[test]).mean()
        else:
            wrong, chance = ((predicted - truth[test]) ** 2).mean(), truth[test].var()
        informativeness[number] = max(1 - wrong / chance, 0) if chance > 0 else 0
    return importance, informativeness


def disentanglement(importance):
    """Return how nearly each component matters to one factor only, 0 to 1; nan for a single factor.

    1 - entropy of a component's importance over factors, in units of log F, averaged with the components' total
    importance as weight (Eastwood & Williams 2018, Sec. 2). importance: [nz, F]
    """
    importance = _checked_matrix(importance)
    if importance.shape[1] == 1:
        return float("nan")
    weights = importance.sum(1)
    certainty = 1 - _entropy(importance) / math.log(importance.shape[1])
    return float(certainty.dot(weights) / weights.sum()) if weights.sum() > 0 else 0.0


def completeness(importance):
    """Return how nearly each factor is up to one component only, 0 to 1: the mean over factors.

    1 - entropy of a factor's importance over components, in units of log nz (Eastwood & Williams 2018, Sec. 2).
    """
    importance = _checked_matrix(importance)
    certainty = 1 - _entropy(importance.T) / math.log(len(importance))
    return float(np.where(importance.sum(0) > 0, certainty, 0).mean())


def mutual_information(codes, factors, factor_info, bins=20):
    """Return float64 [nz, F]: the mutual information of each component and factor, as a share of the factor's entropy.

    The gap between a factor's two largest is its MIG (Chen et al. 2018, Eq. 6): `mean_gap`. Codes and continuous
    factors are cut into `bins` of equal mass. All entropies are corrected for the number of samples (Miller & Madow
    1955): 20 x 20 bins of 2,000 samples would otherwise show 3 % where there is nothing.
    """
    codes, factors = _checked_codes(codes, factors, factor_info)
    columns = [_binned(column, bins) for column in codes.T]
    information = np.zeros([codes.shape[1], len(factor_info)])
    for number, info in enumerate(factor_info):
        truth = factors[:, number] if info["kind"] == "categorical" else _binned(factors[:, number], bins)
        truth = np.unique(truth, return_inverse=True)[1]
        if not truth.any():
            continue
        entropy = _corrected_entropy(truth)
        for row, column in enumerate(columns):
            joint = _corrected_entropy(column * (truth.max() + 1) + truth)
            information[row, number] = (_corrected_entropy(column) + entropy - joint) / entropy
    return np.clip(information, 0, 1)


def code_separability(codes, factors, factor_info, seed=0):
    """Return float64 [nz, F]: how well a single component tells a factor, 0 to 1.

    The gap between a factor's two largest is its SAP (Kumar et al. 2018, Sec. 3): `mean_gap`. For a continuous factor
    the squared correlation; for a categorical one the balanced accuracy of thresholds on the component, as many as
    tell its values apart, on a quarter of the samples that they were not fitted on, from 0 (chance) to 1.
    """
    codes, factors = _checked_codes(codes, factors, factor_info)
    train, test = _split(len(codes), seed)
    scores = np.zeros([codes.shape[1], len(factor_info)])
    for number, info in enumerate(factor_info):
        truth = factors[:, number]
        values = np.unique(truth[train])
        if len(values) == 1:
            continue
        for row, column in enumerate(codes.T):
            if info["kind"] == "continuous":
                scores[row, number] = np.corrcoef(column, truth)[0, 1] ** 2 if column.std() > 0 else 0
                continue
            tree = DecisionTreeClassifier(max_leaf_nodes=len(values), class_weight="balanced", random_state=seed)
            right = tree.fit(column[train, None], truth[train]).predict(column[test, None]) == truth[test]
            recall = np.mean([right[truth[test] == value].mean() for value in np.unique(truth[test])])
            scores[row, number] = max((recall - 1 / len(values)) / (1 - 1 / len(values)), 0)
    return scores


def mean_gap(matrix):
    """Return the mean over factors of the difference of the two largest entries of a column of [nz, F]."""
    ordered = np.sort(_checked_matrix(matrix), axis=0)
    return float((ordered[-1] - ordered[-2]).mean())


def _split(count, seed):
    """(train, test): indices, three quarters and one."""
    order = np.random.RandomState(seed).permutation(count)
    return order[count // 4 :], order[: count // 4]


def _entropy(weights):
    """float [rows, n] -> [rows]: of each row's shares, in nats; of a row of zeros 0."""
    total = weights.sum(1, keepdims=True)
    shares = weights / np.where(total > 0, total, 1)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)


def _corrected_entropy(labels):
    """Entropy in nats of integer labels [N], with Miller and Madow's correction."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    shares = counts / counts.sum()
    return -(shares * np.log(shares)).sum() + (len(counts) - 1) / (2 * counts.sum())


def _binned(values, bins):
    """Numbers of the bins, of equal mass but for ties, that values [N] lie in."""
    edges = np.unique(np.percentile(values, 100 * np.arange(1, bins) / bins))
    return np.searchsorted(edges, values, side="right")


def _checked_codes(codes, factors, factor_info):
    codes, factors = np.asarray(codes, float), np.asarray(factors, float)
    if codes.ndim != 2 or codes.shape[1] < 2 or not np.isfinite(codes).all():
        raise ValueError(f"codes of shape {codes.shape}: expected [N, nz], finite, nz at least 2")
    if factors.shape != (len(codes), len(factor_info)) or not factor_info or not np.isfinite(factors).all():
        raise ValueError(f"factors of shape {factors.shape}: expected {(len(codes), len(factor_info))}, finite")
    if len(codes) < _FEWEST_CODES:
        raise ValueError(f"{len(codes)} samples: at least {_FEWEST_CODES} are needed")
    return codes, factors


def _checked_matrix(matrix):
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or len(matrix) < 2 or 0 in matrix.shape or not (matrix >= 0).all():
        raise ValueError(f"matrix of shape {matrix.shape}: expected [nz, F], nz at least 2, numbers >= 0")
    return matrix
