"""The one configuration schema: file, flags and environment all fill these values; nothing else configures jedlik.

Reading is `serve/settings`; here are only the values, their defaults and what they mean. Flags are the field names with
dashes, file keys the field names, environment variables JEDLIK_ + the upper-case name. Each decider gets its own slice.

The module is long because the meaning of every setting stands below it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# Ranges stand with the fields; `serve/values` holds every setting to its own.
YEAR_S = 31_536_000.0
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Workers = Annotated[int, Meta(ge=0, le=4096)]
Seconds = Annotated[float, Meta(ge=0, le=YEAR_S)]
Period = Annotated[float, Meta(gt=0, le=YEAR_S)]
Factor = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "bfloat16", "float32"]
Role = Literal["prefill", "decode", "both"]
"""A role says what a worker admits: prompts to prefill for others, requests to decode, or both. It may change while the
worker runs."""
DEFAULT_WORKERS = 2
ADOPTABLE_S = 60.0


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one worker: what it may hold and do at once. `scheduling/`, `moving/` and `nodes/worker` read
    them."""

    block_size: Annotated[int, Meta(ge=1, le=4096)] = 16
    """Tokens per KV block."""
    max_sequences: Positive = 64
    """Sequences in one batch, at most."""
    max_step_tokens: Positive = 512
    """Tokens computed in one step, prefill and decode together: bounds how long a decode waits for a chunk."""
    max_waiting: Count = 4096
    """Sequences queued beyond those that could run at once, at most; more are refused as overloaded."""
    run_ahead: bool = True
    """Hand over the next step while one runs."""
    heartbeat_s: Period = 0.25
    """A load report at least this often."""
    load_period_s: Period = 0.1
    """A load report at most this often while things change."""
    hung_step_s: Period = 5.0
    """A step is hung after the larger of this and `hung_step_factor` times its prediction."""
    hung_step_factor: Factor = 5.0
    """A step is never hung before this many times its prediction, nor before `hung_step_s`."""

    handoff_share: Share = 0.5
    """The share of the KV cache, at most, for blocks that are on their way from other workers or tiers."""
    handoff_patience_s: Period = 2.0
    """A hand-off that makes no progress for this long, and three times as long as expected, is given up: the prompt is
    computed here."""
    load_deadline_s: Period = 5.0
    """A load from host memory, disk or object storage that takes longer is a miss."""
    offload_blocks: Count = 4096
    """Blocks that wait to be copied to a lower tier, at most; what comes beyond is not copied."""
    host_eviction: Literal["lru", "s3fifo"] = "lru"
    """The blocks that leave host memory first: the least recently used, or by S3-FIFO; always leaf first."""
    disk_admission: Literal["second_touch", "all"] = "second_touch"
    """The blocks that are written to disk. second_touch: those that were asked for again (all, while the disk is mostly
    empty); all: every block."""
    verify_share: Share = 0.0
    """The share of loads from disk or object storage that is also computed here and compared. A difference is counted
    and the load dropped."""


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules by which a gateway admits, routes and keeps requests alive. `routing/` and `nodes/gateway` read
    them."""

    max_attempts: Positive = 4
    """Dispatches of one choice, the first included, before the client gets an error."""
    silent_suspect_s: Period = 1.5
    """No message from a worker for this long: no new requests go there."""
    silent_fence_s: Period = 5.0
    """No message from a worker for this long: its streams go on elsewhere, and it is cut off, killed and restarted."""
    no_worker_wait_s: Seconds = 0.0
    """The time that a new request may wait for a worker when none is ready (or none has been yet), before 503. At 0 a
    balancer in front learns at once that it should ask another server."""
    migration_wait_s: Seconds = 10.0
    """The time that a stream that lost its worker may wait for another one."""
    max_in_flight: Positive = 4096
    """Choices in flight in this gateway, at most; more are refused as overloaded."""
    index_bytes: Positive = 256 << 20
    """Budget of the prefix index; beyond it leaves are forgotten."""
    explain_requests: Count = 1000
    """Requests whose routing decisions are kept for /explain."""
    ack_every_tokens: Positive = 16
    """Consumption is acknowledged to workers this often."""

    policy: str = "jedlik"
    """The routing policy: a name from docs/routing.md, or FILE.py[:NAME] of your own."""
    shadow_policy: str | None = None
    """A second policy, asked about every request and never followed; `/explain` shows what it would have done."""
    slo_ttft_s: Period | None = None
    """Time to first token that counts as good. Set, requests are queued and shed to keep it; None: no such promise."""
    slo_itl_s: Period | None = None
    """Mean time between tokens of an answer that counts as good."""
    report_s: Seconds = 1.0
    """The planner is told of demand and workers this often; 0: never, and then nothing scales by itself."""
    shed: bool = True
    """Refuse (429, with Retry-After) what can't keep `slo_ttft_s` because of load; and while that has to be done, also
    prompts too long to keep it on an idle worker. docs/routing.md says exactly when."""


class FrontendConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP surface. Read by `frontend/`."""

    max_body_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    """The largest body of a request in bytes, also after unpacking it (content-encoding: gzip)."""
    max_head_bytes: Annotated[int, Meta(ge=1024)] = 64 << 10
    """The largest request line and headers together, in bytes; more is refused with 414 or 431."""
    receive_s: Period = 60.0
    """A request must be whole within this time, else 408; a body that comes at 16 KiB/s or faster is never late."""
    idle_s: Period = 75.0
    """A connection without a request is closed after this."""
    max_connections: Positive | None = None
    """Connections at once. When there are more, those without a request are closed first, then new ones are refused
    with 503. Default: the open files that are allowed (`ulimit -Hn`, at most 65536), less a reserve for workers and
    logs."""
    max_messages: Positive = 10_000
    """Messages and parts of messages of one request, at most."""
    text_cache_bytes: Positive = 112 << 20
    """Words and beginnings of prompts that are kept with their token ids; the least recently used go first."""
    ping_s: Period = 10.0
    """`: ping` is sent on a stream after this much silence."""
    stalled_client_s: Period = 60.0
    """A client that takes nothing for this long is cut."""
    default_max_tokens: Positive | None = None
    """The limit of an answer's tokens where a request names none. Default: the context length for chat, 16 for
    completions, as OpenAI documents."""
    max_choices: Positive = 128
    """`n` of one request, at most."""
    max_batch_prompts: Positive = 256
    """Prompts in one request for completions, at most."""
    max_stop_strings: Count = 32
    """Stop strings of one request, at most."""
    max_top_logprobs: Count = 20
    """`top_logprobs` of one request, at most."""
    log_requests: bool = True
    """One log line for every answer."""


class PlannerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules by which a planner decides how many workers there should be, and of which role.

    The promises are `gateway.slo_ttft_s` and `gateway.slo_itl_s`.
    """

    mode: Literal["off", "advise", "on"] | None = None
    """off: as many workers as were started; advise: say what would be done, and why; on: do it. Default: on where a
    budget is given, else off."""
    policy: str = "jedlik"
    """The planner: jedlik, static, or FILE.py[:NAME] of your own (docs/contracts/planners.md)."""
    budget: Annotated[float, Meta(ge=1, le=1_000_000)] | None = None
    """GPUs, at most, over all workers; where a worker takes none: processes."""
    min_workers: Workers = 1
    """Never fewer: all roles together."""
    min_prefill: Workers = 1
    """Never fewer that prefill, where prefill and decode are apart."""
    min_decode: Workers = 1
    """The same for those that decode."""
    attainment: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    """The share of requests that should keep the SLOs, of those that could keep them on an idle worker."""
    start_s: Seconds | None = None
    """Seconds from the order to start a worker until it serves. Default: learnt from starts, 30 s before the first."""
    drain_s: Seconds = 120.0
    """A worker that is to go may take so long to finish what it has; then its streams go on elsewhere."""
    tick_s: Period = 5.0
    """The period in which counts are decided. A backlog that can't wait is answered within a second."""
    gpu_hour_cost: Annotated[float, Meta(ge=0)] | None = None
    """The cost of a GPU in an hour, for reports."""

    @property
    def acts(self) -> Literal["off", "advise", "on"]:
        """`mode`, or its default."""
        return self.mode or ("off" if self.budget is None else "on")


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pool: workers that are alike. What a pool leaves out, it takes from the top level of the file.

    `serve`, `simulate` and `plan` read the same pools; docs/contracts/pools.md has the table.
    """

    name: str
    """The pool's name in reports, records and faults: no / or @ in it."""
    model: str | None = None
    """The model that its workers serve."""
    engine: str | None = None
    """The engine of its workers. A simulation takes the time of every engine's steps from `profile`."""
    role: Role = "both"
    """The role of its workers at start."""
    count: Workers | None = None
    """Workers at start. Default: `min`, else 1."""
    min: Workers | None = None
    """Workers, at least: a planner's minimum of the role is never less than the sum over its pools."""
    max: Workers | None = None
    """Workers at once, at most. Default: what the planner's budget allows."""
    profile: str | None = None
    """The time of steps: a name (`jedlik profile --list`), or a file that `jedlik profile` wrote."""
    gpus: Count | None = None
    """GPUs of one worker; 0: a CPU. Default: the profile's."""
    threads: Positive | None = None
    """Compute threads of one worker on a CPU."""
    host: str | None = None
    """The host of all its workers; pools may share one."""
    workers_per_host: Positive = 1
    """Workers that share a host and its memory, where no host is named."""
    start_s: Seconds = 60.0
    """Seconds from the order to start (or restart) a worker until it serves, in a simulation. Live, it is measured."""
    kv_cache_bytes: Positive | None = None
    """KV cache of one worker on its device, in bytes. Default in a simulation: the profile's."""
    kv_host_bytes: Count | None = None
    """KV kept in host memory, in bytes per worker; 0: none."""
    kv_disk: str | None = None
    """PATH:BYTES, a folder for KV on disk. BYTES are shared by the workers of one host."""
    kv_object: str | None = None
    """URL of a bucket or folder for KV that hosts share."""
    kv_object_bytes: Count = 0
    """KV in object storage that a simulated worker keeps account of, in bytes; 0: none. Live, a worker keeps account
    of a fixed number of blocks."""
    kv_token_bytes: Positive | None = None
    """Bytes of one token's KV over all GPUs of a simulated worker. Default: the profile's. Live, the model says it."""
    worker: WorkerConfig | None = None
    """Settings of its workers; those left out are the file's."""

    @property
    def replicas(self) -> int:
        """The number of its workers at start."""
        return self.count if self.count is not None else self.min if self.min is not None else 1


INHERITED = (
    *("model", "engine", "profile", "threads", "worker"),
    *("kv_cache_bytes", "kv_host_bytes", "kv_disk", "kv_object"),
)
"""The fields that a pool takes from the top level where it leaves them out."""
SHORTHAND: tuple[tuple[str, Role], ...] = (("prefill", "prefill"), ("decode", "decode"), ("workers", "both"))
"""Settings that say the count of a role's only pool, in the order of workers' numbers."""


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`jedlik serve`: one gateway and its workers on this host."""

    model: str
    """Hugging Face directory, GGUF file, or an alias (`jedlik model list`)."""
    served_model_name: str | None = None
    """The name clients use; default: the alias, else the directory's or file's name."""
    workers: Workers | None = None
    """Workers that both prefill and decode. Default: 2, or none where `prefill` or `decode` is given. This and the next
    two are shorthand for pools: each says the count of its role's only pool."""
    prefill: Workers = 0
    """Workers that only prefill, for others."""
    decode: Workers = 0
    """Workers that decode; whether they also prefill a prompt is decided for each, by what is faster."""
    engine: str = "torch"
    """The engine of workers: torch (PyTorch), or simulated (it computes nothing and takes the time of steps)."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """0: any that is free."""
    device: Device = "auto"
    """auto: a GPU where there is one."""
    generation_config: Literal["vendor", "none"] = "vendor"
    """Sampling where a request says nothing. vendor: what the model's generation_config.json says (temperature,
    top_p, top_k, min_p, repetition_penalty, max_new_tokens: the most of any answer); none: OpenAI's defaults."""
    dtype: Dtype = "auto"
    """auto: bfloat16 where the machine computes it fast, else float32."""
    max_model_len: Positive | None = None
    """Prompt plus output; default: the model's own, cut to what the KV cache holds."""
    kv_cache_bytes: Positive | None = None
    """The KV cache of each worker, in bytes. Default: a share of what is free, shown at start."""
    kv_host_bytes: Count | None = None
    """Host memory per worker for blocks that leave the cache; none: what leaves is gone."""
    kv_disk: str | None = None
    """PATH:BYTES, such as /var/cache/jedlik:20G: a folder for blocks on disk, BYTES shared by this host's workers.
    Blocks are found again after a restart. Whoever can read the folder can read what users wrote."""
    kv_object: str | None = None
    """URL of a bucket or folder for blocks that hosts share: s3://bucket/prefix, file:///path."""
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """Compute threads per worker on CPU; default: cores / workers, at least 1."""
    deterministic: bool = False
    """Fixed-shape steps: bit-identical answers whatever else is in the batch; slower."""
    speedup: Factor = 1.0
    """Simulated engine: how much faster than its profile."""
    profile: str | None = None
    """The step times that the router assumes until workers report theirs: a name from `jedlik profile --list`, or a
    file that `jedlik profile` wrote. Default: learnt. The simulated engine also runs by it and has its KV cache;
    default there: about a 135M model on one core."""
    api_keys: dict[str, str] = {}
    """Key to tenant. Empty: no authentication, and then only loopback is bound."""
    allow_open: bool = False
    """Bind beyond loopback without API keys. Everybody who can reach the port can use it."""
    allow_special_in_text: bool = False
    """Text of messages may become control tokens of the model, such as <|im_end|>; else it stays text."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients call this server by, beside addresses, localhost, the host that is bound and names that can't
    be had in the public DNS; *: any. Not needed where API keys are set. docs/api.md says what this keeps out."""
    cors_origins: tuple[str, ...] = ("loopback",)
    """Web pages that may use this server: origins such as https://chat.example, loopback (pages of the browser's own
    machine), *, or none."""
    metrics_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """A port for /metrics alone, where no key is needed; default: /metrics is with the rest, and needs a key if there
    are any."""
    metrics_host: str = "127.0.0.1"
    """The address that the port for metrics is bound to."""
    drain_s: Seconds = 30.0
    """Budget for finishing what runs, at SIGTERM."""
    run_dir: str | None = None
    """The folder for sockets and records. Default: a fresh private folder."""
    orphan_s: Seconds | None = None
    """A killed supervisor's gateway and workers serve on for so long, for a new `jedlik serve` with the same run_dir to
    take them over; default: 60 s where run_dir is named, else 0: they end with it."""
    log_format: Literal["human", "json"] = "human"
    """The format of the log lines of all processes."""
    event_log: str | None = None
    """Folder to record every node's events in, for replay."""
    event_log_tokens: bool = False
    """Keep token ids in the event log: such a log can be replayed exactly, and holds what users wrote."""
    worker: WorkerConfig = WorkerConfig()
    gateway: GatewayConfig = GatewayConfig()
    planner: PlannerConfig = PlannerConfig()
    frontend: FrontendConfig = FrontendConfig()
    pools: tuple[PoolConfig, ...] = ()
    """The pools of the file, as written there. `worker_pools` is what to read."""

    @property
    def worker_pools(self) -> tuple[PoolConfig, ...]:
        """The pools, each with what it leaves out taken from the top level. Without `pools` in the file they are made
        of `prefill`, `decode` and `workers`."""
        return tuple(self._inherited(pool) for pool in (self.pools or self._shorthand_pools))

    @property
    def roles(self) -> list[Role]:
        """The roles of the workers at start, by number."""
        return [pool.role for pool in self.worker_pools for _ in range(pool.replicas)]

    @property
    def most_workers(self) -> int:
        """The most workers at once on this host. Cores, and what else workers share, are divided by it."""
        if self.planner.budget is None:
            return len(self.roles)
        limits = [pool.max for pool in self.worker_pools]
        return min([self._room, *([sum(filter(None, limits))] if None not in limits else [])])

    @property
    def adoptable_s(self) -> float:
        """`orphan_s`, or its default."""
        return self.orphan_s if self.orphan_s is not None else (0.0 if self.run_dir is None else ADOPTABLE_S)

    @property
    def _room(self) -> int:
        """For workers of one GPU each, or of none, in the budget."""
        return DEFAULT_WORKERS if self.planner.budget is None else max(int(self.planner.budget), 1)

    @property
    def _shorthand_pools(self) -> list[PoolConfig]:
        counts = {"prefill": self.prefill, "decode": self.decode, "workers": self.workers}
        if self.workers is None:
            counts["workers"] = 0 if self.prefill + self.decode else min(DEFAULT_WORKERS, self._room)
        pools = [PoolConfig(name=name, role=role, count=counts[name]) for name, role in SHORTHAND]
        return [pool for pool in pools if pool.count] or pools[-1:]

    def _inherited(self, pool: PoolConfig) -> PoolConfig:
        unset = {name: getattr(self, name) for name in INHERITED if getattr(pool, name) is None}
        count = next((getattr(self, name) for name, role in SHORTHAND if role == pool.role), None)
        return msgspec.structs.replace(pool, count=count or pool.count, **unset)


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The links of a simulated fleet: every process has one link for messages, shared by what it sends.

    KV moves on paths of its own, one transfer after the other on each: to own tiers, in and out, to workers of the same
    host (local) and of others (kv). A transfer takes its blocks times `..._block_s` plus its bytes at the bandwidth.
    """

    latency_s: Seconds = 0.0002
    """Seconds that a message takes one way."""
    bandwidth_bytes_s: Factor = 1.25e9
    """Bandwidth of one process's link for messages; they queue for it."""
    facts_delay_s: Seconds = 0.0
    """Further seconds that block facts take."""
    kv_bandwidth_bytes_s: Factor = 25e9
    """Bandwidth between workers of different hosts: 200 Gbit/s of RDMA."""
    kv_block_s: Seconds = 5e-6
    local_bandwidth_bytes_s: Factor = 50e9
    """Bandwidth between workers of one host."""
    local_block_s: Seconds = 2e-6
    host_bandwidth_bytes_s: Factor = 40e9
    """Bandwidth between device and host memory, in each direction."""
    host_block_s: Seconds = 5e-6
    disk_bandwidth_bytes_s: Factor = 5e9
    """Bandwidth of one NVMe drive, in each direction."""
    disk_block_s: Seconds = 2e-5
    object_bandwidth_bytes_s: Factor = 1e9
    object_block_s: Seconds = 2e-3
    """Seconds per block of an object store: tens of ms a request, many of them at once."""


class FaultConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that goes wrong in a simulation."""

    at_s: Seconds
    kind: Literal["crash", "hang", "slow", "lose_facts", "delay_facts", "duplicate_facts", "partition", "cut", "drain"]
    worker: int | str | None = None
    """The worker: an index over all pools, or `pool/number`; None: drawn by the seed."""
    peer: int | str | None = None
    """The worker at the other end of the link of a `cut`."""
    for_s: Period | None = None
    """Seconds that it lasts; None: for good (a crash or hang: until the supervisor has restarted it)."""
    factor: Factor = 3.0
    """Step times of a `slow` worker are multiplied by this."""
    share: Share = 1.0
    """Share of the messages that `lose_facts` and `duplicate_facts` concern."""
    delay_s: Seconds = 0.5
    """Seconds by which `delay_facts` delays."""


class SimulationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `simulation:` section of a file: what only the simulated world has. `jedlik serve` reads over it."""

    gateways: Positive = 1
    """Gateways; each gets a share of the requests."""
    network: NetworkConfig = NetworkConfig()
    faults: tuple[FaultConfig, ...] = ()
    handoffs: bool | None = None
    """Workers may send each other KV; default: where a pool has a role of its own."""
    step_by_step: bool = False
    """Decode steps are never taken together: slower, for checking that leaps change nothing."""
