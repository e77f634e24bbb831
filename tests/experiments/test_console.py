"""What a run prints while it goes on."""

from io import StringIO

from rich.console import Console

from experiments.console import ConsoleProgress

EVALUATION = {"epoch": 5.0, "valid": {"recall@20": 0.125, "ndcg@20": 0.0625}}


def lines_of(*, loss: float | None) -> list[str]:
    printed = StringIO()
    progress = ConsoleProgress(Console(file=printed, width=140), "recall@20")
    if loss is not None:
        progress.epoch({"epoch": 5.0, "loss": loss})
    progress.evaluation(EVALUATION, improved=True)
    return printed.getvalue().splitlines()


def test_a_line_of_an_evaluation():
    (line,) = lines_of(loss=477.42)
    assert line.split("epoch")[1].split() == (
        ["5", "loss", "477.4", "valid", "recall@20", "0.1250", "ndcg@20", "0.0625", "best"]
    )


def test_a_resumed_run_that_first_evaluates_has_no_loss_to_show():
    (line,) = lines_of(loss=None)
    assert line.split("epoch")[1].split()[1:4] == ["loss", "-", "valid"]
