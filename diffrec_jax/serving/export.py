"""A model as one file that recommends without this package: StableHLO by ``jax.export``, or ONNX by jax2onnx.

The file holds a function of histories, items [B, L] int32: each row a user's items by number, oldest first, -1 behind
them. It gives the k best items [B, k] int32, best first, -1 where no unseen item is left, and their scores [B, k]
float32. L is fixed; B is whatever comes in StableHLO, and fixed in ONNX. A JSON file beside it, its name and .json, has
L, k and the original id of every item number.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.config import ConfigError
from diffrec_jax.data.batching import CAPACITY_UNIT, RowBatch
from diffrec_jax.data.recency import Recency
from diffrec_jax.files import atomic_file, write_atomically
from diffrec_jax.rows import mask_scores, row_keys
from diffrec_jax.serving.model import Model
from diffrec_jax.serving.recommend import check_new_users
from diffrec_jax.typing import Array
from diffrec_jax.version import __version__

Serve = Callable[[Array], tuple[Array, Array]]
FIXED_BATCH = 1
"""Of an ONNX file, where none is asked for."""
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def recency_weights(recency: Recency, items: Array, num_items: int) -> Array:
    """``Recency.weights`` of histories [B, L] within a compiled function, [B, L]; 0 at what is no item."""
    stored = items < num_items
    length = jnp.ceil(recency.share * jnp.sum(stored, axis=1, keepdims=True) - 1e-9)
    place = jnp.cumsum(stored, axis=1) - 1.0
    return jnp.where(stored, recency.at_places(place, length, jnp), 0.0)


def serving_function(model: Model, k: int, *, exclude_seen: bool = True) -> Serve:
    """The function of histories [B, L] that a file holds."""
    if model.config.recency.make().infer.kind == "days":
        raise ConfigError(
            "an exported file reads items without their times, and this model weighs them by days: set "
            "infer_recency to linear or exp"
        )
    if model.config.recency.hold_ratings:
        raise ConfigError("an exported file reads items without their ratings, and this model's rows hold ratings")
    num_items = model.dataset.num_items
    functions = model.functions
    state = jax.tree.map(jnp.asarray, jax.device_get(model.scoring_state))
    score_fn = functions.score_new_fn or functions.score_fn
    recency, draw = model.config.recency.make().infer, model.config.make_key

    def recommend(items: Array) -> tuple[Array, Array]:
        # With an empty row at the end: two rows are scored sooner than one (``LEAST_ROWS``).
        items = jnp.concatenate([jnp.where(items < 0, num_items, items), jnp.full_like(items[:1], num_items)])
        batch = RowBatch(
            user_ids=jnp.zeros_like(items[:, 0]),
            row_mask=jnp.ones_like(items[:, 0], bool),
            rows=jax.lax.broadcasted_iota(jnp.int32, items.shape, 0).reshape(-1),
            item_ids=items.reshape(-1),
            weights=recency_weights(recency, items, num_items).reshape(-1),
        )
        scores = score_fn(state, batch, row_keys(draw(), batch))
        masked = mask_scores(scores, batch) if exclude_seen else scores
        values, best = jax.lax.top_k(masked, k)
        return jnp.where(values > -jnp.inf, best, -1)[:-1], values[:-1]

    return recommend


def _stablehlo(serve: Serve, length: int, batch_size: int | None, platforms: Sequence[str] | None) -> bytes:
    from jax import export

    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("StableHLO needs flatbuffers: pip install 'diffrec-jax[export]'")
    size = batch_size or export.symbolic_shape("batch")[0]
    histories = jax.ShapeDtypeStruct((size, length), jnp.int32)
    return bytes(export.export(jax.jit(serve), platforms=platforms)(histories).serialize())


def _onnx(serve: Serve, length: int, batch_size: int | None, platforms: Sequence[str] | None) -> bytes:
    del platforms  # ONNX runs anywhere
    try:
        import jax2onnx
    except ImportError as error:
        raise ConfigError("ONNX needs jax2onnx: pip install 'diffrec-jax[onnx]', in a separate environment") from error
    histories = jax.ShapeDtypeStruct((batch_size or FIXED_BATCH, length), jnp.int32)
    try:
        return jax2onnx.to_onnx(serve, inputs=[histories], model_name="recommend").SerializeToString()  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(
            f"jax2onnx {jax2onnx.__version__} cannot convert this model with JAX {jax.__version__} ({error}): install "
            "'diffrec-jax[onnx]' in a separate environment, or export to .stablehlo"
        ) from error


WRITERS = {".stablehlo": _stablehlo, ".onnx": _onnx}


def description_of(path: Path) -> Path:
    """Where the description of an exported file is: under a name that no other file of a model or a run has."""
    return path.with_name(f"{path.name}.json")


def export(
    model: Model,
    path: str | Path,
    *,
    k: int = 20,
    max_history: int | None = None,
    exclude_seen: bool = True,
    batch_size: int | None = None,
    platforms: Sequence[str] | None = None,
) -> None:
    """Writes a model as one file that recommends without this package, and its description beside it.

    Args:
      model: what recommends. Users are recommended to by their items, as by ``recommend(histories=...)``; each of
        weight 1.
      path: of the file; its ending says how: .stablehlo (read by ``jax.export.deserialize``) or .onnx. The description
        is in the same folder, ``description_of(path)``.
      k: length of the lists.
      max_history: L, items of a history; by default the longest training row. Rounded up to a multiple of 256. Of a
        longer history give the newest L items.
      exclude_seen: leaves out what a history holds.
      batch_size: fixed B; by default any B in StableHLO and 1 in ONNX.
      platforms: where StableHLO will run: cpu, cuda, rocm, tpu; by default where this process runs.

    Raises:
      ConfigError: another ending, k, L, B or a platform is out of range, the model has nothing for new users, jax2onnx
        is missing or cannot convert it.
      OSError: it cannot be written; nothing is left of it.
    """
    path = Path(path).expanduser()
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path} ends with {path.suffix!r}: choose one of {', '.join(WRITERS)}")
    check_new_users(model)
    longest = int(np.diff(model.dataset.train.indptr).max(initial=1)) if max_history is None else max_history
    if not 1 <= k <= model.dataset.num_items or longest < 1:
        raise ConfigError(
            f"k has to be between 1 and {model.dataset.num_items}, max_history at least 1: got {k}, {longest}"
        )
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size has to be at least 1, got {batch_size}: leave it out for any")
    chosen = [platforms] if isinstance(platforms, str) else platforms or None
    for name in chosen or ():
        if name not in PLATFORMS:
            raise ConfigError(f"platform {name!r} is unknown: choose of {', '.join(PLATFORMS)}")
    length = -(-longest // CAPACITY_UNIT) * CAPACITY_UNIT
    with model.precision():
        serve = serving_function(model, k, exclude_seen=exclude_seen)
        content = WRITERS[path.suffix](serve, length, batch_size, chosen)
    description = {
        "k": k,
        "max_history": length,
        "batch_size": batch_size or (FIXED_BATCH if path.suffix == ".onnx" else None),
        "model": model.config.model,
        "version": __version__,
        "items": model.dataset.original_item_ids.tolist(),
    }
    with atomic_file(path) as file:
        file.write(content)
    write_atomically(description_of(path), json.dumps(description) + "\n")
