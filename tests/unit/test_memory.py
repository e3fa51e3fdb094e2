"""Freed memory stays with the process, so that a step does not pay for fresh pages."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from expunge.memory import keep_freed_memory
keep_freed_memory({parameters})
for _ in range(20): torch.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is only tuned on glibc")
def test_a_freed_block_is_used_again_without_new_pages():
    faults = {}
    for keep, parameters in ((False, 8_000_000_000), (True, 135_000_000)):
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(parameters=parameters)], capture_output=True, text=True, check=True
        )
        faults[keep] = int(done.stdout)
    assert faults[True] < faults[False] / 10
