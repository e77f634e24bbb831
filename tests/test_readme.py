"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, capsys):
    exec(compile(example, str(README), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_there_is_an_example_of_the_pure_functions():
    assert any("p_sample_loop" in example and "q_sample" in example for example in EXAMPLES)
