"""What a server says while it starts: one style in one stream, and workers as they come."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("form", ["json", "human"])
def test_all_processes_write_one_kind_of_line(form: str) -> None:
    command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", "simulated", "--port", "0"]
    server = subprocess.Popen([*command, "--log-format", form], stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert server.stderr is not None
    for line in server.stderr:
        lines.append(line)
        if "2 of 2 workers serve" in line or ("ready after" in line and ", 2 workers" in line):
            break
    server.terminate()
    server.wait(60)
    lines += server.stderr.readlines()
    server.stderr.close()
    assert server.returncode == 0
    if form == "json":
        assert {json.loads(line)["process"] for line in lines} == {"supervisor", "gateway", "worker-0", "worker-1"}
    else:
        said = [line for line in lines if not line.startswith("curl ")]
        assert {line.split()[1] for line in said} == {"supervisor:", "gateway:", "worker-0:", "worker-1:"}
    ready = [line for line in lines if "ready after" in line]
    assert len(ready) == 1
    assert "of 2 workers so far" in ready[0] or ", 2 workers" in ready[0]
    assert any("takes about" in line for line in lines[: lines.index(ready[0])])
