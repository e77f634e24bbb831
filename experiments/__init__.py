"""Command-line experiments: flags -> typed configuration -> library."""

import gc
import sys

if sys.argv[:1] == ["-m"]:  # as a script, python -m experiments.NAME, which is about to import for seconds
    from .signals import end_at_once, end_with_starter

    end_at_once()
    end_with_starter()
    gc.disable()  # an import leaves no garbage, and looking for it takes a twelfth of the time; cli.start enables it
