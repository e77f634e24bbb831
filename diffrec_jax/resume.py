"""Whether a run starts anew or resumes: one policy for ``fit`` and for the scripts.

A run resumes if its directory holds a run of the same configuration on the same data. Only the settings in
``MAY_DIFFER_ON_RESUME`` may differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrec_jax.config import LOCATION_KEYS, MAY_DIFFER_ON_RESUME, RunConfig, with_later_settings
from diffrec_jax.data import Dataset
from diffrec_jax.devices import wait_for_all
from diffrec_jax.training.run_directory import LOCATION, RunDirectory, differences


@dataclass(frozen=True)
class RunStart:
    """How a run starts in its directory, where nothing has been written yet."""

    run_directory: RunDirectory
    stored: dict[str, Any]
    """Contents of config.json."""
    resumes: bool
    results: dict[str, Any] | None = None
    """Those of the run, if it is finished and nothing more is asked for."""
    warnings: tuple[str, ...] = ()

    def write(self, item_groups: np.ndarray | None = None) -> None:
        """Writes the configuration, and the item groups of a model that has them; all processes call it."""
        wait_for_all("what was there is known")
        if self.resumes:
            self.run_directory.update_config(self.stored)
        else:
            self.run_directory.create(self.stored)
        if item_groups is not None:
            self.run_directory.write_item_groups(item_groups)
        wait_for_all("the run directory is made")

    def write_location(self) -> None:
        """Notes where the data are now; all else stays, the version that made the results too."""
        self.run_directory.update_config(self.run_directory.config() | {LOCATION: self.stored[LOCATION]})


def plan_start(config: RunConfig, dataset: Dataset, run_directory: RunDirectory, *, resume: bool) -> RunStart:
    """Looks at a run directory and says how the run starts; writes nothing.

    Args:
      config: asked for.
      dataset: asked for.
      run_directory: may be missing or empty.
      resume: whether to go on with a run that is there.

    Raises:
      RunDirectoryError: the directory holds a run and ``resume`` is false, a run of another configuration or data, or
        something that is no run.
    """
    stored = config.to_dict(dataset)
    if not (resume and run_directory.exists()):
        run_directory.check_unused()
        return RunStart(run_directory, stored, resumes=False)
    before = with_later_settings(run_directory.config())
    if run_directory.item_groups(dataset.num_items) is not None:  # the embeddings they were made of may be gone
        stored["item_embeddings_sha256"] = before["item_embeddings_sha256"]
    run_directory.check_config(before, stored, may_differ=MAY_DIFFER_ON_RESUME)
    is_same = not differences(before, stored, may_differ=("version", *LOCATION_KEYS))
    changed = before["version"] != stored["version"]
    warning = f"version {stored['version']} resumes a run of version {before['version']}"
    return RunStart(
        run_directory,
        stored,
        resumes=True,
        results=run_directory.results() if is_same else None,
        warnings=(warning,) if changed else (),
    )
