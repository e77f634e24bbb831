"""The reverse chain in the denoiser's hidden space.

The chain is linear in x_t but for the network, and the network sees x_t only through u_t = x_t W_in. With an output
layer h W_out + b_out the update x_{t-1} = c1 x_0_hat + c2 x_t is u_{t-1} = c1 (h W_out W_in + b_out W_in) + c2 u_t:
the same loop with hidden-sized rows. Only the last step decodes to all items. Exact up to rounding; for T steps it does
one product over all items where the plain loop does 2 T.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffrec_jax.models.mlp import MLPDenoiser
from diffrec_jax.typing import Array, DenoiseFn, Params, RowKeys


class FoldedDenoiser(NamedTuple):
    """What the chain needs beside the parameters themselves, computed once per parameter set."""

    kernel: Array
    """W_out W_in, [H_out, H_in]."""
    bias: Array
    """b_out W_in, [H_in]."""
    noise_root: Array | None
    """R [H_in, H_in] with R^T R = W_in^T W_in: z R has the law of x W_in for white noise x. None without noise."""


def can_fold(model: MLPDenoiser) -> bool:
    """Whether the denoiser sees its input through a linear map only, and gives the output layer's output."""
    return not (model.normalize or model.residual)


def fold_denoiser(params: Params, *, with_noise: bool = False) -> FoldedDenoiser:
    """Folds the first and the last layer of an MLPDenoiser's parameters; ``with_noise`` for chains that draw noise."""
    input_kernel, output = params["params"]["input_kernel"], params["params"]["output_layer"]
    # Once per parameter set and used at every step: worth full precision where an accelerator's default is less.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    noise_root = None
    if with_noise:
        # An eigendecomposition rather than Cholesky: it stands when there are fewer items than hidden units.
        values, vectors = jnp.linalg.eigh(product(input_kernel.T, input_kernel))
        noise_root = jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T
    return FoldedDenoiser(
        kernel=product(output["table"].T, input_kernel),
        bias=product(output["bias"], input_kernel),
        noise_root=noise_root,
    )


def folded_denoise_fn(model: MLPDenoiser, params: Params, folded: FoldedDenoiser) -> DenoiseFn:
    """A DenoiseFn in the hidden space: u_t [B, H_in] -> x_0_hat W_in [B, H_in]."""

    def denoise_fn(u_t: Array, t: Array) -> Array:
        return model.apply(params, u_t, t, method="transform") @ folded.kernel + folded.bias[None]  # type: ignore[operator]

    return denoise_fn


def decoding_denoise_fn(model: MLPDenoiser, params: Params) -> DenoiseFn:
    """A DenoiseFn from the hidden space to the items, for the chain's last step: u_t [B, H_in] -> x_0_hat [B, D]."""

    def denoise_fn(u_t: Array, t: Array) -> Array:
        hidden = model.apply(params, u_t, t, method="transform")
        return model.apply(params, hidden, method="decode")  # type: ignore[return-value]

    return denoise_fn


def folded_noise(folded: FoldedDenoiser, row_keys: RowKeys, t: Array) -> Array:
    """x W_in for white noise x [B, D], drawn in the hidden space: exact in distribution, [B, H_in]."""
    if folded.noise_root is None:
        raise ValueError("the denoiser was folded without noise: call fold_denoiser(..., with_noise=True)")
    size = folded.noise_root.shape[0]
    z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), (size,)))(row_keys)
    return z @ folded.noise_root
