"""FlowCF: a discrete flow from the popularity of the items to a user's row, learnt by its end point.

The network is DiffRec's, not the released one. Reference: arXiv:2502.07303.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.data.matrices import item_shares
from diffrec_jax.diffusion.flow import flow_sample, follow_flow
from diffrec_jax.models.likelihood import squared_error
from diffrec_jax.models.mlp import ACTIVATIONS, MLPDenoiser
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import DROPOUT_PLACE, NOISE_PLACE, TIMESTEP_PLACE, uniform_timesteps
from diffrec_jax.rows import fold_each, targets, to_dense
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

PRIOR_PLACE = NOISE_PLACE + 10**6  # of the keys that a row's key is folded with, beside the diffusions'


@dataclass(frozen=True)
class FlowCFConfig:
    """FlowCF; the steps, the width and the rate of the dropout are the released ones.

    The released network has a second hidden layer, and dropout before each layer.
    """

    needs_binary_rows: ClassVar[bool] = True
    """What it draws and follows is 0 or 1."""
    dims: tuple[int, ...] = setting((300,), "Hidden layer sizes of the way out, as of DiffRec.")
    num_timesteps: int = setting(9, "N, steps of the flow.", at_least=1, aliases=("steps",))
    num_steps_followed: int = setting(
        2, "S, steps followed at inference: the last ones, from the row itself.", at_least=1, aliases=("s_steps",)
    )
    time_embedding_size: int = setting(10, "Size of the timestep embedding.", at_least=1, aliases=("emb_size",))
    activation: str = setting("tanh", "Activation of the hidden layers.", choices=tuple(ACTIVATIONS))
    dropout: float = setting(0.1, "Rate of the dropout of the input.", at_least=0, below=1)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        if self.num_steps_followed > self.num_timesteps:
            raise ValueError(
                f"num_steps_followed must be at most num_timesteps {self.num_timesteps}, got {self.num_steps_followed}"
            )


def make_flowcf(config: FlowCFConfig, train: sparse.csr_array) -> Recommender:
    """The functions of a FlowCF over the items of a training split."""
    num_items, num_steps = train.shape[1], config.num_timesteps
    prior = item_shares(train)
    model = MLPDenoiser(
        width=num_items,
        dims=config.dims,
        time_embedding_size=config.time_embedding_size,
        activation=config.activation,
        dropout=config.dropout,
    )

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros((1, num_items)), jnp.zeros(1, jnp.int32))

    def uniform(row_keys: RowKeys, place: int) -> Array:
        return jax.vmap(lambda key: jax.random.uniform(key, (num_items,)))(fold_each(row_keys, place))

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state, context
        step = uniform_timesteps(fold_each(row_keys, TIMESTEP_PLACE), num_steps)
        drawn = (uniform(row_keys, PRIOR_PLACE) < prior[None]).astype(jnp.float32)
        x_t = flow_sample(to_dense(batch, num_items), drawn, step / num_steps, uniform(row_keys, NOISE_PLACE))
        x_hat: Array = model.apply(params, x_t, step, fold_each(row_keys, DROPOUT_PLACE))  # type: ignore[assignment]
        return squared_error(x_hat, targets(batch)), ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys

        def predict(x_t: Array, step: Array) -> Array:
            return model.apply(params, x_t, step)  # type: ignore[return-value]

        x = to_dense(batch, num_items)
        return follow_flow(predict, x, num_steps=num_steps, num_steps_followed=config.num_steps_followed)

    return Recommender(init_params=init_params, loss_fn=loss_fn, score_fn=score_fn)
