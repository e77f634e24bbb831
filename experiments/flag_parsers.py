"""What a flag's text means, where absl has no parser of it."""

import os
import re
from typing import Any

from absl import flags

from diffrec_jax.seeds import MAX_SEED


class IntListParser(flags.ArgumentParser):
    """Integers as ``200,600`` or ``[200,600]``; never evaluated as code."""

    syntactic_help = "integers such as 200,600 or [200,600]"

    def __init__(self, *, may_be_empty: bool = False, least: int = 1):
        super().__init__()
        self.may_be_empty, self.least = may_be_empty, least

    def parse(self, argument: Any) -> tuple[int, ...]:
        """Raises ValueError, which absl shows, for anything but integers in range."""
        if isinstance(argument, list | tuple):
            return tuple(argument)
        text = re.sub(r"^\[(.*)\]$", r"\1", argument.strip())
        if self.may_be_empty and not text.strip():
            return ()
        numbers = [int(part) for part in text.split(",")] if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text) else []
        if not numbers or not self.least <= min(numbers) <= max(numbers) <= MAX_SEED:
            kind = "positive integers" if self.least else "integers from 0 to 2^63 - 1"
            raise ValueError(f"{argument!r} is no list of {kind}: write them as 200,600 or [200,600]")
        return tuple(numbers)

    def flag_type(self) -> str:
        """Shown by --help."""
        return "integers"


class IntListSerializer(flags.ArgumentSerializer):
    """The inverse of IntListParser."""

    def serialize(self, value: Any) -> str:
        """``(200, 600)`` as ``200,600``."""
        return ",".join(map(str, value))


class PathParser(flags.ArgumentParser):
    """A path; ~ is the user's home directory, as in a shell."""

    def parse(self, argument: Any) -> str:
        """The path with ~ expanded."""
        return os.path.expanduser(argument)  # noqa: PTH111 (a Path would change what is no path: ml-1m/)

    def flag_type(self) -> str:
        """Shown by --help."""
        return "path"


class ResumeParser(flags.ArgumentParser):
    """auto, must or never; --resume alone is auto, --noresume never."""

    def parse(self, argument: Any) -> str:
        """Raises ValueError, which absl shows, for anything else."""
        known = {"true": "auto", "false": "never"} | {name: name for name in ("auto", "must", "never")}
        if argument not in known:
            raise ValueError(f"{argument!r} is none of auto, must, never")
        return known[argument]

    def flag_type(self) -> str:
        """Shown by --help."""
        return "auto|must|never"
