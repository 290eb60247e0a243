"""`jedlik profile`: its grid, its two ways of measuring against engines whose costs are known, and its command line."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jedlik.cli.main import app
from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError, PeerError
from jedlik.core.protocol import Card, StepCosts
from jedlik.core.step import Step, StepDone
from jedlik.models.info import block_bytes
from jedlik.perf.linear import Point, mean_error
from jedlik.perf.profile import from_json, model
from jedlik.perf.step import StepShape, chunk_pairs, shape_of, shape_s
from jedlik.profiles.catalogue import lookup
from jedlik.profiling import endpoint as endpoints
from jedlik.profiling import profile as profiling
from jedlik.profiling.grid import CPU, ENDPOINT, GPU, REPEATS, Grid, GridTask, Room, fitting, lane_tokens, plan
from jedlik.profiling.steps import Bench, MeasureRequest
from jedlik.serve import values
from jedlik.serve.engines import profiled_costs, simulated_share
from worker_world import make_card

COSTS = StepCosts(
    base_s=0.012, prefill_token_s=0.0009, prefill_pair_s=4e-8, decode_sequence_s=0.0015, context_token_s=4e-7
)
SMALL = Grid(lengths=(8, 16, 32, 64), contexts=(16, 96), batches=(1, 2, 4), fill_tokens=400)
ROOM = Room(256, 2000)


class KnownEngine:
    """Answers at once, claims the time of its costs, and checks that nothing reads what was not computed."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._on_done: Callable[[StepDone], None] | None = None
        self._tables: dict[int, list[int]] = {}
        self._length: dict[int, int] = {}
        self._written: set[tuple[int, int]] = set()

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        self._on_done = on_done

    def submit(self, step: Step) -> None:
        self.steps.append(step)
        self._check(step)
        assert self._on_done is not None
        self._on_done(StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=shape_s(COSTS, shape_of(step))))

    def close(self) -> None:
        pass

    def _check(self, step: Step) -> None:
        for lane in step.closed:
            del self._length[lane]
        for opened in step.opened:
            assert opened.lane not in self._length
            self._length[opened.lane] = len(opened.prompt) // 4
        self._tables |= {lane: list(blocks) for lane, blocks in step.tables}
        for chunk in step.prefills:
            assert chunk.start + chunk.length == self._length[chunk.lane]
            self._compute(chunk.lane, chunk.start, chunk.length)
            self._length[chunk.lane] += 1
        for lane in step.decodes:
            self._compute(lane, self._length[lane] - 1, 1)
            self._length[lane] += 1
        assert step.decode_context == sum(self._length[lane] - 1 for lane in step.decodes)

    def _compute(self, lane: int, start: int, length: int) -> None:
        slots = [(block, n) for block in self._tables[lane] for n in range(16)]
        assert set(slots[:start]) <= self._written
        self._written.update(slots[start : start + length])


def card() -> Card:
    return make_card(total_blocks=200, block_size=16, max_model_len=256)


@given(st.sampled_from([CPU, GPU, ENDPOINT, SMALL]), st.integers(64, 40_000), st.integers(200, 200_000))
def test_a_plan_stays_within_the_room(grid: Grid, max_model_len: int, kv_tokens: int) -> None:
    room = Room(max_model_len, kv_tokens)
    fits = fitting(grid, room)
    lanes, tasks = lane_tokens(fits, room), plan(fits, room)
    assert sum(-(-tokens // 16) * 16 for tokens in lanes) <= kv_tokens
    assert all(task.length + task.start <= lanes[-1] for task in tasks)
    assert all(max(task.start + task.length, task.context + 2 * REPEATS) <= max_model_len for task in tasks)
    for task in tasks:
        assert task.batch < len(lanes)
        assert all(task.context + 2 * REPEATS <= tokens for tokens in lanes[: task.batch])
    assert any(task.length for task in tasks)


def test_no_room_for_a_batch_is_said() -> None:
    with pytest.raises(ConfigError, match="no room for 64 sequences of 1024 tokens in a KV cache of 9000"):
        plan(Grid(lengths=(8,), contexts=(1024,), batches=(64,), fill_tokens=1), Room(4096, 9000))


def test_what_fits_is_not_cut() -> None:
    assert fitting(CPU, Room(8192, 100_000)) == CPU
    assert {task.batch for task in plan(CPU, Room(8192, 100_000)) if task.context == 1024} == {1, 2, 4, 8}


def test_steps_measured_give_back_the_costs() -> None:
    engine = KnownEngine()
    bench = Bench(engine, card(), MeasureRequest(lanes=lane_tokens(SMALL, ROOM), chunk=64))
    points = [point for task in plan(SMALL, ROOM) * 2 for point in bench.run(task)]
    assert all(elapsed_s == pytest.approx(shape_s(COSTS, shape), rel=1e-3) for shape, elapsed_s in points)
    profile = profiling.made(points, "x")
    assert profile.error is not None
    assert profile.error < 0.002
    assert profile.costs.prefill_token_s == pytest.approx(COSTS.prefill_token_s, rel=0.01)
    assert profile.costs.decode_sequence_s == pytest.approx(COSTS.decode_sequence_s, rel=0.01)
    unseen = StepShape(48, chunk_pairs(20, 48), 3, 300)
    assert model(profile).step_s(unseen) == pytest.approx(shape_s(COSTS, unseen), rel=0.01)


def test_a_failing_engine_is_told() -> None:
    class Failing(KnownEngine):
        def submit(self, step: Step) -> None:
            assert self._on_done is not None
            self._on_done(StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=0.0, error="out of memory"))

    with pytest.raises(PeerError, match="out of memory"):
        Bench(Failing(), card(), MeasureRequest(lanes=[100, 100], chunk=64)).run(GridTask(length=8))


def stream(began_s: float, first_s: float, gap_s: float, count: int, each: int = 1) -> endpoints.MeasuredStream:
    events = [first_s + n * gap_s for n in range(count)]
    return endpoints.MeasuredStream(
        began_s=began_s, events_s=events, prompt_tokens=100, cached_tokens=0, output_tokens=count * each
    )


def test_a_batch_is_timed_where_all_of_it_decodes() -> None:
    early = stream(0.0, 1.0, 0.1, 40)
    late = stream(0.0, 2.0, 0.1, 40)
    point = endpoints.window([early, late])
    assert point is not None
    assert point.elapsed_s == pytest.approx(0.1)
    assert point.shape.decode_sequences == 2
    assert point.shape.context_tokens == pytest.approx(200 + 10 + 2 * 15, abs=3)
    assert endpoints.window([early, stream(0.0, 4.8, 0.1, 40)]) is None


def test_events_of_several_tokens_count_as_several_steps() -> None:
    point = endpoints.window([stream(0.0, 1.0, 0.4, 20, each=4)])
    assert point is not None
    assert point.elapsed_s == pytest.approx(0.1)


class Completions(BaseHTTPRequestHandler):
    """A server that streams at once: what matters here is the protocol."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "m", "max_model_len": 300}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] != "m" or self.headers.get("authorization") != "Bearer key":
            self.send_error(401)
            return
        lines = [{"choices": [{"text": "x"}]} for _ in range(body["max_tokens"])]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        chunks = [*lines, {"choices": [], "usage": usage}]
        self._send("text/event-stream", b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks))

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_an_endpoint_is_measured_from_outside(server: str) -> None:
    endpoint = endpoints.Endpoint(server + "/v1", None, "key")
    assert (endpoint.model, endpoint.max_model_len) == ("m", 300)
    room = endpoints.room(endpoint, ENDPOINT)
    grid = fitting(ENDPOINT, room)
    assert grid.lengths[-1] == 128
    done: list[GridTask] = []
    points = endpoints.measure(endpoint, grid, [GridTask(length=32), GridTask(batch=2, context=64)], done.append)
    assert points[0].shape == StepShape(32, chunk_pairs(0, 32), 0, 0)
    assert [task.length for task in done] == [32, 0]
    with pytest.raises(PeerError, match="401"):
        endpoints.Endpoint(server, None, "other").stream([1], 1)
    with pytest.raises(ConfigError, match="has m"):
        endpoints.Endpoint(server, "n", None)


def test_ascending_numbers_are_read() -> None:
    assert values.ascending("lengths", "64, 16,64") == (16, 64)
    for wrong in ("", "a", "0,5", "-1", "5,", "1.5", "1_0", "+5", "٥"):
        with pytest.raises(ConfigError, match="whole numbers above 0"):
            values.ascending("lengths", wrong)


def test_steps_have_names() -> None:
    assert profiling.step_name(StepShape(128, chunk_pairs(1024, 128), 0, 0)) == "prefill 128 after 1024"
    assert profiling.step_name(StepShape(16, chunk_pairs(0, 16), 8, 512)) == "prefill 16 + decode 8 x 64"


def test_a_profile_is_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = [StepShape(n, chunk_pairs(0, n), 0, 0) for n in (16, 64)]
    shapes += [StepShape(0, 0, b, b * c) for b in (1, 4) for c in (64, 256)]
    points = [Point(shape, shape_s(COSTS, shape)) for shape in shapes]
    profile = msgspec.structs.replace(profiling.made(points, "mine"), model="m")
    profiling.finish(profile, points, tmp_path / "mine.json")
    read = from_json((tmp_path / "mine.json").read_bytes(), "mine.json")
    assert mean_error(model(read).step_s, points) < 1e-3
    said = capsys.readouterr().out
    assert "decode 4 x 256" in said
    assert "mean error" in said
    with pytest.raises(ConfigError, match="--out"):
        profiling.finish(profile, points, tmp_path / "no" / "mine.json")
    with pytest.raises(ConfigError, match="one phase"):
        profiling.made(points[:2], "x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--list"], "qwen3-32b-fp8/h200/tp2"),
        (["--show", "qwen3-32b-fp8/h200/tp2"], "8.125 + 0.03566 a token + 1.4e-06 a pair"),
        (["--show", "roofline:deepseek-r1/h200/tp8"], "deepseek-r1 on 8 x h200"),
    ],
)
def test_profiles_are_listed_and_shown(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert result.exit_code == 0
    assert said in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure"),
        (["--show", "nothing"], "unknown profile 'nothing'"),
        (["tiny-random", "--busy", "0"], "--busy is 0"),
        (["tiny-random", "--device", "gpu"], "expected one of auto, cpu, cuda"),
        (["tiny-random", "--kv-cache-bytes", "much"], "--kv-cache-bytes much"),
        (["tiny-random", "--batches", "x"], "--batches x"),
        (["--url", "http://127.0.0.1:1"], "no OpenAI endpoint answers"),
        (["--url", "ftp://x"], "expected something like"),
        (["--url", "http://127.0.0.1:1", "--busy", "2"], "leave it out with --url"),
    ],
)
def test_wrong_use_is_answered_with_a_remedy(arguments: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["profile", *arguments]).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_a_simulated_engine_gets_the_profile_s_cache() -> None:
    layout = card().layout
    profile = lookup("qwen3-32b-fp8/h200/tp2")
    share = simulated_share(profile, layout)
    assert share is not None
    assert profile.kv_tokens is not None
    assert share // block_bytes(layout) - 1 == profile.kv_tokens // layout.block_size
    assert simulated_share(msgspec.structs.replace(profile, kv_tokens=None), layout) is None
    assert simulated_share(None, layout) is None


@pytest.mark.cluster
def test_real_processes_measure_a_real_engine(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    grid = ["--lengths", "8,16", "--contexts", "16,64", "--batches", "1,2"]
    out = tmp_path / "tiny.json"
    given = [
        "tiny-random",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--threads",
        "1",
        "--busy",
        "2",
        "--name",
        "mine",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, ["profile", *given, *grid])
    assert result.exit_code == 0, result.exception
    assert "decode 2 x 66" in result.stdout
    profile = from_json(out.read_bytes(), "tiny.json")
    assert (profile.name, profile.model, profile.device, profile.gpus) == ("mine", "tiny-random", "cpu", 0)
    assert profile.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert profile.table is not None
    assert profile.table.batches == (1, 2)


def test_what_is_served_with_a_profile_believes_it_until_steps_say_otherwise() -> None:
    costs = model(lookup("qwen3-32b-fp8/h200/tp2")).costs
    torch = ServeConfig(model="m", profile="qwen3-32b-fp8/h200/tp2")
    assert profiled_costs(torch) == costs
    fast = profiled_costs(ServeConfig(model="m", engine="simulated", speedup=2.0, profile=torch.profile))
    assert fast is not None
    assert fast.prefill_token_s == costs.prefill_token_s / 2
    assert profiled_costs(ServeConfig(model="m")) is None
