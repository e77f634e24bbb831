"""The command ``diffrec``, and ``python -m experiments``: one of the scripts by its name.

diffrec train --model=diffrec --dataset=ml-1m
diffrec SCRIPT --help
"""

import gc
import runpy
import sys

from diffrec_jax.version import __version__

SCRIPTS = {
    "prepare": "makes a dataset of a log",
    "inspect": "shows what a dataset looks like, with warnings",
    "train": "trains a model, evaluates it and leaves everything in a run directory",
    "evaluate": "evaluates a run again, perhaps in another way",
    "recommend": "writes the best items of users to a file",
    "export": "writes a model as one StableHLO or ONNX file",
    "compare": "compares models over seeds: a table with significance tests",
    "sweep": "trains combinations of some settings: all, or those that Optuna chooses",
    "reproduce": "trains what the studies of the paper need, as a queue",
    "report": "makes one report of the studies",
}


def main() -> None:
    """Runs the script that the first argument names; exits with its code, 2 where there is no such script."""
    name = next(iter(sys.argv[1:]), "--help")
    if name in SCRIPTS:
        sys.argv = [f"diffrec {name}", *sys.argv[2:]]
        gc.disable()  # as in ``experiments``
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=False)
        return
    if name == "--version":
        print(f"diffrec-jax {__version__}")
        return
    listed = [f"  {script:<10} {text}" for script, text in SCRIPTS.items()]
    usage = "\n".join(["usage: diffrec SCRIPT --flag=value ...   (diffrec SCRIPT --help lists its flags)", "", *listed])
    if name in ("--help", "-h", "help"):
        print(usage)
        return
    print(f"error: there is no script {name!r}\n\n{usage}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
