"""Writes the best items of users, of a run or of a saved model, to a Parquet, CSV or JSON lines file.

  python -m experiments.recommend --run_dir=runs/NAME --out=lists.parquet --k=20
  python -m experiments.recommend --saved=model --users=users.txt --out=lists.csv
  python -m experiments.recommend --saved=model --histories=new_users.txt --out=lists.jsonl

--users=all (the default) are the users of the training data; a file has an id a line. A line of --histories is a user,
known or not, and its items, oldest first, with spaces between.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffrec_jax.api import Model
from diffrec_jax.config import ConfigError
from diffrec_jax.serving.lists import write_recommendations

from . import flags
from .cli import start
from .console import make_console
from .flags import FLAGS
from .source import load_source


def read_lines(path: str) -> dict[int, list[str]]:
    """The words of each line of a text file that has any, by the line's number from 1.

    Raises:
      ConfigError: it is no text.
    """
    lines = Path(path).read_bytes().splitlines()
    try:
        return {number: words for number, line in enumerate(lines, 1) if (words := line.decode().split())}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error}): save it as such") from None


def as_known(ids: Iterable[str], numbers: dict[Any, int], where: str) -> list[Any]:
    """Ids as the model has them: as integers, where its ids are.

    Raises:
      ConfigError: one is no integer then.
    """
    if not isinstance(next(iter(numbers)), int):
        return list(ids)
    try:
        return [int(value) for value in ids]
    except ValueError as error:
        raise ConfigError(f"{where} holds what is no integer ({error}), and the model's ids are integers") from None


def read_users(model: Model, path: str) -> list[Any]:
    """The users of a file with an id a line.

    Raises:
      ConfigError: a line has several, or there is none.
    """
    lines = read_lines(path)
    several = next((number for number, words in lines.items() if len(words) > 1), None)
    if several or not lines:
        raise ConfigError(
            f"--users={path} has to have an id a line: {f'line {several} has more' if several else 'it is empty'}"
        )
    return as_known([words[0] for words in lines.values()], model.numbers["user"], f"--users={path}")


def read_histories(model: Model, path: str) -> dict[str, list[Any]]:
    """The items of each user of a file: a line is a user and its items.

    Raises:
      ConfigError: a user has two lines.
    """
    histories: dict[str, list[Any]] = {}
    for number, (user, *items) in read_lines(path).items():
        if user in histories:
            raise ConfigError(f"--histories={path} has user {user} twice, the second time in line {number}")
        histories[user] = as_known(items, model.numbers["item"], f"line {number} of --histories={path}")
    return histories


def main() -> None:
    """Flags to a file."""
    if FLAGS.histories and FLAGS.users != "all":
        raise ConfigError("--users and --histories are two ways to say who: give one")
    console, started = make_console(), time.perf_counter()
    model = load_source(console)
    who: dict[str, Any] = {}
    if FLAGS.histories:
        who = {"histories": read_histories(model, FLAGS.histories)}
    elif FLAGS.users != "all":
        who = {"users": read_users(model, FLAGS.users)}
    count = write_recommendations(
        FLAGS.out,
        model,
        **who,
        k=FLAGS.k,
        exclude_seen=FLAGS.exclude_seen,
        min_score=FLAGS.min_score,
        batch_size=FLAGS.batch_size,
    )
    seconds = time.perf_counter() - started
    console.print(
        f"{FLAGS.k} items for each of {count:,} users by {model.family.title} in {FLAGS.out}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    flags.define_recommend_flags()
    start(main, __doc__ or "")
