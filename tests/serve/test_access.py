"""From settings to who may reach a server."""

from pathlib import Path
from typing import Any

import pytest

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve import access
from jedlik.serve.settings import settle


def config(**flags: str) -> ServeConfig:
    return settle({"model": "m", **flags}, {}, None).config


def test_without_keys_names_and_pages_are_looked_at() -> None:
    site = access.site(config())
    assert (site.keyless, site.guarded) == (True, True)
    assert site.lets_in("http://localhost:3000")
    assert not site.answers_to("gpu.example")
    assert access.site(config(allowed_hosts="gpu.example, other.example")).answers_to("gpu.example:8000")
    assert access.site(config(host="gpu.example", allow_open="yes")).answers_to("gpu.example")


def test_with_keys_any_name_is_answered_to() -> None:
    for more in ({"api_keys": "k=t"}, {"allow_open": "yes"}):
        assert access.site(config(host="0.0.0.0", **more)).answers_to("gpu.example")
    assert not access.site(config(api_keys="k=t", allowed_hosts="a.example")).answers_to("b.example")


def test_lists_are_written_in_one_line_or_as_lists(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: m\ncors_origins: [https://chat.example/, loopback]\nallowed_hosts: none\n")
    read = settle({}, {}, file).config
    assert access.site(read).lets_in("https://chat.example")
    assert access.site(read).lets_in("http://localhost")
    assert read.allowed_hosts == ()
    assert config(cors_origins="none").cors_origins == ()


@pytest.mark.parametrize(
    "flags",
    [
        {"cors_origins": "chat.example"},
        {"cors_origins": "https://chat.example/path"},
        {"cors_origins": "https://a.example,,b"},
        {"allowed_hosts": "http://gpu.example"},
        {"allowed_hosts": "gpu.example:8000"},
        {"metrics_port": "8000"},
        {"metrics_port": "0"},
        {"frontend.max_head_bytes": "10"},
        {"frontend.max_connections": "0"},
        {"frontend.receive_s": "0"},
    ],
)
def test_settings_that_can_not_be(flags: Any) -> None:
    with pytest.raises(ConfigError):
        config(**flags)


def test_the_port_for_metrics() -> None:
    assert access.other_sites(config()) == {}
    site = access.other_sites(config(metrics_port="9400", api_keys="k=t"))[9400]
    assert site.metrics_only
    assert not site.answers_to("gpu.example")
    assert access.other_sites(config(metrics_port="9400", metrics_host="0.0.0.0"))[9400].answers_to("gpu.example")
