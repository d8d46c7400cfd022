"""What was computed from a dataset, kept beside it: DATASET/metrics_cache/KIND-KEY.safetensors."""

import hashlib
import json
import os

from experiment_utils.download import file_sha256


class DatasetCache:
    """Files whose names are a function of the dataset's content at a resolution, and of settings.

    note   called with a line for the user where something cannot be kept
    """

    def __init__(self, dataset, resolution, note=print):
        self._dataset, self._resolution, self._note = dataset, resolution, note
        self._digests = None

    def path(self, kind, settings, with_factors=False):
        """Return the path of a kind of file, for settings (a JSON value)."""
        if self._digests is None:
            prefix = os.path.join(self._dataset.path, self._dataset.name)
            images = self._dataset.level_path(self._resolution)
            files = [images, prefix + "-factors.npy", prefix + "-factors.json"]
            self._digests = [file_sha256(path) if os.path.exists(path) else None for path in files]
        content = self._digests if with_factors else self._digests[:1]
        key = json.dumps([content, self._resolution, settings], sort_keys=True)
        name = f"{kind}-{self._resolution}px-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        return os.path.join(self._dataset.path, "metrics_cache", name)

    def keep(self, path, save):
        """Call save(path), which writes atomically; where the disk refuses, say so and go on."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            save(path)
        except OSError as problem:
            self._note(f"note: {path} cannot be written ({problem.strerror}), so it is computed again every time")
