"""Back-off, run directories and children: the rules, without a server."""

import asyncio
import os
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from jedlik.core.errors import ConfigError
from jedlik.fleet.backoff import HEALTHY_S, SERVED_S, Backoff
from jedlik.live.child import EXIT_CONFIG, Child
from jedlik.live.rundir import Owner, make, remove_stale
from jedlik.live.running import Running, start
from jedlik.net.discovery.local import start_ticks


def test_quick_ends_wait_longer_and_become_a_crash_loop() -> None:
    backoff = Backoff()
    restarts = [backoff.ended(1.0) for _ in range(8)]
    assert [r.delay_s for r in restarts] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert [r.crash_loop for r in restarts] == [False] * 3 + [True] * 5
    assert backoff.ended(HEALTHY_S).delay_s == 0.0


def test_a_kill_from_outside_is_no_crash_unless_it_hits_while_starting() -> None:
    backoff = Backoff()
    kills = [backoff.ended(10.0, SERVED_S, killed=True) for _ in range(8)]
    assert all(r.delay_s == 0.0 and not r.crash_loop and not r.quick_ends for r in kills)
    assert [backoff.ended(10.0, 0.0, killed=True).quick_ends for _ in range(4)] == [1, 2, 3, 4]
    assert backoff.ended(10.0, SERVED_S, killed=False).crash_loop


def test_a_process_is_ready_when_its_status_is_empty() -> None:
    run_dir = make(None, os.getpid())
    try:
        status = run_dir.status / "worker-0"
        assert run_dir.ready_s("worker-0") == 0.0
        status.write_text("loading weights")
        os.utime(status, (1.0, 1.0))
        assert run_dir.ready_s("worker-0") == 0.0
        status.write_text("")
        os.utime(status, (1.0, 1.0))
        assert run_dir.ready_s("worker-0") > 1e6
    finally:
        run_dir.remove()


def test_a_status_is_never_seen_half_written() -> None:
    """Half-written it would be empty, and empty means that the worker serves."""
    run_dir = make(None, os.getpid())
    try:
        run_dir.set_status("worker-0", "importing torch")
        with open(run_dir.status / "worker-0") as before:
            run_dir.set_status("worker-0", "loading weights")
            assert before.read() == "importing torch"  # who had it open sees it whole
        assert not run_dir.ready("worker-0")
        run_dir.set_status("worker-0", "")
        assert run_dir.ready("worker-0")
        assert [path.name for path in run_dir.status.iterdir()] == ["worker-0"]
    finally:
        run_dir.remove()


def test_a_process_leaves_its_last_words_in_one_line_until_the_next_begins() -> None:
    run_dir = make(None, os.getpid())
    try:
        assert run_dir.last_words("worker-0") == ""
        run_dir.leave_words("worker-0", "size mismatch:\n\tmodel.norm\n" + "x" * 10_000)
        assert run_dir.last_words("worker-0").startswith("size mismatch: model.norm x")
        assert len(run_dir.last_words("worker-0")) <= 500
        run_dir.forget("worker-0")
        assert run_dir.last_words("worker-0") == ""
    finally:
        run_dir.remove()


def test_a_run_directory_is_private_and_goes(tmp_path: Path) -> None:
    run_dir = make(None, os.getpid())
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    run_dir.write_private(run_dir.config("gateway"), b"key")
    assert stat.S_IMODE(run_dir.config("gateway").stat().st_mode) == 0o600
    run_dir.remove()
    assert not run_dir.path.exists()


def test_a_run_directory_in_use_or_of_others_is_refused() -> None:
    mine = make(None, os.getpid())
    try:
        with pytest.raises(ConfigError, match="in use by a server"):
            make(str(mine.path), os.getpid())
        (mine.path / "owner.json").unlink()
        with pytest.raises(ConfigError, match="not empty"):
            make(str(mine.path), os.getpid())
    finally:
        mine.remove()


def test_what_a_killed_server_left_is_taken_over() -> None:
    left = make(None, os.getpid())
    left.write_private(left.path / "owner.json", b'{"pid": 1, "started": 12345}')
    again = make(str(left.path), os.getpid())
    try:
        assert sorted(p.name for p in again.path.iterdir()) == ["owner.json", "records", "status"]
    finally:
        again.remove()


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long for unix sockets"):
        make(str(tmp_path / ("x" * 80)), os.getpid())


def python(code: str) -> Running:
    return start([sys.executable, "-c", code])


def test_a_child_that_ends_is_started_again_until_stopped(tmp_path: Path) -> None:
    said: list[str] = []

    async def scenario() -> None:
        starts = 0

        def spawn() -> Running:
            nonlocal starts
            starts += 1
            return python("import sys; sys.exit(3)") if starts == 1 else python("import time; time.sleep(60)")

        child = Child("worker-9", spawn, said.append)
        keeping = asyncio.create_task(child.keep())
        while starts < 2:  # noqa: ASYNC110 - a process starts when it does
            await asyncio.sleep(0.01)
        await child.stop(60.0)
        await asyncio.wait_for(keeping, 60)

    asyncio.run(scenario())
    assert said == ["worker-9 ended with code 3; starting it again now"]


def test_a_child_that_cannot_start_is_not_tried_again() -> None:
    child_code = f"import sys; sys.exit({EXIT_CONFIG})"

    async def scenario() -> None:
        await Child("worker-9", lambda: python(child_code), print, last_words=lambda: "no tokenizer").keep()

    with pytest.raises(ConfigError, match="worker-9 cannot start: no tokenizer"):
        asyncio.run(scenario())


def test_a_deaf_child_is_killed_after_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jedlik.live.child.KILL_AFTER_S", 0.1)
    said: list[str] = []
    deaf = tmp_path / "deaf"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w'); time.sleep(60)"

    async def scenario() -> None:
        child = Child("worker-9", lambda: python(code), said.append)
        keeping = asyncio.create_task(child.keep())
        while not deaf.exists():  # noqa: ASYNC110 - a process starts when it does
            await asyncio.sleep(0.01)
        await child.stop(0.1)
        await keeping

    asyncio.run(scenario())
    assert said == ["worker-9 does not stop: killing it"]


def test_what_killed_servers_left_is_removed_and_living_ones_stay(tmp_path: Path) -> None:
    dead, living, foreign = (tmp_path / f"jedlik-{os.getuid()}-{name}" for name in ("dead", "living", "foreign"))
    for path in (dead, living, foreign):
        path.mkdir()
    (dead / "owner.json").write_bytes(b'{"pid": 1, "started": 12345}')
    (living / "owner.json").write_bytes(msgspec.json.encode(Owner(os.getpid(), start_ticks(os.getpid()) or 0)))
    remove_stale(tmp_path)
    assert [path.exists() for path in (dead, living, foreign)] == [False, True, True]
