import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest
from absl.flags import FlagValues

from diffrec_jax.config import ConfigError, DataConfig, make_run_config, part_classes, with_settings
from diffrec_jax.recommenders import FittedRecommender
from diffrec_jax.registry import MODELS, register_model
from diffrec_jax.settings import check_settings, fields_of, seed_setting, setting
from experiments.flags import define_train_flags, settings_given
from experiments.runs import parse_train_flags

DATA = DataConfig("synthetic", "clean", None, {"seed": 0})


@dataclass(frozen=True)
class Example:
    rate: float = setting(0.5, "A rate.", at_least=0, below=1)
    count: int | None = setting(None, "A count.", at_least=1)
    kind: Literal["a", "b"] = setting("a", "A kind.")
    sizes: tuple[int, ...] = setting((3,), "Sizes.")
    none: tuple[int, ...] = setting((), "Sizes.", may_be_empty=True)
    l2: float = setting(1.0, "Above.", above=0)
    seed: int = seed_setting(1, "A seed.")
    made: str = setting(lambda: "made", "Text that is made.")

    def __post_init__(self):
        check_settings(self)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rate": 1.0}, r"rate must be in \[0, 1\), got 1.0"),
        ({"rate": float("nan")}, r"rate must be in \[0, 1\), got nan"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"kind": "c"}, "kind is 'c': choose one of a, b"),
        ({"sizes": ()}, r"sizes must be one or more positive whole numbers, got \[\]"),
        ({"none": (0,)}, "positive whole numbers"),
        ({"l2": float("inf")}, "l2 must be above 0, got inf"),
        ({"seed": 2**63}, r"seed must be between 0 and 2\^63 - 1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_named(value, message):
    assert Example().made == "made"
    with pytest.raises(ValueError, match=message):
        Example(**value)


def test_every_setting_of_every_model_has_help_and_one_meaning():
    """No two parts of a model's configuration share a name, so that a name alone says what is set."""
    for name, family in MODELS.items():
        seen = {}
        for part, config_class in part_classes(family).items():
            for field in fields_of(config_class).values():
                assert field.setting.help.endswith("."), f"{name}: {field.name}"
                assert field.name not in seen, f"{name}: {field.name} is in {part} and {seen[field.name]}"
                seen[field.name] = part


def test_every_setting_has_a_flag_of_its_name_and_the_released_names_still_work():
    values = FlagValues()
    define_train_flags(values)
    for family in MODELS.values():
        for config_class in part_classes(family).values():
            for field in fields_of(config_class).values():
                assert {field.name, *field.setting.aliases} <= set(values), field.name
    released = ["--steps=7", "--mean_type=x0", "--emb_size=8", "--norm", "--lr1=0.5", "--wd=0.1", "--lamda=0.2"]
    assert settings_given(parse_train_flags(released)) == {
        "num_timesteps": 7, "prediction_type": "x0", "time_embedding_size": 8, "normalize": True, "lr": 0.5,
        "weight_decay": 0.1, "diffusion_loss_weight": 0.2,
    }  # fmt: skip


def test_a_model_from_outside_has_flags_too():
    @dataclass(frozen=True)
    class Config:
        depth: int = setting(3, "How deep.", at_least=1)

    register_model("outside", Config, lambda config, context: FittedRecommender(None, None, None), is_trained=False)
    try:
        values = parse_train_flags(["--model=outside", "--depth=5"])
        assert settings_given(values) == {"depth": 5} and "outside: How deep." in values["depth"].help
        assert make_run_config("outside", DATA, depth=5).recommender == Config(5)
        with pytest.raises(ConfigError, match="depth must be at least 1, got 0"):
            make_run_config("outside", DATA, depth=0)
    finally:
        del MODELS["outside"]


def test_rows_of_ratings_go_with_what_can_hold_and_predict_them():
    config = make_run_config("diffrec", DATA, row_values="residuals", metric="rmse")
    assert config.predicts_ratings and config.recency.make().of_ratings
    assert not make_run_config("diffrec", DATA).predicts_ratings
    weighed = make_run_config("multivae", DATA, row_values="ratings")  # as weights: what it scores are no ratings
    assert weighed.recency.hold_ratings and not weighed.predicts_ratings
    assert make_run_config("biases", DATA).recency.row_values == "ratings"
    for model, settings, message in (
        ("multivae", {"row_values": "residuals"}, "for models that predict what rows hold .DiffRec, EASE"),
        ("multivae", {"row_values": "ratings", "metric": "rmse"}, "metric rmse needs predicted ratings"),
        ("diffrec", {"metric": "rmse"}, "metric rmse needs predicted ratings: set row_values to ratings or residuals"),
        ("diffrec", {"row_values": "stars"}, "row_values is 'stars': choose one of ones, ratings, residuals"),
        ("diffrec", {"row_values": "ratings", "infer_recency": "exp:5"}, "recency weights would change each other"),
        ("diffrec", {"row_values": "ratings", "target_recency": "none@0.5"}, "recency weights would change each other"),
        ("mf", {"row_values": "ratings"}, "MF has no setting row_values"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_run_config(model, DATA, **settings)


def test_settings_are_sorted_into_parts_and_checked():
    config = make_run_config(
        "l_diffrec", DATA, num_groups=3, lr=0.5, in_dims=(30,), ks=(3, 2, 3), infer_recency="exp:5"
    )
    assert (config.groups.num_groups, config.training.lr, config.recommender.in_dims) == (3, 0.5, (30,))
    assert (config.evaluation.ks, config.training.metric) == ((2, 3), "recall@3")
    assert config.recency.infer_recency == "exp:5"
    changed = with_settings(config, {"lr": 0.1})
    assert changed == dataclasses.replace(config, training=dataclasses.replace(config.training, lr=0.1))
    for wrong, message in (
        ({"depth": 3}, "L-DiffRec has no setting depth"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"metric": "recall@7"}, "metric 'recall@7' is not evaluated"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_settings(config, wrong)
        with pytest.raises(ConfigError, match=message):
            make_run_config("l_diffrec", DATA, **wrong)
