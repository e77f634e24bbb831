"""Writes a trained model as one file that recommends without this package: StableHLO or ONNX.

  python -m experiments.export --run_dir=runs/NAME --out=model.stablehlo --k=20
  python -m experiments.export --saved=model --out=model.onnx --batch_size=256

The file maps histories, item numbers [B, L] with -1 behind them, to the k best items and their scores;
model.stablehlo.json beside it has L, k and each item number's id. docs/how-to/serving.md reads them in a few lines.
"""

from pathlib import Path

from diffrec_jax.serving.export import description_of, export

from . import flags
from .cli import start
from .console import make_console
from .flags import FLAGS
from .source import load_source


def main() -> None:
    """Flags to a file."""
    console = make_console()
    model = load_source(console)
    export(
        model,
        FLAGS.out,
        k=FLAGS.k,
        max_history=FLAGS.max_history,
        exclude_seen=FLAGS.exclude_seen,
        batch_size=FLAGS.batch_size,
        platforms=FLAGS.platforms,
    )
    out = Path(FLAGS.out)
    console.print(f"{model.family.title} in {out} ({out.stat().st_size:,} bytes), item ids in {description_of(out)}")


if __name__ == "__main__":
    flags.define_export_flags()
    start(main, __doc__ or "")
