"""Tables of speed, from the reports of the benchmarks."""

from __future__ import annotations

import json
import statistics
from typing import Any

import benchmark_evaluation
import benchmark_inference
import benchmark_revisions
from results_files import results_file

from tables.text import table


def report(name: str) -> dict[str, Any]:
    """Results of a benchmark."""
    return dict(json.loads(results_file("speed", name).read_text()))


def tables() -> str:
    """Tables of all benchmarks: gradient-based agents on a CPU and on a GPU, agents with a memory, families."""
    runs = [report(name) for name in ("speed", "speed_cuda", "speed_rl2", "speed_rl2_cuda")]
    first = [f(run) for f, run in zip([speed_table] * 2 + [memory_speed_table] * 2, runs, strict=True)]
    families = [
        family_speed_table(
            "speed_families",
            "python experiments/benchmark_families.py --only f,g",
            "(f) with a policy of 2 x 64 units in the loop, (g) and the open loops with actions drawn in advance",
        ),
        family_speed_table(
            "speed_meta_world",
            "python experiments/benchmark_families.py --only j --out experiments/results/speed/speed_meta_world.json",
            "actions drawn in advance, beside the package's vector environments and MuJoCo's steps alone",
        ),
        family_speed_table(
            "speed_robots",
            "python experiments/benchmark_families.py --only k --out experiments/results/speed/speed_robots.json",
            "whole meta-updates of `rl2` with a GRU of 128 units and of `maml`, beside the environments alone",
        ),
        family_speed_table(
            "speed_mini_grid",
            "python experiments/benchmark_families.py --only l --out experiments/results/speed/speed_mini_grid.json",
            "actions drawn in advance, beside Gymnasium's vector environments of the package's",
        ),
    ]
    return "\n\n".join([*first, *families])


SPEED_SUMMARY = {  # report: rows, each the measured work and the other side
    "speed": [
        ("stepping", "SyncVectorEnv per task"),
        ("MAML iteration", "loop, graphs kept"),
        ("MAML iteration, stride 5", "loop, graphs kept"),
    ],
    "speed_cuda": [("MAML iteration", "loop, graphs kept")],
    "speed_rl2": [
        ("RL2, LSTM 64, 64 trials", "RecurrentPPO"),
        ("RL2, GRU 64, 64 trials", "JAX loop"),
        ("RL2, LSTM 256, 64 trials", "RecurrentPPO"),
        ("RL2, GRU 256, 64 trials", "JAX loop"),
        ("RL2, GRU 204, 1,024 trials", "GRUCell loop"),
        ("RL2, GRU 204, 1,024 trials", "JAX loop"),
    ],
    "speed_rl2_cuda": [("RL2, LSTM 256, 64 trials", "RecurrentPPO")],
    "speed_families": [("HalfCheetahVel, 256 environments", "SyncVectorEnv, 64")],
    "speed_meta_world": [("Meta-World ML10, 100 environments", "SyncVectorEnv, 10")],
    "speed_robots": [("rl2 on HalfCheetahVel, 160 trials", "environments alone")],
    "speed_mini_grid": [("MiniGrid four rooms, 256 environments", "SyncVectorEnv, 64")],
}


def summary() -> str:
    """Table of some ratios from each machine."""
    rows = []
    for name, wanted in SPEED_SUMMARY.items():
        data = report(name)
        device = data["cuda"] or f"{data['cores']} cores of {data['cpu']}"
        found = {(row["what"], row["other"]): row for row in data["rows"]}
        for what, other in wanted:
            ours, theirs = (f"{statistics.median(found[what, other][side]):,.0f}" for side in ("ours", "theirs"))
            compared = f"{other}, on that machine's CPU" if data["cuda"] and other == "RecurrentPPO" else other
            rows.append([what, compared, device, ours, theirs, f"{found[what, other]['ratio']:.1f} x"])
    return "Environment steps per second, medians of interleaved repeats.\n\n" + table(
        ["", "compared with", "on", "metarl", "other", "ratio"], rows
    )


def evaluation() -> str:
    """Table of the time of an evaluation."""
    return benchmark_evaluation.table_of(json.loads(benchmark_evaluation.OUT.read_text()))


_INFERENCE = {
    "h": "(h) VariBAD, environment steps per second of training",
    "i": "(i) PEARL, gradient steps per second",
}


def inference() -> str:
    """Table of agents that infer the task beside plain loops, and of RL2 beside its former code."""
    data = json.loads(benchmark_inference.OUT.read_text())
    rows = speed_rows(data, "hi")
    old = json.loads(benchmark_revisions.OUT.read_text())
    ours, theirs = (1000 * statistics.median(old[name]) for name in ("now", "before"))
    what = f"`{old['agent']}` on {old['family'].partition('/')[2]}, {old['revision']}"
    parts = [words for part, words in _INFERENCE.items() if part in {row["part"] for row in data["rows"]}]
    shares = []
    for who, side in data["details"].get("pearl", {}).items():
        by_name = {"matrix products": side["products"], **side["others"]}
        shares.append(f"{who}: {', '.join(f'{name} {share:.0%}' for name, share in by_name.items())}")
    return (
        f"{'; '.join(parts)}; medians of {data['options']['repeats']} interleaved repeats with "
        f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], rows)
        + (f"\n\nShares of the time of PEARL's gradient steps: {'; '.join(shares)}." if shares else "")
        + f"\n\n{what} (`python experiments/benchmark_revisions.py {old['revision']}`): {theirs:.1f} ms a meta-update "
        f"before it was built of shared parts, {ours:.1f} ms now, {theirs / ours:.2f} times as fast; medians of "
        f"{len(old['now'])} turns of each in processes of their own, one thread."
    )


def family_speed_table(name: str, command: str, what: str) -> str:
    """Table of families and vector environments."""
    data = report(name)
    return (
        f"Families, environment steps per second, medians of {data['options']['repeats']} interleaved repeats with "
        f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores (`{command}`): {what}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], speed_rows(data, "fgjkl"))
    )


def speed_table(data: dict[str, Any]) -> str:
    """Table with a row for each comparison, and the time and memory of the meta-iteration."""
    rows = speed_rows(data, "abd")
    sides = data["details"]["meta_iteration"]
    took = {name: {k: statistics.median(v) for k, v in side.items()} for name, side in sides.items()}
    memory = data["details"]["memory"]["bytes_peak"] / 2**20
    device = f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores"
    held = "memory at its peak, Python and PyTorch included"
    if data.get("cuda"):
        device, held = f"one {data['cuda']}", "the GPU's memory at its peak"
        memory = data["details"]["memory"]["bytes_peak_cuda"] / 2**20
    thinned = ""
    if "stride 5" in took:
        thinned = (
            f" With one sample in five in the Fisher-vector products (`fvp_stride=5`) it takes "
            f"{took['stride 5']['seconds_total']:.2f} s, {took['stride 5']['sampling_share']:.1%} of it sampling."
        )
    parts = "(b) one exact MAML-TRPO meta-iteration, 40 tasks x 20 episodes x 100 steps, "
    parts += "compared with the same update task by task"
    if "a" in data["options"]["only"]:
        parts = f"(a) 40 tasks x 20 environments with a 2x100 policy per task, no training; {parts}"
    return (
        f"Environment steps per second, medians of {data['options']['repeats']} interleaved repeats with "
        f"{device}: {parts}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], rows)
        + f"\n\nThe meta-iteration takes {took['metarl']['seconds_total']:.2f} s, "
        f"{took['metarl']['sampling_share']:.1%} of it sampling, and {memory:,.0f} MiB of {held}.{thinned}"
        f"{speed_many_tasks(data['details'])}"
    )


def speed_rows(data: dict[str, Any], parts: str) -> list[list[str]]:
    """Rows of the comparisons of some parts."""
    rows = []
    for row in (r for r in data["rows"] if r["part"] in parts):
        ours, theirs = (f"{statistics.median(row[side]):,.0f}" if row[side] else "" for side in ("ours", "theirs"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f} x"
        rows.append([f"({row['part']}) {row['what']}", row["other"], ours, theirs, ratio])
    return rows


def memory_speed_table(data: dict[str, Any]) -> str:
    """Table of RL2's training, and of the GRU."""
    shares = [
        f"{name} with {case['hidden']} units {side['share_of_peak']:.0%}"
        for case in data["details"]["rl2"]
        for name, side in case["sides"].items()
        if name in ("metarl", "JAX loop") and side.get("share_of_peak")
    ]
    parts = (
        "(c) training RL2 on bandits of 100 pulls, environment steps per second, 4 epochs, 64 trials and one "
        "minibatch, or 1,024 and four; RecurrentPPO has an LSTM, so it is also compared with rl2 with an LSTM"
    )
    if "e" in data["options"]["only"]:
        parts += "; (e) sequence steps per second of a GRU forwards and backwards, sequences of 100"
    where = f"{data['options']['threads']} threads on {data['cpu']}, {data['cores']} cores"
    if data.get("cuda"):
        where = f"one {data['cuda']}"
        parts += (
            "; only RecurrentPPO runs on the machine's CPU. The warm-up includes the first update of a size, which is "
        )
        parts += "captured as a CUDA graph. There was no loop in JAX"
    return (
        f"Agents with a memory, medians of {data['options']['repeats']} interleaved repeats with {where}: {parts}.\n\n"
        + table(["", "compared with", "metarl", "other", "ratio"], speed_rows(data, "ce"))
        + f"\n\nShare of the fastest matrix product: {', '.join(shares)}."
    )


def speed_many_tasks(details: dict[str, Any]) -> str:
    """Sentence about memory and time of the meta-iteration on many tasks."""
    if "many_tasks" not in details:
        return ""
    cases = details["many_tasks"]["cases"]
    most = max(case["tasks"] for case in cases)
    parts = [
        f"{case['memory'].get('bytes_peak_cuda', case['memory']['bytes_peak']) / 2**30:.1f} GiB at its peak and "
        f"{statistics.median(case['seconds']['total']):,.3g} s ("
        f"{'exact' if case['stride'] == 1 else 'stride ' + str(case['stride'])})"
        for case in cases
        if case["tasks"] == most
    ]
    return f"\n\n(d) On {most:,} tasks at once it takes {', '.join(parts)}."
