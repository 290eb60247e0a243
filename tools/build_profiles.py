"""Makes src/jedlik/profiles/data from a folder of GPU profiles.

    python tools/build_profiles.py FOLDER

FOLDER holds aic_linear_fits.json, aic_grid.csv.gz, aic_systems/*.yaml and h200_dynamo_planner/*.npz; models.json is
written by hand and only read here. What is left out, and why, stands in the data folder's README.
"""

import csv
import gzip
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import yaml

from jedlik.perf.linear import PhaseCosts, PhaseModel, Point, mean_error, phases
from jedlik.perf.profile import Profile, model
from jedlik.perf.roofline import Gpu, kv_gpu_bytes, kv_tokens
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.perf.table import Table, table_of
from jedlik.profiles.shapes import shape

DATA = Path(__file__).parents[1] / "src/jedlik/profiles/data"
AIC = "aiconfigurator-core 0.12.0 operator database (Apache-2.0), composed per model: modelled, not run end to end"
PLANNER = "ai-dynamo 1.6.1 planner test data (Apache-2.0): Llama-3.1-8B-Instruct FP8, vLLM, H200"
GPUS = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "l40s", "rtx_pro_6000_server")
LONGEST_CHUNK = 32768
MOST_SEQUENCES = 1024
"""vLLM's own limit for a batch on such a GPU; measured points beyond it were queueing."""


class Key(msgspec.Struct, frozen=True):
    """One configuration of the grid."""

    model: str
    system: str
    backend: str
    tp: int
    dp: int
    moe_tp: int
    ep: int

    @property
    def usable(self) -> bool:
        """See the README of the data folder."""
        name, slow_on = self.model, ("b200_sxm", "gb200")
        if name.startswith("deepseek") or (name == "qwen3-32b-fp8" and self.backend == "vllm"):
            return False
        if name == "gpt-oss-120b" and self.backend == "trtllm" and self.system in slow_on:
            return False
        return not (name == "qwen3-235b-a22b-fp8" and self.backend == "vllm" and self.system in slow_on)

    @property
    def shown_model(self) -> str:
        return re.sub(r"^llama3", "llama-3", self.model)

    @property
    def name(self) -> str:
        experts = f"ep{self.ep}" if self.ep > 1 else ""
        other = "" if self.backend == "trtllm" else f"-{self.backend}"
        return f"{self.shown_model}/{self.system.removesuffix('_sxm')}/tp{self.tp}{experts}{other}"


def gpus(folder: Path) -> Iterator[Gpu]:
    for name in GPUS:
        read = yaml.safe_load((folder / f"aic_systems/{name}.yaml").read_text())
        gpu, node = read["gpu"], read["node"]
        flops = {"bfloat16": "bfloat16_tc_flops", "fp8": "fp8_tc_flops", "fp4": "fp4_tc_flops"}
        yield Gpu(
            name=name.removesuffix("_sxm").removesuffix("_server").replace("_", "-"),
            memory_bytes=gpu["mem_capacity"],
            memory_bytes_s=float(gpu["mem_bw"]),
            flops={dtype: float(gpu[key]) for dtype, key in flops.items() if key in gpu},
            link_bytes_s=float(node["intra_node_bw"]),
            network_bytes_s=float(node.get("inter_rack_bw", node["inter_node_bw"])),
            domain=node.get("num_gpus_per_rack", node["num_gpus_per_node"]),
            collective_bytes=read["misc"]["nccl_mem"],
        )


def grid(folder: Path) -> dict[Key, list[Point]]:
    """Points in seconds, by configuration; `batch_per_rank` is the whole batch where there is one rank."""
    found: dict[Key, list[Point]] = defaultdict(list)
    with gzip.open(folder / "aic_grid.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            parallel = (int(row[name]) for name in ("tp", "attn_dp", "moe_tp", "moe_ep"))
            batch, tokens, cached = int(row["batch_per_rank"]), int(row["isl_or_ctx"]), int(row["prefix"])
            new = tokens - cached
            prefill = StepShape(new, chunk_pairs(cached, new), 0, 0)
            at = prefill if row["phase"] == "prefill" else StepShape(0, 0, batch, batch * tokens)
            found[Key(row["model"], row["system"], row["backend"], *parallel)].append(Point(at, float(row["ms"]) / 1e3))
    return found


def modelled(folder: Path, known: dict[str, Gpu], shapes: dict[str, dict[str, object]]) -> Iterator[Profile]:
    points = grid(folder)
    for text, fit in json.loads((folder / "aic_linear_fits.json").read_text()).items():
        name, system, backend, *parallel = text.split("|")
        key = Key(name, system, backend, *map(int, parallel))
        if not key.usable:
            continue
        width = "fp8" if key.model.endswith("-fp8") else None
        sized = shape(key.shown_model, shapes[key.shown_model.removesuffix("-fp8")], width, key.name)
        gpu = known[system.removesuffix("_sxm")]
        room = kv_tokens(sized, gpu, key.tp)
        profile = Profile(
            name=key.name,
            model=key.shown_model,
            device=gpu.name,
            backend=backend,
            tp=key.tp,
            ep=key.ep,
            gpus=key.tp * key.dp,
            costs=costs(fit),
            kv_bytes_per_token=round(kv_gpu_bytes(sized, key.tp) * key.tp),
            kv_tokens=room,
            source=AIC,
        )
        held = [p for p in points[key] if p.shape.context_tokens <= room and p.shape.prefill_tokens <= LONGEST_CHUNK]
        if sized.experts:
            profile = msgspec.structs.replace(profile, table=rounded(table_of(held)))
        yield msgspec.structs.replace(profile, error=round(mean_error(model(profile).step_s, held), 4))


def costs(fit: dict[str, list[float]]) -> PhaseCosts:
    numbers = (max(ms, 0.0) / 1e3 for ms in (*fit["prefill_ms"], *fit["decode_ms"]))
    return PhaseCosts(**dict(zip(PhaseCosts.__struct_fields__, (float(f"{x:.6g}") for x in numbers), strict=True)))


def rounded(table: Table) -> Table:
    """Five digits are more than the data are worth."""
    columns = ("prefill_s", "decode_s", "context_token_s")
    scalars = ("prefill_pair_s", "mixed_sequence_s")
    numbers: dict[str, object] = {name: tuple(float(f"{x:.5g}") for x in getattr(table, name)) for name in columns}
    return msgspec.structs.replace(table, **numbers, **{n: float(f"{getattr(table, n):.5g}") for n in scalars})


def measured(folder: Path, shapes: dict[str, dict[str, object]]) -> Profile:
    """Llama-3.1-8B FP8 on an H200; its KV cache was BF16 (from the capacity that the data state)."""
    prefill = np.load(folder / "h200_dynamo_planner/prefill_raw_data.npz")
    decode = np.load(folder / "h200_dynamo_planner/decode_raw_data.npz")
    room = int(decode["max_kv_tokens"][0])
    points = [
        Point(StepShape(int(isl), chunk_pairs(0, int(isl)), 0, 0), float(ms) / 1e3)
        for isl, ms in zip(prefill["prefill_isl"], prefill["prefill_ttft"], strict=True)
    ]
    columns = zip(decode["x_kv_usage"], decode["y_context_length"], decode["z_itl"], strict=True)
    for usage, context, ms in columns:
        batch = round(float(usage) * room / float(context))
        if batch <= MOST_SEQUENCES:
            points.append(Point(StepShape(0, 0, batch, round(batch * float(context))), float(ms) / 1e3))
    fit = phases(points)
    sized = shape("llama-3.1-8b", shapes["llama-3.1-8b"], None, "models.json")
    return Profile(
        name="llama-3.1-8b-fp8/h200/tp1-vllm",
        model="llama-3.1-8b-fp8",
        device="h200",
        backend="vllm",
        costs=PhaseCosts(**{name: float(f"{x:.6g}") for name, x in msgspec.structs.asdict(fit).items()}),
        kv_bytes_per_token=round(kv_gpu_bytes(sized, 1)),
        kv_tokens=room,
        measured=True,
        error=round(mean_error(PhaseModel(fit).step_s, points), 4),
        source=PLANNER,
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    known = {gpu.name: gpu for gpu in gpus(folder)}
    shapes = json.loads((DATA / "models.json").read_text())
    profiles = sorted([*modelled(folder, known, shapes), measured(folder, shapes)], key=lambda p: p.name)
    (DATA / "gpus.json").write_bytes(msgspec.json.format(msgspec.json.encode(list(known.values())), indent=1) + b"\n")
    (DATA / "profiles.jsonl").write_bytes(b"".join(msgspec.json.encode(profile) + b"\n" for profile in profiles))
    for profile in profiles:
        print(f"{profile.name:44} error {profile.error:.1%}  KV {profile.kv_tokens}")


if __name__ == "__main__":
    main()
