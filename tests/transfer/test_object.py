"""The object tier: in memory, in a folder, and on a real S3 server in a process of its own."""

import base64
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_blocks import MINE, OTHER, data, filled, memory, names, never

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockId
from jedlik.transfer.object import (
    HEADER_BYTES,
    ObjectStore,
    describe,
    folder_of,
    key_of,
    object_store,
    open_bucket,
    pack,
    read_key,
    unpack_into,
)

obstore = pytest.importorskip("obstore", reason="obstore is not installed: pip install 'jedlik[object]'")

SIZE = 2048
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
SECRETS = {"AWS_ACCESS_KEY_ID": "AKIAJEDLIKTEST", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0LW9mLWplZGxpaw"}


@contextmanager
def serving() -> Iterator[str]:
    """A real S3 server on a free port, with one bucket; it ends when its input does."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[server]'")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(urllib.request.Request(f"{address}/blocks", method="PUT"), timeout=30):
            yield address
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SECRETS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memory":
        return "memory:///"
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    point_to(request.getfixturevalue("server"), monkeypatch)
    return f"s3://blocks/{tmp_path.name}"


class Buckets:
    """Stores on one bucket, closed at the end."""

    def __init__(self, url: str) -> None:
        self.bucket = open_bucket(url, 20.0)
        self._stores: list[ObjectStore] = []

    def store(self, fingerprint: bytes = MINE, most: int = 1000, size: int = SIZE) -> ObjectStore:
        store = ObjectStore(self.bucket, size, fingerprint, 4, most)
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()


@pytest.fixture
def buckets(url: str) -> Iterator[Buckets]:
    made = Buckets(url)
    yield made
    made.close()


def test_hosts_share_blocks(buckets: Buckets) -> None:
    """What one wrote another lists when it opens, in chains; and reads, also what was written after it had opened."""
    mine, early = buckets.store(), buckets.store()
    assert (mine.open(), early.open()) == ([], [])
    ids, blocks = names(9), filled(9, SIZE)
    assert mine.write([], ids[:5], None, blocks[:5], never) == (5, "")
    assert mine.write([], ids[5:7], ids[4], blocks[5:7], never) == (2, "")
    assert mine.write([], ids[7:], ids[4], blocks[7:], never) == (2, "")  # a fork
    late = buckets.store()
    runs = {run.parent: run.ids for run in late.open()}
    assert runs == {None: ids[:5], ids[4]: runs[ids[4]]}
    assert sorted(len(run.ids) for run in buckets.store().open()) == [2, 2, 5]
    for reader in (mine, early, late):
        for first, end in ((0, 5), (3, 7), (7, 9), (6, 7)):
            back = memory(end - first, SIZE)
            assert reader.read([], ids[first:end], back, never) == (end - first, "")
            assert data(back) == data(blocks[first:end])


def test_others_blocks_are_not_there(buckets: Buckets) -> None:
    """Another fingerprint, another block size, and names nobody wrote."""
    mine, other = buckets.store(), buckets.store(OTHER)
    mine.open()
    other.open()
    ids = names(3)
    assert mine.write([], ids[:2], None, filled(2, SIZE), never) == (2, "")
    assert buckets.store(OTHER).open() == []
    assert other.read([], ids, memory(3, SIZE), never) == (0, "missing")
    assert mine.read([], ids, memory(3, SIZE), never) == (2, "missing")
    assert mine.read([], ids[2:], memory(1, SIZE), never) == (0, "missing")
    assert buckets.store(size=SIZE * 2).open() == []


def test_written_again_is_the_same(buckets: Buckets) -> None:
    store = buckets.store()
    store.open()
    ids, blocks, back = names(2), filled(2, SIZE), memory(2, SIZE)
    for _ in range(2):
        assert store.write([], ids, None, blocks, never) == (2, "")
    assert store.read([], ids, back, never) == (2, "")
    assert data(back) == data(blocks)


def test_stopped_between_blocks(buckets: Buckets) -> None:
    store = buckets.store()
    store.open()
    ids, blocks = names(12), filled(12, SIZE)
    left = iter([False] * 5 + [True] * 50)
    assert store.write([], ids, None, blocks, left.__next__) == (5, "cancelled")
    assert store.read([], ids, memory(12, SIZE), lambda: True) == (0, "cancelled")
    assert store.read([], ids, memory(12, SIZE), never) == (5, "missing")


def test_listing_is_bounded_and_drops_orphans(buckets: Buckets) -> None:
    store, ids = buckets.store(), names(8)
    store.open()
    store.write([], ids, None, filled(8, SIZE), never)
    few = buckets.store(most=3)
    assert sum(len(run.ids) for run in few.open()) <= 3
    assert few.notes == ["kv_object: 3 blocks listed; there may be more in the bucket, not known here"]
    assert few.read([], ids, memory(8, SIZE), never) == (8, "")
    obstore.delete(buckets.bucket, key_of(folder_of(MINE), ids[4], ids[3]))
    assert [run.ids for run in buckets.store().open()] == [ids[:4]]
    assert store.read([], ids, memory(8, SIZE), never) == (4, "missing")


def test_listing_takes_a_bounded_time() -> None:
    made = Buckets("memory:///")
    for block in names(2500):
        obstore.put(made.bucket, key_of(folder_of(MINE), block, None), bytes(HEADER_BYTES + SIZE))
    hurried = ObjectStore(made.bucket, SIZE, MINE, longest_listing_s=0.0)
    assert len(hurried.open()) == 1000
    assert "1000 blocks listed" in hurried.notes[0]
    hurried.close()
    patient = made.store(most=3000)
    assert (len(patient.open()), patient.notes) == (2500, [])
    made.close()


def test_strangers_in_the_folder_are_passed_over(buckets: Buckets) -> None:
    store, (a,) = buckets.store(), names(1)
    store.open()
    store.write([], [a], None, filled(1, SIZE), never)
    for name in ("x", "zz/root", f"{a.hex()}/zz", f"{a.hex()}00/root"):
        obstore.put(buckets.bucket, f"{folder_of(MINE)}/{name}", b"?" * (HEADER_BYTES + SIZE))
    assert [run.ids for run in buckets.store().open()] == [[a]]


def test_callers_in_several_threads(buckets: Buckets) -> None:
    store, wrong = buckets.store(), list[object]()
    store.open()

    def caller(number: int) -> None:
        ids, blocks, back = names(6, str(number)), filled(6, SIZE, number), memory(6, SIZE)
        told = store.write([], ids, None, blocks, never), store.read([], ids, back, never)
        if told != ((6, ""), (6, "")) or data(back) != data(blocks):
            wrong.append(told)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def hurt(whole: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A bit, noise, zeros, cut off, too long, another block's, another block's data."""
    at, found = rng.randrange(len(whole)), bytearray(whole)
    match rng.randrange(7):
        case 0:
            found[at] ^= 1 << rng.randrange(8)
        case 1:
            found[at:] = rng.randbytes(len(whole) - at)
        case 2:
            found[at : at + 512] = bytes(len(found[at : at + 512]))
        case 3:
            del found[at:]
        case 4:
            found += rng.randbytes(rng.randint(1, 100))
        case 5:
            found[:] = rng.choice(others)
        case 6:
            found[HEADER_BYTES:] = rng.choice(others)[HEADER_BYTES:]
    return bytes(found)


@pytest.mark.parametrize(("url", "times"), [("memory", 2000), ("file", 300), ("s3", 100)], indirect=["url"])
def test_corruptions_are_misses(buckets: Buckets, times: int) -> None:
    """Every object that was changed is describe so; the blocks before it are right."""
    store, rng, told_causes = buckets.store(), random.Random(7), Counter[str]()
    store.open()
    ids, blocks = names(4), filled(4, SIZE)
    parents = [None, *ids]
    wholes = [pack(ids[i], parents[i], blocks[i]) for i in range(4)]
    assert store.write([], ids, None, blocks, never) == (4, "")
    for _ in range(times):
        which = rng.randrange(4)
        found = hurt(wholes[which], wholes[:which] + wholes[which + 1 :], rng)
        key = key_of(folder_of(MINE), ids[which], parents[which])
        obstore.put(buckets.bucket, key, found, use_multipart=False)
        back = memory(4, SIZE)
        done, cause = store.read([], ids, back, never)
        assert data(back[:done]) == data(blocks[:done])
        assert (done, cause != "") == ((which, True) if found != wholes[which] else (4, False))
        told_causes[cause] += 1
        obstore.put(buckets.bucket, key, wholes[which], use_multipart=False)
    assert set(told_causes) - {""} == {"corrupt", "stale"}
    assert store.read([], ids, memory(4, SIZE), never) == (4, "")


IDS = st.binary(min_size=16, max_size=16).map(BlockId)


@given(IDS, st.none() | IDS, st.binary(max_size=300), st.data())
def test_formats(block: BlockId, parent: BlockId | None, found: bytes, drawn: st.DataObject) -> None:
    assert read_key("bucket/prefix/" + key_of(folder_of(MINE), block, parent)) == (block, parent)
    whole, buffer = bytearray(pack(block, parent, found)), memoryview(bytearray(len(found)))
    assert unpack_into(memoryview(whole), block, parent, buffer) == ""
    assert bytes(buffer) == found
    other = drawn.draw(st.none() | IDS)
    assert other == parent or unpack_into(memoryview(whole), block, other, buffer) == "stale"
    bit = drawn.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    assert unpack_into(memoryview(whole), block, parent, buffer) == "corrupt"


@pytest.mark.parametrize(
    "key", ["", "/", "root", "a/root", "00" * 16, "00" * 15 + "/root", "00" * 16 + "/ro", "ü/root"]
)
def test_names_of_no_block(key: str) -> None:
    assert read_key(key) is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "is neither"),
        ("ftp://bucket/x", "is neither"),
        ("bucket", "is neither"),
        ("file://host/x", "names no folder"),
        ("file:///", "names no folder"),
        ("s3://AKIA:secret@bucket/x", "no credentials"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        object_store(url, SIZE, MINE)
    assert "secret" not in str(raised.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'jedlik\[object\]'"):
        object_store("memory:///", SIZE, MINE)


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start it is the operator's; later it is a cause. Nothing tells the credentials."""
    point_to(closed_port(), monkeypatch)
    store = object_store("s3://blocks/x", SIZE, MINE)
    with pytest.raises(ConfigError, match=r"can't list .* no answer") as raised:
        store.open()
    assert not any(secret in str(raised.value) for secret in SECRETS.values())


def test_a_server_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as address:
        point_to(address, monkeypatch)
        made = Buckets("s3://blocks/x")
        store, ids = made.store(), names(2)
        store.open()
        assert store.write([], ids, None, filled(2, SIZE), never) == (2, "")
    assert store.write([], ids, None, filled(2, SIZE), never) == (0, "gone")
    assert store.read([], ids, memory(2, SIZE), never) == (0, "gone")
    made.close()


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests end by themselves; the limit here only catches a hang."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        store = ObjectStore(open_bucket("s3://blocks/x", 0.2), SIZE, MINE)
        began = time.monotonic()
        with pytest.raises(ConfigError, match="can't list"):
            store.open()
        assert time.monotonic() - began < 30


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    made = Buckets(f"file://{tmp_path}/shared")
    store, ids = made.store(), names(2)
    store.open()
    assert store.write([], ids, None, filled(2, SIZE), never) == (2, "")
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").write_bytes(b"a file now")
    done, cause = store.write([], ids, None, filled(2, SIZE), never)
    assert (done, cause in ("gone", "failed")) == (0, True)
    assert store.read([], ids, memory(2, SIZE), never)[0] == 0
    made.close()


def test_folders_are_private(tmp_path: Path) -> None:
    open_bucket(f"file://{tmp_path}/shared", 1.0)
    assert os.stat(tmp_path / "shared").st_mode & 0o777 == 0o700


def test_what_is_told_of_errors_quotes_nothing() -> None:
    body = base64.b64encode(b"x").decode()
    assert describe(ValueError(f"status: 403 Forbidden: <AWSAccessKeyId>AKIA{body}")) == "ValueError (HTTP 403)"
    assert describe(KeyError("AKIA")) == "KeyError"
