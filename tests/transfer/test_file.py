"""The disk tier on a real file system: what was written comes back, also after a crash; nothing else ever does."""

import errno
import itertools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_blocks import MINE, OTHER, data, fast_folder, filled, memory, names, never, opened

from jedlik.core.errors import ConfigError
from jedlik.transfer.file import LOG_FILE, SLOTS_FILE, FileStore
from jedlik.transfer.slots import DATA_START, RECORD_BYTES, slots_in

HERE = Path(__file__).parent


@given(st.data())
def test_round_trips(drawn: st.DataObject) -> None:
    """Any size, any order of slots, memory aligned or not, one call or several; and again after a restart."""
    size = drawn.draw(st.sampled_from([1, 100, 4096, 5000, 8192, 65536]))
    slots = drawn.draw(st.permutations(range(12)).map(lambda order: order[: len(order) // 2 + 2]))
    if drawn.draw(st.booleans()):
        slots = sorted(slots)
    off, cut = drawn.draw(st.sampled_from([0, 1, 512])), drawn.draw(st.integers(0, len(slots)))
    ids, blocks = names(len(slots)), filled(len(slots), size, off=off)
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        with opened(Path(folder) / "w", 12, size) as (store, runs):
            assert runs == []
            assert store.write(slots[:cut], ids[:cut], None, blocks[:cut], never) == (cut, "")
            parent = ids[cut - 1] if cut else None
            assert store.write(slots[cut:], ids[cut:], parent, blocks[cut:], never) == (len(slots) - cut, "")
            back = memory(len(slots), size, drawn.draw(st.sampled_from([0, 64])))
            assert store.read(slots, ids, back, never) == (len(slots), "")
            assert data(back) == data(blocks)
        with opened(Path(folder) / "w", 12, size) as (store, runs):
            assert [(run.parent, run.ids, run.slots) for run in runs] == [(None, ids, slots)]
            back = memory(len(slots), size)
            order = drawn.draw(st.permutations(range(len(slots))))
            asked = [slots[i] for i in order], [ids[i] for i in order], [back[i] for i in order]
            assert store.read(*asked, never) == (len(slots), "")
            assert data(back) == data(blocks)


def test_direct_io_where_the_file_system_has_it(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        direct = False
    else:
        direct = True
    with opened(tmp_path / "w") as (store, _):
        assert store.direct == direct
        assert ("no direct I/O" in "".join(store.notes)) != direct


def test_without_direct_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses it: as fast as its page cache, and said."""
    really = os.open

    def refuses(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuses)
    ids, blocks, back = names(3), filled(3, 5000), memory(3, 5000)
    with opened(tmp_path / "w", size=5000) as (store, _):
        assert not store.direct
        assert "no direct I/O" in store.notes[0]
        assert store.write([4, 5, 6], ids, None, blocks, never) == (3, "")
        assert store.read([4, 5, 6], ids, back, never) == (3, "")
    assert data(back) == data(blocks)


def test_what_is_not_there_is_a_miss_with_its_cause(tmp_path: Path) -> None:
    a, b, c = names(3)
    back = memory(3, 4096)
    with opened(tmp_path / "w") as (store, _):
        assert store.read([0], [a], back[:1], never) == (0, "missing")
        assert store.write([0, 1], [a, b], None, filled(2, 4096), never) == (2, "")
        assert store.read([0, 1, 2], [a, b, c], back, never) == (2, "missing")
        assert store.read([0, 1], [a, c], back[:2], never) == (1, "stale")
        assert store.write([0], [c], None, filled(1, 4096), never) == (1, "")
        assert store.read([0, 1], [a, b], back[:2], never) == (0, "stale")


def test_a_stopped_move_ends_between_blocks(tmp_path: Path) -> None:
    ids, blocks = names(8), filled(8, 4096)
    left = iter([False] * 3 + [True] * 20)
    scattered = [0, 2, 4, 6, 8, 10, 12, 14]
    with opened(tmp_path / "w") as (store, _):
        done, cause = store.write(scattered, ids, None, blocks, left.__next__)
        assert (done, cause) == (3, "cancelled")
        assert store.read(scattered, ids, memory(8, 4096), never) == (3, "missing")
        assert store.read([0], ids[:1], memory(1, 4096), lambda: True) == (0, "cancelled")


def test_mistakes_of_the_caller_raise(tmp_path: Path) -> None:
    (a,), (block,) = names(1), filled(1, 4096)
    with opened(tmp_path / "w", slots=2) as (store, _):
        with pytest.raises(ValueError, match="2 slots, 1 ids"):
            store.write([0, 1], [a], None, [block], never)
        with pytest.raises(ValueError, match="is not 4096 bytes"):
            store.read([0], [a], [block[:100]], never)
        with pytest.raises(IndexError):
            store.write([2], [a], None, [block], never)


def test_callers_in_several_threads(tmp_path: Path) -> None:
    wrong: list[object] = []
    with opened(tmp_path / "w", slots=64) as (store, _):

        def caller(number: int) -> None:
            rng = random.Random(number)
            slots = list(range(number * 16, number * 16 + 16))
            for turn in range(10):
                rng.shuffle(slots)
                ids, blocks, back = names(16, f"{number}/{turn}"), filled(16, 4096, turn), memory(16, 4096)
                told = store.write(slots, ids, None, blocks, never), store.read(slots, ids, back, never)
                if told != ((16, ""), (16, "")) or data(back) != data(blocks):
                    wrong.append(told)

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


WRITER = """
import sys
from pathlib import Path
from kept_blocks import MINE, filled, names, never
from jedlik.transfer.file import FileStore
store = FileStore(Path(sys.argv[1]), 32, 4096, MINE)
store.open()
turn = 0
while True:
    slots = [(turn * 4 + i) % 32 for i in range(4)]
    assert store.write(slots, names(4, str(turn)), None, filled(4, 4096, turn), never) == (4, "")
    print(turn, flush=True)
    turn += 1
"""


def test_found_again_after_the_writer_was_killed(tmp_path: Path) -> None:
    """What was told as written before kill -9 is there and right; the file is free for its next owner."""
    folder = tmp_path / "w"
    for enough in (3, 40, 200):
        with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, cwd=HERE) as writer:
            assert writer.stdout is not None
            told = [int(line) for line in itertools.islice(writer.stdout, enough)]
            writer.send_signal(signal.SIGKILL)
            told += [int(line) for line in writer.stdout if line.strip()]
        assert told == list(range(len(told)))
        with opened(folder, slots=32) as (store, runs):
            found = {run.ids[0]: run for run in runs}
            for turn in told[-7:]:  # the turn that was cut off took the slots of the eighth
                ids, back = names(4, str(turn)), memory(4, 4096)
                run = found[ids[0]]
                assert run.ids == ids
                assert store.read(run.slots, ids, back, never) == (4, "")
                assert data(back) == data(filled(4, 4096, turn))


def test_the_log_is_rewritten_when_it_is_long(tmp_path: Path) -> None:
    ids, blocks = names(4), filled(4, 4096)
    with opened(tmp_path / "w", slots=4) as (store, _):
        for _ in range(600):
            store.write([0, 1, 2, 3], ids, None, blocks, never)
    assert (tmp_path / "w" / LOG_FILE).stat().st_size == 5 * RECORD_BYTES
    with opened(tmp_path / "w", slots=4) as (store, runs):
        assert [run.ids for run in runs] == [ids]
        assert store.read([0, 1, 2, 3], ids, memory(4, 4096), never) == (4, "")


@pytest.mark.parametrize("slots", [2, 64])
def test_another_size_keeps_what_fits(tmp_path: Path, slots: int) -> None:
    ids = names(4)
    with opened(tmp_path / "w", slots=4) as (store, _):
        store.write([0, 1, 2, 3], ids, None, filled(4, 4096), never)
    with opened(tmp_path / "w", slots=slots) as (store, runs):
        assert [run.ids for run in runs] == [ids[:slots]]
        assert store.read([0, 1], ids[:2], memory(2, 4096), never) == (2, "")
    assert (tmp_path / "w" / SLOTS_FILE).stat().st_size == DATA_START + slots * 4096


@pytest.mark.parametrize(("size", "fingerprint"), [(4096, OTHER), (8192, MINE)])
def test_blocks_of_another_kind_are_not_read(tmp_path: Path, size: int, fingerprint: bytes) -> None:
    (a,) = names(1)
    with opened(tmp_path / "w") as (store, _):
        store.write([0], [a], None, filled(1, 4096), never)
    with opened(tmp_path / "w", size=size, fingerprint=fingerprint) as (store, runs):
        assert runs == []
        assert "another model, cluster key or block layout" in store.notes[-1]
        assert store.read([0], [a], memory(1, size), never) == (0, "missing")
    with opened(tmp_path / "w") as (store, runs):
        assert runs == []


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "w") as (store, _):
        with pytest.raises(ConfigError, match="in use by another jedlik process"):
            FileStore(tmp_path / "w", 16, 4096, MINE).open()
        assert store.write([0], names(1), None, filled(1, 4096), never) == (1, "")


def test_only_this_user_may_read(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir(mode=0o755)
    with opened(tmp_path / "w"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "w").iterdir()}
    assert modes == {SLOTS_FILE: 0o600, LOG_FILE: 0o600}
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o700


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "w" / SLOTS_FILE).symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="can't use"):
        FileStore(tmp_path / "w", 16, 4096, MINE).open()
    (tmp_path / "v").symlink_to(tmp_path / "w")
    with pytest.raises(ConfigError, match="is a link"):
        FileStore(tmp_path / "v", 16, 4096, MINE).open()
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_budgets_too_small_for_a_block(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no room for a single KV block"):
        FileStore(tmp_path / "w", slots_in(1000, 4096), 4096, MINE)


FULL = """
import json, resource, sys
from pathlib import Path
from kept_blocks import MINE, filled, memory, names, never
from jedlik.core.errors import ConfigError
from jedlik.transfer.file import FileStore
from jedlik.transfer.slots import DATA_START
folder, hard = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (DATA_START + 4 * 4096, hard))
try:
    FileStore(folder, 16, 4096, MINE).open()
except ConfigError as error:
    refused = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store = FileStore(folder, 16, 4096, MINE, sync_s=0.01)
store.open()
ids, blocks = names(8), filled(8, 4096)
resource.setrlimit(resource.RLIMIT_FSIZE, (DATA_START + 4 * 4096, hard))
wrote = store.write([0, 2, 4, 6], ids[:4], None, blocks[:4], never)
read = store.read([0, 2, 4, 6], ids[:4], memory(4, 4096), never)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
again = store.write([4, 6], ids[2:4], ids[1], blocks[2:4], never)
store.close()
print(json.dumps([refused, wrote, read, again]))
"""


def test_a_full_disk_is_a_cause_and_no_exception(tmp_path: Path) -> None:
    """The kernel's limit on file sizes stands for the full disk: the same calls fail."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "w"], stdout=subprocess.PIPE, check=True, cwd=HERE)
    refused, wrote, read, again = json.loads(done.stdout)
    assert "ask for less disk, or make room" in refused
    assert (wrote, read, again) == ([2, "failed"], [2, "missing"], [2, ""])
    with opened(tmp_path / "w") as (_, runs):
        assert [(run.ids, run.slots) for run in runs] == [(names(4), [0, 2, 4, 6])]


BEHIND = """
import resource, sys
from pathlib import Path
from kept_blocks import MINE, filled, memory, names, never
from jedlik.transfer.file import FileStore
from jedlik.transfer.slots import DATA_START
store, hard = FileStore(Path(sys.argv[1]), 600, 4096, MINE, sync_s=3600), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
store.open()
ids = names(1000)
for i in range(1000):
    if i == 900:  # the log is longer than slot 0 is far now: it can't grow, the slot can be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (DATA_START + 4096, hard))
    assert store.write([0], [ids[i]], None, filled(1, 4096, i), never) == (1, "")
assert store.read([0], [ids[999]], memory(1, 4096), never) == (1, "")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
if sys.argv[2] == "close":
    store.close()
else:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_no_room_for_the_log_costs_nothing_now(tmp_path: Path, end: str) -> None:
    """It catches up when it is closed; killed before, the slot is a miss, never the block that was there before."""
    subprocess.run([sys.executable, "-c", BEHIND, tmp_path / "w", end], check=end == "close", cwd=HERE)
    ids, back = names(1000), memory(1, 4096)
    with opened(tmp_path / "w", slots=600) as (store, runs):
        (found,) = [run.ids[0] for run in runs]
        told = store.read([0], [found], back, never)
    assert (found, told) == ((ids[999], (1, "")) if end == "close" else (ids[899], (0, "corrupt")))
