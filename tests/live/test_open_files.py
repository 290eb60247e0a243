"""The limit of open files, in a process of its own."""

import subprocess
import sys

import pytest

CODE = """
import resource
from jedlik.live.running import max_connections, raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_file_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], max_connections())
"""


@pytest.mark.parametrize(("soft", "hard", "limit", "left"), [(64, 512, 512, 320), (256, 256, 256, 128)])
def test_the_soft_limit_is_raised_and_some_are_kept_back(soft: int, hard: int, limit: int, left: int) -> None:
    command = [sys.executable, "-c", CODE.format(soft=soft, hard=hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(limit), str(left)]
