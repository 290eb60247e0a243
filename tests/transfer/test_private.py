"""Who may read KV blocks, the key that names them, and what tells blocks of one kind from another's."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.transfer.checksum import fingerprint
from jedlik.transfer.private import KEY_FILE, close_folder, cluster_key, open_private, private_folder, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_key_is_drawn_once_and_kept(tmp_path: Path) -> None:
    first = cluster_key(tmp_path / "kv")
    assert len(first) == 32
    assert cluster_key(tmp_path / "kv") == first
    assert cluster_key(tmp_path / "other") != first
    assert (mode(tmp_path / "kv"), mode(tmp_path / "kv" / KEY_FILE)) == (0o700, 0o600)
    assert [path.name for path in (tmp_path / "kv").iterdir()] == [KEY_FILE]


def test_servers_that_start_at_once_agree(tmp_path: Path) -> None:
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(cluster_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    cluster_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by other users"):
        cluster_key(tmp_path)


@pytest.mark.parametrize("text", [b"", b"not hex\n", b"ab" * 31, b"ab" * 33, b"\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(text)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(ConfigError, match="holds no cluster key"):
        cluster_key(tmp_path)


def test_a_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    cluster_key(tmp_path / "a")
    (tmp_path / KEY_FILE).symlink_to(tmp_path / "a" / KEY_FILE)
    with pytest.raises(ConfigError, match="cluster key"):
        cluster_key(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(ConfigError, match="can't be used"):
        private_folder(tmp_path / "w")


def test_fingerprints_differ_where_bytes_mean_something_else() -> None:
    layout = Layout(dtype="bfloat16", layers=30, kv_heads=3, head_dim=64, block_size=16)
    mine = fingerprint(layout, "revision", "check")
    assert mine == fingerprint(layout, "revision", "check")
    others = [
        fingerprint(layout, "revision2", "check"),
        fingerprint(layout, "revision", "check2"),
        fingerprint(replace(layout, block_size=32), "revision", "check"),
        fingerprint(replace(layout, dtype="float16"), "revision", "check"),
        fingerprint(replace(layout, order="layer,block"), "revision", "check"),
    ]
    assert len({mine, *others}) == 6


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o177])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Whatever the user's is."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_written_is_private_whatever_the_umask_and_what_was_there(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "secret"
    for there in (False, True):
        if there:
            path.chmod(0o644)
        write_private(path, b"text")
        assert (mode(path), path.read_bytes()) == (0o600, b"text")
    assert [found.name for found in tmp_path.iterdir()] == ["secret"]
    path.chmod(0o666)
    os.close(open_private(path, os.O_WRONLY | os.O_APPEND))
    assert mode(path) == 0o600


def test_a_chosen_folder_is_closed_where_only_ours_is_in_it(tmp_path: Path, umask: int) -> None:
    def ours(name: str) -> bool:
        return name.startswith("our")

    made = tmp_path / "made"
    close_folder(made, ours)
    assert mode(made) == 0o700
    for others, expected in ((), 0o700), (("theirs",), 0o755):
        folder = tmp_path / f"there{len(others)}"
        folder.mkdir()
        folder.chmod(0o755)
        for name in ("our.log", *others):
            (folder / name).write_text("text")
            (folder / name).chmod(0o644)
        close_folder(folder, ours)
        assert (mode(folder), mode(folder / "our.log")) == (expected, 0o600)
        assert [mode(folder / name) for name in others] == [0o644] * len(others)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "is a folder").mkdir()
    with pytest.raises(OSError, match="is a folder"):
        write_private(tmp_path / "is a folder", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["is a folder"]
