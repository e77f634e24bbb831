import os
from pathlib import Path

# Most of the tests' time is compilation, of the same few programs: by either worker and by every script they start.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# Comparisons with float64 are meant for whole float32 products, which an accelerator does not make by itself.
PRECISION = "highest"
# Optimising them takes longer than it saves on small arrays; the run on real data is compiled as usual.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": PRECISION,  # of the processes that tests start
}

import jax  # noqa: E402
import pytest  # noqa: E402

# An operation that silently broadcasts [B] against [B, D] is an error in every test.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Said again to this process: a plugin of pytest may have imported JAX before the variable was set.
jax.config.update("jax_default_matmul_precision", PRECISION)
jax.config.update("jax_num_cpu_devices", 4)  # for the tests of data parallelism; a no-op on other backends


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = os.environ.get("DIFFREC_DATA_DIR")
    if not folder:
        pytest.skip(
            "DIFFREC_DATA_DIR is not set: set it to the folder of the datasets (ml-1m_clean/train_list.npy, ...)"
        )
    return Path(folder)


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """Every compiled program holds memory mappings, and a process may have 65,530: thousands of them ended it."""
    yield
    jax.clear_caches()
