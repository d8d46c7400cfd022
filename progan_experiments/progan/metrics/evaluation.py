"""The metrics by name, computed for a function from latents to images: a trained generator, or one in training."""

import collections
import dataclasses

import numpy as np

import factor_scores
from experiment_utils.errors import DataError, OptionError
from progan.metrics import factors, fid, ppl
from progan.metrics.cache import DatasetCache
from progan.metrics.faithfulness import GENERATED, faithfulness
from progan.metrics.features import FeatureWorker
from progan.traversal import activeness_by_component

Metric = collections.namedtuple("Metric", "help, network, needs")  # needs: "", "images" or "factors" of the dataset

METRICS = {
    "FID": Metric("Fréchet distance in InceptionV3 features to the dataset", "inception", "images"),
    "KID": Metric(
        "kernel distance in the same features (mean and standard deviation over subsets)", "inception", "images"
    ),
    "FD_random": Metric(
        "Fréchet distance in a fixed random network: no download, comparable with itself only", "random", "images"
    ),
    "PPL": Metric("perceptual path length in z", "vgg", ""),
    "factors": Metric("DCI, MIG, SAP: which component of z moves which true factor", None, "factors"),
    "faithfulness": Metric(
        "coverage of the true factors' range, distance to the nearest training image", None, "factors"
    ),
    "activeness": Metric("how much each component changes the images, and how many are in use", None, ""),
    "diagonalness": Metric("how diagonal the Hessian of z -> image is, whatever its scale", None, ""),
}


def parse_metrics(names):
    """Return the METRICS' names for names in any case, each once, in METRICS' order. Raises OptionError."""
    known = {name.lower(): name for name in METRICS}
    for name in names:
        if name.lower() not in known:
            raise OptionError(f"--metrics {name}: unknown; there are {', '.join(METRICS)}")
    wanted = {known[name.lower()] for name in names}
    return [name for name in METRICS if name in wanted]


@dataclasses.dataclass
class Result:
    """One metric of one generator.

    values     {name: number}
    settings   {name: JSON value}: what it depends on besides the generator
    matrices   {name: float64 [nz, F]}: of the metric 'factors'; else empty
    """

    metric: str
    values: dict
    settings: dict
    matrices: dict = dataclasses.field(default_factory=dict)


def at_resolution(sample, resolution):
    """Return `sample` with its images averaged over blocks of pixels down to `resolution`, as datasets' levels are."""

    def smaller(z, normalize_latents=True, minibatch=100, dtype=np.uint8):
        images = sample(z, normalize_latents, minibatch, np.float32)
        count, size, _, channels = images.shape
        block = size // resolution
        images = images.reshape(count, resolution, block, resolution, block, channels).mean((2, 4))
        return images if dtype == np.float32 else np.clip(np.floor(images * 127.5 + 128), 0, 255).astype(np.uint8)

    return smaller


class Evaluator:
    """Computes metrics of generators with the same spec; close it, or use `with`.

    dataset        experiment_utils.datasets.Dataset, or None where no metric needs one
    spec           NetworkSpec: nz, resolution and channels are looked at
    metrics        names as `parse_metrics` returns them
    num_images     generated, and real ones they are compared with (FID, KID, FD_random)
    num_pairs      of images (PPL)
    inception, vgg, num_gpus, num_threads   as for FeatureWorker
    worker         a FeatureWorker to share with other Evaluators, in the place of those; whoever made it closes it
    minibatch      images generated at once
    seed           of all latents
    note           called with each line for the user

    Raises OptionError or DataError, at once, where a metric cannot be had of this dataset.
    """

    def __init__(
        self,
        dataset,
        spec,
        metrics,
        num_images=50000,
        num_pairs=100000,
        minibatch=100,
        seed=0,
        inception=None,
        vgg=None,
        num_gpus=None,
        num_threads=0,
        worker=None,
        note=print,
    ):
        self._dataset, self._spec, self._metrics = dataset, spec, parse_metrics(metrics)
        self._num_images, self._num_pairs, self._minibatch, self._seed = num_images, num_pairs, minibatch, seed
        self._note, self._real, self._regressor = note, {}, None
        self._check()
        self._owned = worker is None
        self._worker = FeatureWorker(num_gpus, num_threads, inception, vgg) if self._owned else worker
        self._cache = None if dataset is None else DatasetCache(dataset, spec.resolution, note)

    def prepare(self):
        """Load networks, extract the real images' features, fit the regressor: whatever no generator is needed for.

        So what a user must put right turns up now, not after hours of training. `results` does it otherwise.
        """
        for metric in self._metrics:
            network, needs = METRICS[metric].network, METRICS[metric].needs
            if needs == "images":
                self._real_features(metric, network)
            elif network is not None:
                self._worker.call("load", network=network)
            if needs == "factors":
                self._fitted_regressor()

    def evaluate(self, sample):
        """Return {name: number} of all metrics: {"FID": 12.3, "DCI/completeness": 0.7, ...}.

        sample   callable: (latents [N, nz], normalize_latents=True, minibatch=100, dtype=np.uint8 | np.float32)
                 -> images [N, R, R, C], such as a TrainedGenerator
        """
        return {name: value for result in self.results(sample) for name, value in result.values.items()}

    def results(self, sample):
        """Yield a Result for each metric, as soon as it is there."""
        self.prepare()
        features = {}
        networks = {METRICS[metric].network for metric in self._metrics if METRICS[metric].needs == "images"}
        if networks:
            arguments = sample, self._spec.nz, self._num_images, self._seed, self._minibatch
            features = fid.generated_features(self._worker, sorted(networks), *arguments)
        for metric in self._metrics:
            compute = getattr(self, "_" + metric.lower())
            if METRICS[metric].needs == "images":
                yield compute(self._real[METRICS[metric].network], features[METRICS[metric].network])
            else:
                yield compute(sample)

    def close(self):
        if self._owned:
            self._worker.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _check(self):
        """Raise an error for metrics that cannot be had."""
        needing = {needs: [m for m in self._metrics if METRICS[m].needs == needs] for needs in ("images", "factors")}
        if self._dataset is None:
            for metric in needing["images"] + needing["factors"]:
                raise OptionError(f"--metrics {metric}: compares with a dataset; say --dataset NAME")
            return
        spec, dataset = self._spec, self._dataset
        if needing["images"] or needing["factors"]:
            if spec.resolution not in dataset.resolutions:
                raise OptionError(
                    f"--dataset {dataset.path}: has images of {dataset.resolution} px and less, none of "
                    f"{spec.resolution} px as the snapshot makes them"
                )
            if spec.channels != dataset.channels:
                raise OptionError(
                    f"--dataset {dataset.path}: images of {dataset.channels} channel(s), the snapshot's have "
                    f"{spec.channels}"
                )
        for metric in needing["factors"]:
            if dataset.factors is None:
                raise OptionError(
                    f"--metrics {metric}: {dataset.path} has no true factors ({dataset.name}-factors.npy)"
                )
            if spec.nz < 2 and metric == "factors":
                raise OptionError("--metrics factors: compares components of z, and there is only one")
        if "KID" in self._metrics:
            if self._num_images < fid.KID_SUBSET_SIZE:
                raise OptionError(
                    f"--num_images {self._num_images}: KID draws subsets of {fid.KID_SUBSET_SIZE}; give as many or more"
                )
            if len(dataset) < fid.KID_SUBSET_SIZE:
                raise DataError(f"{dataset.path}: {len(dataset)} images; KID needs {fid.KID_SUBSET_SIZE}")

    def _settings(self, metric, **more):
        if METRICS[metric].needs:
            more.update(dataset=self._dataset.name, resolution=self._spec.resolution)
        return dict(more, seed=self._seed)

    def _real_features(self, metric, network):
        if network not in self._real:
            dimensions, _ = self._worker.call("describe", network=network, resolution=self._spec.resolution)
            if metric != "KID" and self._num_images <= dimensions:
                raise OptionError(
                    f"--num_images {self._num_images}: {metric} has {dimensions} features an image, and their "
                    "covariance needs more images than that"
                )
            if metric != "KID" and len(self._dataset) <= dimensions:
                self._note(
                    f"note: {self._dataset.name} has {len(self._dataset)} images, {metric} {dimensions} features: "
                    "compare it with numbers of the same dataset only"
                )
            arguments = self._dataset, self._spec.resolution, self._num_images, self._cache, self._minibatch
            self._real[network] = fid.real_features(self._worker, network, *arguments)

    def _fitted_regressor(self):
        if self._regressor is None:
            self._regressor = factors.fitted_regressor(self._dataset, self._spec.resolution, self._cache, self._note)
            self._note(factors.describe(self._regressor))

    def _fid(self, real, generated, metric="FID"):
        value = fid.frechet_distance(self._worker, real, generated)
        return Result(metric, {metric: value}, self._settings(metric, num_images=self._num_images))

    def _fd_random(self, real, generated):
        return self._fid(real, generated, "FD_random")

    def _kid(self, real, generated):
        mean, deviation = fid.kernel_distance(self._worker, real, generated, fid.KID_SUBSET_SIZE, self._seed)
        return Result("KID", {"KID": mean, "KID/std": deviation}, self._settings("KID", num_images=self._num_images))

    def _ppl(self, sample):
        arguments = self._spec.nz, self._num_pairs, self._seed, self._minibatch
        value = ppl.perceptual_path_length(self._worker, sample, *arguments)
        return Result("PPL", {"PPL": value}, self._settings("PPL", num_pairs=self._num_pairs))

    def _factors(self, sample):
        scores, matrices = factors.latent_scores(
            sample, self._spec.nz, self._regressor, seed=self._seed, minibatch=self._minibatch
        )
        names = [info["name"] for info in self._regressor.factor_info]
        return Result("factors", scores, self._settings("factors", samples=factors.SAMPLES, factors=names), matrices)

    def _faithfulness(self, sample):
        images = factors.training_images(self._dataset, self._spec.resolution)
        numbers = faithfulness(sample, self._spec.nz, images, self._regressor, self._seed, self._minibatch)
        values = {f"faithfulness/{name}": value for name, value in numbers.items()}
        return Result("faithfulness", values, self._settings("faithfulness", samples=GENERATED))

    def _activeness(self, sample):
        scores = activeness_by_component(sample, self._spec.nz, self._seed, minibatch=self._minibatch)
        values = {"activeness/effective_number": factor_scores.effective_number(scores)}
        values.update({f"activeness/z{component}": float(score) for component, score in enumerate(scores)})
        return Result("activeness", values, self._settings("activeness"))

    def _diagonalness(self, sample):
        from progan.metrics.hessian import diagonalness

        numbers = diagonalness(sample, self._spec.nz, seed=self._seed, minibatch=self._minibatch)
        values = {f"diagonalness/{name}": float(value) for name, value in numbers.items()}
        return Result("diagonalness", values, self._settings("diagonalness"))
