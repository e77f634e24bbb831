"""How a model is trained: the settings, and the optimizer that they make."""

from dataclasses import dataclass

import optax

from diffrec_jax.data.batching import steps_per_epoch
from diffrec_jax.evaluation.metrics import METRICS
from diffrec_jax.evaluation.rating_errors import RATING_METRICS
from diffrec_jax.prng import default_prng_impl, make_key
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.training.step import ComputeDtype, OnNonfinite
from diffrec_jax.typing import Key


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; epochs are passes over all users.

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    lr: float = setting(
        1e-4, "Learning rate of AdamW; of a latent model, of its autoencoder.", above=0, aliases=("lr1",)
    )
    denoiser_lr: float | None = setting(
        None, "Learning rate of a latent model's denoiser (default: lr).", above=0, aliases=("lr2",)
    )
    lr_decay_epochs: int = setting(
        0,
        "Learning rates fall to 0 over so many epochs, as half a cosine does, and stay there; 0: they do not fall.",
        at_least=0,
        newer=True,
    )
    weight_decay: float = setting(0.0, "Decoupled weight decay.", at_least=0, aliases=("wd",))
    ema_decay: float = setting(
        0.0,
        "Score with an exponential moving average of the parameters, of this decay a step; 0: with the parameters.",
        at_least=0,
        below=1,
    )
    batch_size: int = setting(400, "Users a step, over all devices.", at_least=1)
    accumulate_steps: int = setting(
        1, "Parts of a batch whose gradients are added one after the other: the same step in less memory.", at_least=1
    )
    steps_at_once: int = setting(
        1,
        "Steps that are given to the device together: the same run, and less waiting for the host where a step takes "
        "milliseconds.",
        at_least=1,
    )
    compute_dtype: ComputeDtype = setting(
        "float32",
        "What the factors of products are rounded to, on GPU and TPU; parameters and losses stay float32.",
    )
    epochs: int = setting(1000, "At most so many passes over the users.", at_least=1)
    max_steps: int = setting(0, "End after so many steps if that comes first; 0: no limit.", at_least=0)
    eval_every: int = setting(5, "Epochs between evaluations; each is followed by a checkpoint.", at_least=1)
    checkpoint_every_steps: int = setting(0, "Further checkpoints every so many steps; 0: none.", at_least=0)
    keep_newest: int = setting(2, "Newest checkpoints that are kept.", at_least=1)
    keep_best: int = setting(1, "Checkpoints with the best validation metric that are kept beside them.", at_least=1)
    on_nonfinite: OnNonfinite = setting(
        "abort",
        "What a loss that is NaN or infinite does: abort ends the run; skip leaves out the step, also where gradients "
        "are not finite.",
    )
    nonfinite_limit: int = setting(10, "With skip: the run ends when more steps than these were left out.", at_least=0)
    patience: int = setting(20, "Stop after so many epochs without a new best; 0: never.", at_least=0)
    metric: str = setting(
        "recall@20",
        f"Validation metric to select by: {', '.join(METRICS)} @K (default: recall at 20, or at the largest K of ks); "
        f"{' or '.join(RATING_METRICS)}, the least, where ratings are predicted.",
    )
    seed: int = seed_setting(1, "Seed of everything that is drawn.")
    prng_impl: str = setting(
        default_prng_impl,
        "Generator of random bits: threefry2x32, threefry4x32 or rbg (default: what compiles and draws fast on the JAX "
        "in use; a resumed run keeps its own).",
    )

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)

    def check_compiles(self) -> None:
        """Raises ValueError for what no training should begin with: JAX would compile it for over ten minutes."""
        if self.prng_impl == "threefry4x32" and max(self.accumulate_steps, self.steps_at_once) > 1:
            raise ValueError(
                "accumulate_steps and steps_at_once above 1 take JAX 0.10 over ten minutes to compile with its default "
                "generator, threefry4x32: set prng_impl to threefry2x32"
            )

    def make_key(self) -> Key:
        """The root of every random draw of the run."""
        return make_key(self.seed, self.prng_impl)

    def total_steps(self, num_users: int) -> int:
        """Steps of a whole run."""
        limit = self.epochs * steps_per_epoch(num_users, self.batch_size)
        return min(limit, self.max_steps) if self.max_steps else limit

    def make_optimizer(
        self,
        denoiser_params: str | None = None,
        *,
        num_users: int = 1,
        held_params: str | None = None,
        holds_params: bool = False,
    ) -> optax.GradientTransformation:
        """AdamW; two of them where the parameters under the key ``denoiser_params`` have a rate of their own.

        What is under the key ``held_params`` stays as it is. An epoch is of ``num_users`` users, which matters with
        ``lr_decay_epochs`` alone.

        Raises:
          ValueError: weight decay for a recommender that ``holds_params``.
        """
        if holds_params and self.weight_decay:
            raise ValueError("weight_decay would shrink the fitted linear part, which is held: leave one of them out")

        def adamw(lr: float) -> optax.GradientTransformation:
            steps = self.lr_decay_epochs * steps_per_epoch(num_users, self.batch_size)
            return optax.adamw(optax.cosine_decay_schedule(lr, steps) if steps else lr, weight_decay=self.weight_decay)

        main = adamw(self.lr)
        others: dict[str, optax.GradientTransformation] = {}
        if denoiser_params is not None and self.denoiser_lr is not None:
            others[denoiser_params] = adamw(self.denoiser_lr)
        if held_params is not None:
            others[held_params] = optax.set_to_zero()
        if not others:
            return main
        # The labels decide the layout of checkpoints: "denoiser" is what they have had from the start.
        names = {key: "denoiser" if key == denoiser_params else key for key in others}
        return optax.multi_transform(
            {"main": main, **{names[key]: transform for key, transform in others.items()}},
            lambda params: {key: names.get(key, "main") for key in params},
        )
