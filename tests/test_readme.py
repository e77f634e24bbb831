"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, capsys):
    names = {}
    exec(compile(example, str(README), "exec"), names)
    output = capsys.readouterr().out
    if "p_sample_loop" not in example:  # the whole job
        assert re.search(r"test recall@10: 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", output)
        assert len(names["lists"].lists()["u7"]) == len(names["new"].lists()["somebody new"]) == 5
        return
    # The example's own line: the shape of the scores and their error, far below that of scoring 0 everywhere.
    shape, error = re.fullmatch(r"(\(\d+, \d+\)) (\d\.\d+)\n", output).groups()
    assert shape == str(names["x_0"].shape)
    assert 0 < float(error) < 0.2 * float(np.mean(np.square(names["x_0"])))


def test_there_is_an_example_of_the_pure_functions():
    assert any("p_sample_loop" in example and "q_sample" in example for example in EXAMPLES)
