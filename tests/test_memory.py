import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
from diffrec_jax.memory import keep_freed_memory

assert not {keep} or keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(2**26)
    block[::4096] = bytes(2**14)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.once
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_are_used_again_without_new_pages():
    def faults(keep: bool) -> int:
        code = COUNT_FAULTS.format(keep=keep)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return int(done.stdout)

    assert faults(keep=True) < 100 < 2**13 < faults(keep=False)
