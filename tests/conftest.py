import os
from pathlib import Path

import jax
import pytest

# An operation that silently broadcasts [B] against [B, D] is an error in every test.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)  # for the tests of data parallelism; a no-op on other backends


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = os.environ.get("DIFFREC_DATA_DIR")
    if not folder:
        pytest.skip(
            "DIFFREC_DATA_DIR is not set: set it to the folder of the datasets (ml-1m_clean/train_list.npy, ...)"
        )
    return Path(folder)
