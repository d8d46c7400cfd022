"""The studies: what is trained, fixed before it is. (Those of releasing follow from what the first one showed.)"""

import dataclasses

# Weight of the Hessian Penalty in unbiased units (the published 0.025 for CLEVR-1FOV), on every layer, reduction max.
HP_LAMBDA = 0.0125


@dataclasses.dataclass(frozen=True)
class Study:
    """Models of one dataset at one resolution that differ in nothing but their losses and seeds.

    flags      of train.py, for all models
    families   of models, as the published names have them: bl (vanilla), info (InfoGAN), fs (with the Hessian Penalty
               from scratch), ft (fine-tuned with it); and rel (released: from scratch, then without it)
    kimg       thousands of real images that every model has seen at the end
    starts     {family: (family, kimg)} of a model that begins as another one at that kimg
    ramp_kimg  over which the penalty's weight rises from 0
    render     flags of dataset_tool.py render_clevr that make the dataset; none: it ships with the project
    factors    true factors of the dataset: components that InfoGAN regresses
    """

    dataset: str
    resolution: int
    factors: int
    families: tuple
    seeds: tuple
    kimg: int
    starts: dict
    ramp_kimg: int
    flags: tuple
    render: tuple = ()

    def train_flags(self, family, seed):
        """Return the flags of train.py for one model; those of `starts` need --resume_snapshot besides."""
        flags = ["--dataset", self.dataset, "--resolution", str(self.resolution), *self.flags]
        flags += ["--seed", str(seed), "--num_threads", "1", "--num_gpus", "0", "--total_kimg", str(self.kimg)]
        flags += ["--tick_kimg", "10", "--snapshot_kimg", "50", "--compute_interp_ticks", "0", "--keep_states", "2"]
        if family in ("fs", "ft"):
            return [*flags, "--hp_lambda", str(HP_LAMBDA), "--warmup_kimg", str(self.ramp_kimg)]
        if family == "info":
            return [*flags, "--hp_lambda", "0", "--infogan_lambda", "1", "--infogan_nz", str(self.factors)]
        return [*flags, "--hp_lambda", "0"]


STATIC_16 = ("--initial_resolution", "16", "--fmap_base", "64", "--minibatch", "16")
GROWN_32 = (*STATIC_16, "--stage_kimg", "50", "--fade_kimg", "30")
ALL = ("bl", "info", "fs", "ft", "rel")
STARTS = {"ft": ("bl", 100), "rel": ("fs", 200)}

CUBES_16 = Study(
    dataset="clevr_1fov_32",
    resolution=16,
    factors=1,
    families=ALL,
    seeds=(1, 2, 3),
    kimg=250,
    starts=STARTS,
    ramp_kimg=100,
    flags=STATIC_16,
)
OBJECTS = ("--variant", "simple", "--images", "6000", "--resolution", "32", "--seed", "0")
RELEASES = dataclasses.replace(CUBES_16, families=("bl", "fs", "rel"))

STUDIES = {
    "clevr_1fov_16": CUBES_16,
    "clevr_simple_16": dataclasses.replace(CUBES_16, dataset="clevr_simple_32", render=OBJECTS, factors=4),
    "clevr_1fov_32": dataclasses.replace(
        CUBES_16, resolution=32, families=("bl", "fs"), seeds=(1, 2), kimg=200, starts={}, flags=GROWN_32
    ),
    # What becomes of the images, and of the disentanglement, when the penalty is taken away half-way...
    "clevr_1fov_16_release": dataclasses.replace(RELEASES, seeds=(1, 2), kimg=500, starts={"rel": ("fs", 250)}),
    # ... and when it is taken away once a single component is in use.
    "clevr_1fov_16_release_late": dataclasses.replace(RELEASES, seeds=(1,), kimg=650, starts={"rel": ("fs", 500)}),
}
