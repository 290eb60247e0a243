"""The `jedlik` command as a user meets it: help, versions, wrong input, and what it does not import."""

import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jedlik as jedlik_package
from jedlik import __version__
from jedlik.serve.doctor import disk, findings, free_port, memory
from jedlik.serve.fields import fields

SOURCE = str(Path(jedlik_package.__file__).parent.parent)


def jedlik(*arguments: str, home: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jedlik", *arguments]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home or "/nonexistent"), "COLUMNS": "200", "PYTHONPATH": SOURCE}
    environ |= variables
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def test_version() -> None:
    assert jedlik("--version").stdout == f"jedlik {__version__}\n"


def test_help_names_every_setting() -> None:
    said = jedlik("serve", "--help-all").stdout
    for flag in ("--workers", "--kv-cache-bytes", "--worker.max-step-tokens", "--gateway.silent-fence-s", "--config"):
        assert flag in said


COMMANDS = ("serve", "simulate", "plan", "profile", "chat", "explain", "top", "doctor", "replay", "config explain")


@pytest.mark.parametrize("width", ["60", "80"])
def test_help_cuts_no_option_s_name(width: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        wholes = list(threads.map(lambda name: jedlik(*name.split(), "-h", COLUMNS=width).stdout, COMMANDS))
        wholes.append(jedlik("serve", "--help-all", COLUMNS=width).stdout)
    for name, whole in zip((*COMMANDS, "serve, all of it"), wholes, strict=True):
        assert "--help" in whole, name
        assert not re.search(r"--\S*…", whole), name
    shown, every = (len(re.findall(r"^│ --", text, re.MULTILINE)) for text in (wholes[0], wholes[-1]))
    assert 20 <= shown <= 35
    assert every > len(fields()) - 1


def test_config_explain_needs_no_model_and_shows_no_key() -> None:
    ended = jedlik("config", "explain", "--api-keys", "s3cret=a")
    assert ended.returncode == 0
    assert {line.split()[0] for line in ended.stdout.splitlines()} == {field.key for field in fields()}
    assert "s3cret" not in ended.stdout


def test_a_home_that_can_not_be_used_is_named_with_a_remedy() -> None:
    for home in ("/proc/nope", "/etc/passwd"):
        ended = jedlik("serve", "tiny-random", JEDLIK_HOME=home)
        assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
        assert "set JEDLIK_HOME" in ended.stderr


@pytest.mark.parametrize("arguments", [("config", "explain"), ("doctor", "--links"), ("serve", "tiny-random")])
def test_ctrl_c_while_it_imports_is_quiet(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """The interrupt comes with the import of `module`, so that it always meets the same place."""
    for module in ("typer", "msgspec", "rich", "jedlik.serve.settings", "jedlik.cli.help"):
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, *rest):\n"
            f"        if name == {module!r}:\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        ended = jedlik(*arguments, home=tmp_path, PYTHONPATH=f"{tmp_path}:{SOURCE}")
        assert (ended.returncode, ended.stderr) in ((130, ""), (0, "")), module


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
        (["replay", "nothing.log"], "name a .log file"),
        (["serve", "tiny-random", "--run-dir", "/proc/nope"], "choose --run-dir"),
        (["serve", "tiny-random", "--run-dir", "/etc/passwd"], "choose --run-dir"),
        (["serve", "tiny-random", "--event-log", "/proc/nope"], "--event-log"),
        (["serve", "tiny-random", "--event-log", "/etc/passwd/log"], "--event-log"),
        (["serve", "tiny-random", "--workers", "0"], "--workers 1"),
        (["serve", "tiny-random", "--log-format", "xml"], "human, json"),
        (["serve", "tiny-random", "--gateway.slo-ttft-s", "-1"], "more than 0"),
        (["chat", "--port", "1_000"], "not a whole number"),
        (["top", "--interval", "nan"], "not a number"),
    ],
)
def test_wrong_input_ends_with_a_remedy_and_no_trace(arguments: list[str], message: str, tmp_path: Path) -> None:
    ended = jedlik(*arguments, home=tmp_path)
    assert ended.returncode == 2
    assert message in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_the_gateway_and_the_supervisor_import_no_torch() -> None:
    code = (
        "import sys, jedlik.serve.gateway_process, jedlik.serve.server, jedlik.serve.worker_process;"
        "import jedlik.engines.simulated;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_gateway_process_starts_without_numpy() -> None:
    code = "import sys, jedlik.serve.gateway_process; print('numpy' in sys.modules)"
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
