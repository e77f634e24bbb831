"""Checks of a config's values: each raises ValueError with the name of the value, its limits and what was given."""

import math


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless there is at least one layer size and all are positive."""
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} must be one or more positive layer sizes, got {list(sizes)}")


def check_rate(name: str, rate: float) -> None:
    """Raises ValueError unless rate is a dropout rate."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be in [0, 1), got {rate}")


def check_at_least(least: float, **values: float) -> None:
    """Raises ValueError unless every value is finite and at least ``least``."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least:g}, got {value}")


def check_above_zero(**values: float) -> None:
    """Raises ValueError unless every value is finite and above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, got {value}")
