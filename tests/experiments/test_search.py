"""Which combinations a sweep tries."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.config import ConfigError
from experiments.search import Choices, Range, grid, parse_axes, parse_axis, search


def test_axes_are_values_or_ranges():
    assert parse_axis("dims=200,600|1000") == Choices("dims", ("200,600", "1000"))
    assert parse_axis("infer_recency=exp:5") == Choices("infer_recency", ("exp:5",))
    assert parse_axis("lr=1e-4..1e-2") == Range("lr", 1e-4, 1e-2, is_whole=False)
    assert parse_axis("num_layers=1..3") == Range("num_layers", 1, 3, is_whole=True)
    assert parse_axis("lr=1e-4..1e-2").is_logarithmic and not parse_axis("num_layers=1..3").is_logarithmic
    assert not parse_axis("w=-1..100").is_logarithmic


@pytest.mark.parametrize(
    "entry", ["", "lr", "lr=", "=1", "lr=1|", "lr=2..1", "lr=1..1", "lr=1..inf", "lr=a..b", "lr=1.."]
)
def test_what_is_no_axis_is_refused(entry):
    with pytest.raises(ConfigError, match="is not understood"):
        parse_axis(entry)


@given(st.text(max_size=20))
def test_any_text_is_an_axis_or_refused(entry):
    with contextlib.suppress(ConfigError):
        assert parse_axis(entry).name == entry.split("=")[0]


def test_a_grid_is_the_product_of_values():
    assert grid(parse_axes(["a=1|2", "b=x|y"])) == [{"a": a, "b": b} for a in "12" for b in "xy"]
    assert grid([]) == [{}]
    with pytest.raises(ConfigError, match="lr is a range: say with --trials"):
        grid(parse_axes(["lr=1..2"]))
    with pytest.raises(ConfigError, match="has a twice"):
        parse_axes(["a=1", "b=2", "a=3"])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1))
def test_a_value_that_is_written_stays_in_the_range_and_near(low, width, share):
    axis = Range("x", low, low + width, is_whole=False)
    value = low + share * width
    assert axis.low <= float(axis.written(value)) <= axis.high
    assert abs(float(axis.written(value)) - value) <= 0.02 * width + 1e-14 * abs(value)


def test_a_value_has_as_many_digits_as_its_range_needs():
    assert Range("lr", 1e-4, 1e-2, is_whole=False).written(0.00123456) == "0.00123"
    assert Range("ema_decay", 0.99, 0.9999, is_whole=False).written(0.9998976) == "0.9999"
    assert Range("ema_decay", 0.99, 0.9999, is_whole=False).written(0.9934567) == "0.99346"


AXES = parse_axes(["lr=1e-4..1", "kind=good|bad", "layers=1..4"])


def quality(combination):
    distance = (math.log10(float(combination["lr"])) + 2) ** 2 + (int(combination["layers"]) - 3) ** 2
    return (combination["kind"] == "good") - distance


def test_a_search_comes_near_the_best_and_goes_on_where_it_was():
    pytest.importorskip("optuna")
    tried = search(AXES, 40, quality)
    best = max(tried, key=quality)
    assert best["kind"] == "good" and best["layers"] == "3" and 10**-2.3 < float(best["lr"]) < 10**-1.7
    later, earlier = tried[20:], tried[:8]
    assert sum(map(quality, later)) / len(later) > sum(map(quality, earlier)) / len(earlier) + 1
    assert search(AXES, 12, quality) == tried[:12]


def test_a_search_goes_on_after_failures_and_needs_axes():
    pytest.importorskip("optuna")
    asked = []

    def measure(combination):
        asked.append(combination)
        return None if combination["kind"] == "bad" else quality(combination)

    tried = search(AXES, 20, measure)
    assert tried == asked and {one["kind"] for one in tried} == {"good", "bad"}
    few = search(parse_axes(["kind=good|bad"]), 10, lambda combination: float(combination["kind"] == "good"))
    assert sorted(one["kind"] for one in few) == ["bad", "good"]
    with pytest.raises(ConfigError, match="nothing to search"):
        search([], 3, measure)
