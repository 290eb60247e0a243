"""A fault that shows only when a worker loads the weights: the server ends with the worker's reason, and at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from jedlik.models import tiny
from jedlik.serve.model_check import examine

pytestmark = pytest.mark.cluster
LACKING = "model.layers.0.mlp.up_proj.weight"


def test_the_first_worker_that_cannot_load_ends_the_server(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tiny.write(model)
    tensors = load_file(model / "model.safetensors")
    del tensors[LACKING]
    (model / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    examine(model)  # headers alone do not tell
    command = [sys.executable, "-m", "jedlik", "serve", str(model), "--port", "0", "--kv-cache-bytes", "16MiB"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("jedlik: worker-")
    assert LACKING in last
    assert ended.stderr.count(LACKING) == 1  # told once, and no worker was started again
    assert "starting it again" not in ended.stderr
