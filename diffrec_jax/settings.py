"""Settings of a configuration: default, help, range and other names of each field, written once.

The checks of a configuration, the flags of the scripts and the reference of the docs are all made from them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diffrec_jax.seeds import MAX_SEED

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """What is known of a field beside its type and default."""

    help: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    """Of a text; of a Literal, its own."""
    may_be_empty: bool = False
    """Of a tuple."""
    aliases: tuple[str, ...] = ()
    """Names of the released scripts for the same thing."""
    is_path: bool = False
    older: Any = None
    """What configurations meant that are older than the setting; None: its default."""
    newer: bool = False
    """Whether results are kept that are older than the setting: a run of that value is known by what it was before."""

    def range_text(self) -> str:
        """The range in words; empty without one."""
        if self.at_most == MAX_SEED:
            return "between 0 and 2^63 - 1"
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least:g} and {self.at_most:g}"
        if self.at_least is not None and self.below is not None:
            return f"in [{self.at_least:g}, {self.below:g})"
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.above is None else f"above {self.above:g}"

    def holds(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and -math.inf < value < math.inf
        )


def setting(default: Any, help: str, **known: Any) -> Any:
    """A dataclass field with a default, and what ``Setting`` holds; a callable default is called for each object."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return dataclasses.field(**made, metadata={_KEY: Setting(help, **known)})  # type: ignore[call-overload]


def seed_setting(default: int, help: str) -> Any:
    """A seed: any whole number in [0, 2^63)."""
    return setting(default, help, at_least=0, at_most=MAX_SEED)


@dataclass(frozen=True)
class Field:
    """A field of a configuration."""

    name: str
    kind: type
    """bool, int, float, str, or tuple (of ints)."""
    default: Any
    setting: Setting
    optional: bool
    """Whether None means a default that other fields decide."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a text that may take only some."""
        return self.setting.choices

    @property
    def before(self) -> Any:
        """What configurations meant that are older than it; MISSING where it has no default."""
        return self.default if self.setting.older is None else self.setting.older


def _kind(annotation: Any) -> tuple[type, tuple[str, ...], bool]:
    """Type, choices, and whether None is allowed."""
    optional = False
    if get_origin(annotation) in (Union, UnionType):
        optional = NoneType in get_args(annotation)
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal:
        return str, get_args(annotation), optional
    return get_origin(annotation) or annotation, (), optional


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


@functools.cache
def fields_of(config_class: type) -> Mapping[str, Field]:
    """The fields of a configuration by name. One without a ``setting`` (of a class from outside) has no help."""
    hints, found = get_type_hints(config_class), {}
    for field in dataclasses.fields(config_class):
        kind, choices, optional = _kind(hints[field.name])
        known = field.metadata.get(_KEY, Setting(""))
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default  # type: ignore[misc]
        known = dataclasses.replace(known, choices=known.choices or choices)
        found[field.name] = Field(field.name, kind, default, known, optional)
    return MappingProxyType(found)


def check_settings(config: Any) -> None:
    """Raises ValueError for the first value of a configuration that is none of its choices or out of its range."""
    for field in fields_of(type(config)).values():
        value = getattr(config, field.name)
        if value is not None or not field.optional:
            _check(field, value)


KINDS = {
    bool: ("true or false", (bool,)), int: ("a whole number", (Integral,)), float: ("a number", (Real,)),
    str: ("a text", (str,)), tuple: ("a list of whole numbers", (tuple, list)),
}  # fmt: skip
"""How types are called, and what counts as one; a truth value is no number."""


def _is_kind(value: Any, kind: type) -> bool:
    return isinstance(value, KINDS[kind][1]) and not (isinstance(value, bool) and kind in (int, float))


def _check(field: Field, value: Any) -> None:
    name, known = field.name, field.setting
    if known.choices:
        check_choice(name, value, known.choices)
    if field.kind in KINDS and not _is_kind(value, field.kind):
        raise ValueError(f"{name} must be {KINDS[field.kind][0]}, got {value!r}")
    if field.kind is tuple:
        if not all(isinstance(size, int) and size >= 1 for size in value) or not (value or known.may_be_empty):
            raise ValueError(f"{name} must be one or more positive whole numbers, got {list(value)}")
    elif known.range_text() and not known.holds(value):
        raise ValueError(f"{name} must be {known.range_text()}, got {value}")
