"""The `jedlik` command as a user meets it: help, versions, wrong input, and what it does not import."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jedlik import __version__
from jedlik.cli.doctor import disk, findings, free_port, memory


def jedlik(*arguments: str, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jedlik", *arguments]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home or "/nonexistent"), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def test_version() -> None:
    assert jedlik("--version").stdout == f"jedlik {__version__}\n"


def test_help_names_every_setting() -> None:
    said = jedlik("serve", "--help").stdout
    for flag in ("--workers", "--kv-cache-bytes", "--worker.max-step-tokens", "--gateway.silent-fence-s", "--config"):
        assert flag in said


def test_config_explain_says_where_values_come_from(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: tiny-random\nworkers: 3\n")
    lines = jedlik("config", "explain", "--config", str(file), "--port", "9", "--deterministic").stdout.splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines}
    assert said["workers"] == ["3", "file", str(file)]
    assert said["port"] == ["9", "flag", "--port"]
    assert said["deterministic"] == ["True", "flag", "--deterministic"]
    assert said["host"] == ["127.0.0.1", "default"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "no model"),
        (["serve", "smolm2-135m"], "did you mean smollm2-135m"),
        (["serve", "tiny-random", "--port", "many"], "port = 'many'"),
        (["serve", "tiny-random", "--host", "0.0.0.0"], "--allow-open"),
        (["serve", "tiny-random", "--gateway.policy", "round-robin"], "did you mean round_robin"),
        (["serve", "tiny-random", "--gateway.shadow-policy", "mine.py"], "policy file mine.py is not there"),
        (["explain", "r", "--port", "1"], "no server answers on http://127.0.0.1:1"),
        (["chat", "--port", "1"], "no server answers on 127.0.0.1:1"),
        (["replay", "nothing.log"], "--event-log-tokens"),
    ],
)
def test_wrong_input_ends_with_a_remedy_and_no_trace(arguments: list[str], message: str, tmp_path: Path) -> None:
    ended = jedlik(*arguments, home=tmp_path)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_the_gateway_and_the_supervisor_import_no_torch() -> None:
    code = (
        "import sys, jedlik.cli.gateway_process, jedlik.cli.serve, jedlik.cli.worker_process, jedlik.engines.simulated;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_gateway_process_starts_without_numpy() -> None:
    code = "import sys, jedlik.cli.gateway_process; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    failing = [
        memory(1 << 20),
        disk(tmp_path / "new"),
        *(f for f in findings("no-such-model", 8000) if f.state == "failed"),
    ]
    assert failing[0].state == "failed"
    assert "--kv-cache-bytes" in failing[0].remedy
    assert failing[1].state == "ok"
    assert all(finding.remedy for finding in failing if finding.state == "failed")
    assert any("no-such-model" in finding.what for finding in failing)


def test_doctor_sees_a_port_in_use() -> None:

    with socket.create_server(("127.0.0.1", 0)) as taken:
        finding = free_port(taken.getsockname()[1])
    assert finding.state == "failed"
    assert "--port" in finding.remedy
