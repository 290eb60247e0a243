"""One server with pools of different models: each answers by its name, and wrong pools are refused in a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_server import PATIENT, Server

from jedlik.models import tiny

pytestmark = pytest.mark.cluster
TORCH = ("--dtype", "float32", "--threads", "1", "--kv-cache-bytes", "1MiB", *PATIENT)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another model's folder."""
    folder = tmp_path / "tiny-other"
    folder.mkdir()
    tiny.write(folder)
    return folder


def file_of(folder: Path, pools: str, more: str = "") -> str:
    path = folder / "server.yaml"
    path.write_text(f"pools:\n{pools}{more}")
    return str(path)


def test_each_model_of_one_server_answers_by_its_name(tmp_path: Path, other: Path) -> None:
    pools = f"- {{name: small, count: 1}}\n- {{name: other, model: {other}, count: 1}}\n"
    server = Server("--config", file_of(tmp_path, pools), *TORCH, engine="torch")
    try:
        server.wait_for(lambda: server.ready_workers() == 2)
        listed = server.client.get("/v1/models").json()["data"]
        assert {model["id"] for model in listed} == {"tiny-random", "tiny-other"}
        for model in ("tiny-random", "tiny-other"):
            body = {"model": model, "prompt": "x", "max_tokens": 3}
            reply = server.client.post("/v1/completions", json=body)
            assert reply.status_code == 200, reply.text
            assert reply.json()["model"] == model
        assert server.client.post("/v1/completions", json={"model": "none", "prompt": "x"}).status_code == 404
        assert {record.pool: record.model for record in server.records().values()} == {
            "small": "tiny-random",
            "other": "tiny-other",
        }
    finally:
        server.clean()


@pytest.mark.parametrize(
    ("pools", "more", "problem"),
    [
        ("- {name: a}\n- {name: b, model: OTHER}\n", "planner: {budget: 4}\n", "pools[1].model: differs"),
        ("- {name: a}\n- {name: b, model: OTHER, role: prefill}\n", "", "only prefill: add a pool of decode"),
        ("- {name: a}\n- {name: b, engine: torhc}\n", "", "engine is 'torhc'"),
    ],
)
def test_pools_that_cannot_be_served_are_refused_in_a_line(
    tmp_path: Path, other: Path, pools: str, more: str, problem: str
) -> None:
    file = file_of(tmp_path, pools.replace("OTHER", str(other)), more)
    command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--port", "0", "--config", file]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JEDLIK_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
