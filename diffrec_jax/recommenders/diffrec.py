"""DiffRec: a diffusion over a user's whole interaction row. T-DiffRec is the same with rows weighted by recency.

Reference: arXiv:2304.04971, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.diffusion import (
    BERNOULLI,
    GAUSSIAN,
    ErrorFn,
    LossHistory,
    NoiseSchedule,
    Process,
    bernoulli_process,
    bernoulli_schedule,
    init_loss_history,
    mean_cross_entropy,
    mean_squared_error,
    x0_loss_of_error,
)
from diffrec_jax.models.decoded_errors import decoded_squared_error, gram_squared_error
from diffrec_jax.models.dropout import row_bernoulli, row_dropout
from diffrec_jax.models.folding import (
    FoldedDenoiser,
    can_fold,
    decoding_denoise_fn,
    fold_denoiser,
    folded_denoise_fn,
    folded_noise,
)
from diffrec_jax.models.likelihood import squared_error
from diffrec_jax.models.mlp import MLPDenoiser
from diffrec_jax.models.noise_sketch import buckets, draw_noise_sketch, project_noised
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import (
    DROPOUT_PLACE,
    NOISE_PLACE,
    DiffusionConfig,
    check_something_is_learnt,
    denoise,
    diffusion_terms,
    draw_timesteps,
    plain_denoise,
    row_normals,
    update_history,
    weigh_users,
)
from diffrec_jax.recommenders.linear_denoiser import FitLinear, LinearFactors
from diffrec_jax.rows import embed, fold_each, targets, to_dense, to_mask
from diffrec_jax.settings import setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

LossImpl = Literal["dense", "blocked", "gram"]
StationaryRate = Literal["popularity", "density", "zero"]


class RowLikelihood(NamedTuple):
    """How the network's output is compared with a row."""

    error_fn: ErrorFn
    mean_fn: Callable[[Array], Array]
    """Output -> the row expected."""


ROW_LIKELIHOODS = {
    "gaussian": RowLikelihood(mean_squared_error, lambda output: output),
    "bernoulli": RowLikelihood(mean_cross_entropy, jax.nn.sigmoid),
}


@dataclass(frozen=True)
class DiffRecConfig(DiffusionConfig):
    """Everything that defines a DiffRec but the data; the defaults are the released ones for Amazon-book clean."""

    folded: bool = setting(
        True,
        "Score in the hidden space where that is exact (about 10 times faster): x_0 prediction, gaussian likelihood, "
        f"rows that are not normalised, and Gaussian noise where any is drawn; never with noise_law {BERNOULLI}.",
    )
    likelihood: Literal["gaussian", "bernoulli"] = setting(
        "gaussian", "Likelihood of the row: gaussian, squared error; bernoulli, cross-entropy with a sigmoid output."
    )
    stationary_rate: StationaryRate = setting(
        "popularity",
        f"How often noise_law {BERNOULLI} draws a 1: popularity, the share of the users who have the item; density, "
        "the mean of these shares; zero, never (items only vanish).",
    )
    noise_sketch: int = setting(
        0,
        "Train with noise hashed from so many normals a user: less time, another distribution; 0: noise of its own on "
        "every item.",
        at_least=0,
    )
    loss_impl: LossImpl = setting(
        "dense",
        "How the squared error is computed, all exact. dense: a block of the batch's users and all items; blocked: "
        "loss_block_size items at a time, less memory and a third more products; gram: through the output layer's Gram "
        "matrix, no such block, and fastest where a device's share of the batch is far larger than the last layer.",
    )
    loss_block_size: int = setting(4096, "Items at a time with loss_impl=blocked.", at_least=1)
    unobserved_error_weight: float = setting(
        1.0,
        "Weight of the squared error at items that are not in the row; 0: learn only what is (ratings).",
        at_least=0,
    )
    linear_rank: int = setting(
        0,
        "Start from a fitted linear denoiser of this rank and learn what it leaves; 0: do not. The fit takes 44 bytes "
        "for each pair of items.",
        at_least=0,
    )

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_something_is_learnt(self.dropout, self.observed_error_weight)
        if self.is_lean and self.prediction_type != "x0":
            raise ValueError(
                "noise_sketch and loss_impl need x_0 prediction: a prediction of the noise needs the whole noise"
            )
        if self.is_lean and (self.linear_rank or self.weighs_errors):
            raise ValueError("linear_rank and (un)observed_error_weight need loss_impl dense, without noise_sketch")
        if self.linear_rank and (self.normalize or self.prediction_type != "x0"):
            raise ValueError("linear_rank needs x_0 prediction from rows that are not normalised: what it is fitted to")
        if self.weighs_errors and self.prediction_type != "x0":
            raise ValueError("(un)observed_error_weight needs x_0 prediction: the noise does not tell of single items")
        if self.noise_sketch and self.noise_law != GAUSSIAN:
            raise ValueError(f"noise_sketch draws Gaussian noise: leave it out, or noise_law {self.noise_law!r}")
        if self.noise_law == BERNOULLI and self.prediction_type != "x0":
            raise ValueError(f"noise_law {BERNOULLI} adds no noise that could be predicted: use x_0 prediction")
        if self.likelihood == "bernoulli" and (self.prediction_type != "x0" or self.is_lean or self.linear_rank):
            raise ValueError(
                "likelihood bernoulli needs x_0 prediction, loss_impl dense and no noise_sketch or linear_rank, whose "
                "outputs are compared by squared error"
            )
        if self.noise_sketch and self.normalize:
            raise ValueError("noise_sketch cannot be normalised: the length of a noised row is not known without it")

    @property
    def has_linear_part(self) -> bool:
        """Whether training starts from a fitted linear denoiser."""
        return self.linear_rank > 0

    @property
    def weighs_errors(self) -> bool:
        """Whether the squared errors of some items count more than others'."""
        return self.observed_error_weight != 1 or self.unobserved_error_weight != 1

    @property
    def is_lean(self) -> bool:
        """Whether training goes without some of the blocks of rows and items."""
        return bool(self.noise_sketch) or self.loss_impl != "dense"

    @property
    def needs_binary_rows(self) -> bool:
        """Whether rows with other values than 0 and 1 make no sense."""
        return self.noise_law == BERNOULLI or self.likelihood == "bernoulli"

    @property
    def is_foldable(self) -> bool:
        """Whether the chain is linear but for the network, and a sum of draws, where any are made, is of their law."""
        if self.noise_law == BERNOULLI or self.likelihood != "gaussian" or self.prediction_type != "x0":
            return False
        return self.noise_law == GAUSSIAN or not self.draws_inference_noise

    def make_schedule(self) -> NoiseSchedule:
        """The noise schedule, with the loss weights of the noise law."""
        schedule = super().make_schedule()
        return bernoulli_schedule(schedule) if self.noise_law == BERNOULLI else schedule

    def make_process(self, item_shares: np.ndarray | None = None) -> Process:
        """How rows are noised, and the reverse step; ``item_shares`` [I]: which share of the users have each item.

        Raises:
          ValueError: the stationary rate needs the shares, and there are none.
        """
        if self.noise_law != BERNOULLI:
            return super().make_process()
        if self.stationary_rate == "zero":
            return bernoulli_process(0.0)
        if item_shares is None:
            raise ValueError(f"stationary_rate {self.stationary_rate} needs item_shares: how many users have each item")
        return bernoulli_process(float(item_shares.mean()) if self.stationary_rate == "density" else item_shares[None])


def with_linear_part(model: MLPDenoiser, params: Params, factors: LinearFactors) -> Params:
    """Parameters whose R linear units are the factors, of one group of rank R, and whose MLP adds nothing yet."""
    own, (encoder,) = dict(params["params"]), factors.encoders
    width = model.layer_sizes[0]
    own["input_kernel"] = np.concatenate([np.asarray(own["input_kernel"])[:, :width], encoder], axis=1)
    from_mlp = np.zeros((model.width, model.layer_sizes[-1]), np.float32)
    own["output_layer"] = own["output_layer"] | {"table": np.concatenate([from_mlp, factors.decoder], axis=1)}
    return params | {"params": own}


def hold_linear_part(model: MLPDenoiser, params: Params) -> Params:
    """The parameters with no gradient to the linear units: they stay what they were fitted to."""
    own = dict(params["params"])
    first, last = model.layer_sizes[0], model.layer_sizes[-1]

    def held(table: Array, width: int) -> Array:
        return jnp.concatenate([table[:, :width], jax.lax.stop_gradient(table[:, width:])], axis=1)

    own["input_kernel"] = held(own["input_kernel"], first)
    own["output_layer"] = own["output_layer"] | {"table": held(own["output_layer"]["table"], last)}
    return params | {"params": own}


def lean_losses(
    config: DiffRecConfig,
    schedule: NoiseSchedule,
    process: Process,
    model: MLPDenoiser,
    params: Params,
    history: LossHistory,
    batch: RowBatch,
    row_keys: RowKeys,
    key: Key,
) -> tuple[Array, tuple[Array, Array]]:
    """The loss of each row [B] with fewer blocks [B, I]: none with a sketch and either form of the error.

    ``key`` is the step's: the sketch is shared by all rows.
    """
    t, importance_weight = draw_timesteps(config, history, row_keys)
    noise_keys, dropout_keys = (fold_each(row_keys, place) for place in (NOISE_PLACE, DROPOUT_PLACE))
    if config.noise_sketch:
        size = config.noise_sketch
        sketch = draw_noise_sketch(key, model.width, size)
        # Dropout is by bucket: what it takes from an item it takes from its noise.
        kept = row_dropout(dropout_keys, jnp.ones((len(t), size)), config.dropout)
        signal_scale = jnp.asarray(schedule.sqrt_alphas_cumprod)[t]
        noise_scale = jnp.asarray(schedule.sqrt_variances)[t]
        own_kept = kept[batch.rows, buckets(sketch, batch.item_ids, size)]
        signal = batch._replace(weights=batch.weights * signal_scale[batch.rows] * own_kept)
        z = noise_scale[:, None] * kept * row_normals(noise_keys, size)
        u_t = project_noised(params["params"]["input_kernel"], signal, z, sketch)
        hidden: Array = model.apply(params, u_t, t, method="transform")  # type: ignore[assignment]
    else:
        noise = config.draw_noise(process, noise_keys, model.width)
        x_t = process.q_sample(schedule, to_dense(batch, model.width), t, noise)
        hidden: Array = model.apply(params, x_t, t, dropout_keys, method="hidden")  # type: ignore[assignment]
    output = params["params"]["output_layer"]
    if config.loss_impl == "gram":
        errors: Array = gram_squared_error(hidden, output["table"], output["bias"], targets(batch))
    elif config.loss_impl == "blocked":
        given = hidden, output["table"], output["bias"], targets(batch)
        errors: Array = decoded_squared_error(*given, config.loss_block_size)  # type: ignore[assignment]
    else:
        errors = 2 * squared_error(model.apply(params, hidden, method="decode"), targets(batch))  # type: ignore[arg-type]
    losses = x0_loss_of_error(schedule, errors / model.width, t, reweight=config.reweight)
    return weigh_users(config.user_weight_power, losses * importance_weight, batch, model.width), (t, losses)


def make_diffrec(
    config: DiffRecConfig,
    num_items: int,
    fit_linear: FitLinear | None = None,
    item_shares: np.ndarray | None = None,
) -> Recommender:
    """The functions of a DiffRec over ``num_items`` items; ``fit_linear`` for one with a linear part.

    ``item_shares`` [I], the share of the users who have each item, for noise_law bernoulli. Where
    ``config.needs_binary_rows``, batches have to hold weights of 1 alone.

    Raises:
      ValueError: the noise sketch or the linear part is larger than the items, nothing fits the linear part, or the
        shares are missing.
    """
    if config.linear_rank and fit_linear is None:
        raise ValueError("linear_rank needs fit_linear: where the linear part comes from")
    for name, size in (("noise_sketch", config.noise_sketch), ("linear_rank", config.linear_rank)):
        if size > num_items:
            raise ValueError(f"{name} must be at most the {num_items} items, got {size}")
    schedule, process = config.make_schedule(), config.make_process(item_shares)
    model = config.make_denoiser(num_items, linear_units=config.linear_rank)
    likelihood = ROW_LIKELIHOODS[config.likelihood]
    fold = config.folded and config.is_foldable and can_fold(model)

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros((1, num_items)), jnp.zeros(1, jnp.int32))

    def warm_start(params: Params) -> Params:
        assert fit_linear is not None
        one_group = np.zeros(num_items, np.int32)
        fitted = fit_linear(one_group, (config.linear_rank,), config.linear_fit(config.dropout))
        return with_linear_part(model, params, fitted)

    def error_weights(batch: RowBatch, row_keys: RowKeys):
        if not config.weighs_errors:
            return None
        dropout_keys, observed = fold_each(row_keys, DROPOUT_PLACE), to_mask(batch, num_items)
        shown = observed & row_bernoulli(dropout_keys, 1.0 - config.dropout, num_items)
        of_others = jnp.where(observed, 1.0, config.unobserved_error_weight)
        return jnp.where(shown, config.observed_error_weight, of_others)

    def loss_fn(params: Params, history: LossHistory, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        if config.is_lean:
            return lean_losses(config, schedule, process, model, params, history, batch, row_keys, context.key)
        x_0 = to_dense(batch, num_items)
        target = None if batch.target_weights is None else to_dense(targets(batch), num_items)
        if config.has_linear_part:
            params = hold_linear_part(model, params)
        weights = error_weights(batch, row_keys)
        given = config, schedule, process, model, params, history, x_0, row_keys
        terms = diffusion_terms(*given, target=target, item_weights=weights, error_fn=likelihood.error_fn)
        return weigh_users(config.user_weight_power, terms.losses, batch, num_items), terms.info

    def prepare_scoring(params: Params) -> tuple[Params, FoldedDenoiser | None]:
        return params, fold_denoiser(params, with_noise=config.draws_inference_noise) if fold else None

    def score_fn(scoring_state: tuple[Params, FoldedDenoiser | None], batch: RowBatch, row_keys: RowKeys) -> Array:
        params, folded = scoring_state
        if folded is None:
            given = config, schedule, process, model, params, to_dense(batch, num_items), row_keys
            return plain_denoise(*given, mean_fn=likelihood.mean_fn)
        return denoise(
            config,
            schedule,
            process,
            folded_denoise_fn(model, params, folded),
            embed(batch, params["params"]["input_kernel"]),
            lambda t: folded_noise(folded, row_keys, t),
            final_denoise_fn=decoding_denoise_fn(model, params),
        )

    return Recommender(
        init_params=init_params,
        init_model_state=lambda: init_loss_history(config.num_timesteps),
        loss_fn=loss_fn,
        update_model_state=update_history,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
        warm_start=warm_start if config.has_linear_part else None,
        holds_params=config.has_linear_part,
    )
