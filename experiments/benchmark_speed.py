"""Speed of metarl and of plain loops, measured in turns in the same run.

    python experiments/benchmark_speed.py [--repeats 5] [--only a,b,c,d,e] [--threads 2] [--device cpu] [--small]

Parts: (a) stepping 2-D navigation with a policy per task. (b) One MAML-TRPO meta-iteration on it, exact and with a
thinned Fisher matrix. (c) Training RL2 on the bandit, compared with a GRUCell loop, a PureJaxRL-style loop (if JAX is
installed) and RecurrentPPO. RecurrentPPO's memory is an LSTM as wide as the GRU, so it is also compared with rl2 with
an LSTM. (d) Memory and time of (b)'s iteration on 1,000 tasks. (e) Forward and backward passes of a GRU over whole
sequences, compared with nn.GRU. Numbers of (a), (b) and (c) are environment steps per second, those of (e) sequence
steps per second, so a ratio above 1 means that metarl is faster. A number is the median over repeats after one
warm-up, which includes JAX's compilation. The numpy environments and their policies, RecurrentPPO and (e) run on the
CPU. (c) also counts arithmetic: of a step, and of the fastest matrix product.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from baselines import bandit_loop, maml_loop, navigation_loop
from baselines.bandit_loop import Case, large
from baselines.measure import Sample, Side, compare, interleave, lines_of, machine, timed
from results_files import results_file

from metarl import make_agent
from metarl.agent import Budget
from metarl.agents.gradient.maml import MAML
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.files import write_atomic
from metarl.learning.gradient.meta_gradient import GRAPH_BYTES
from metarl.learning.memory import GRU
from metarl.rng import Rng

HERE = Path(__file__).resolve().parent
OUT = results_file("speed", "speed")
Part = tuple[list[dict[str, Any]], dict[str, Any]]  # rows of the table, and details by name
STRIDE = 5  # (b), (d): the thinned Fisher matrix uses every fifth sample
GOAL_BYTES = 8 * 2**30  # (d): memory that an iteration should not exceed


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    repeats: int = 5
    """Timed repeats of each side."""
    only: str = "a,b,c,d,e"
    """Parts, separated by commas."""
    threads: int = 2
    """Number of PyTorch threads."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to use tiny sizes, to test that everything runs. Such numbers are meaningless."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the work."""

    tasks: int = 40
    """(a), (b): tasks per iteration."""
    many_tasks: int = 1000
    """(d): tasks per iteration."""
    episodes: int = 20
    """(a), (b), (d): environments per task; each plays one episode."""
    hidden: tuple[int, ...] = (100, 100)
    """(a), (b), (d): the policy's layers."""
    cases: tuple[Case, ...] = (Case(64), Case(256), large(204), large(205))
    """(c): networks and batches. 205 units are nearest to 134 thousand parameters. 204 is a width that fits vectors of
    16 bytes: with odd widths, matrix products of the CPU libraries take twice as long."""
    units: tuple[int, ...] = (64, 128, 256)
    """(e): widths of the GRU."""
    rows: tuple[int, ...] = (16, 64, 256)
    """(e): sequences at once."""
    steps: int = 100
    """(e): steps of a sequence."""
    sequences: int = 512
    """(e): sequences per repeat."""


SMALL = Sizes(
    tasks=2,
    many_tasks=3,
    episodes=2,
    hidden=(8, 8),
    cases=(Case(8, 4, 5, updates=1), Case(9, 8, 5, minibatches=2, updates=1, recurrent_ppo=False)),
    units=(8,),
    rows=(2, 3),
    steps=4,
    sequences=6,
)


def main(options: Options) -> None:
    """Measure, print the tables and write the results."""
    chosen, sizes = options.only.split(","), SMALL if options.small else Sizes()
    if options.repeats < 1 or not set(chosen) <= set(PARTS):
        raise SystemExit(f"--repeats must be at least 1 and --only some of {','.join(PARTS)}, not {options.only!r}")
    torch.set_num_threads(options.threads)
    settings = asdict(options) | {"out": options.out.name}
    report: dict[str, Any] = {"options": settings, "sizes": asdict(sizes), **machine(), "rows": [], "details": {}}
    report["graph_bytes"] = GRAPH_BYTES
    if "b" in chosen:
        report["details"]["memory"] = alone(options, sizes.tasks)["memory"]  # must come first: see `alone`
    for name in sorted(chosen, key="dabce".index):  # (d) also starts a process
        rows, details = PARTS[name](options, sizes)
        report["rows"] += rows
        report["details"] |= details
    print("\n".join([*lines_of(report), *lines_of_arithmetic(report["details"].get("rl2", []))]))
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


def alone(options: Options, tasks: int, stride: int = 1, repeats: int = 1) -> dict[str, Any]:
    """Time and memory of metarl's meta-iterations in a fresh process.

    A Linux process inherits its parent's `ru_maxrss`, so call this before the parent process grows.

    Args:
        options: `threads`, `device` and `small` are used.
        tasks: tasks per iteration.
        stride: the Fisher-vector products use one sample in `stride`.
        repeats: number of iterations.

    Returns:
        `memory`: bytes of the process at its peak and before the first iteration. `seconds`: lists over repeats.
    """
    code = "import sys, json, benchmark_speed as b; b.print_alone(*json.loads(sys.argv[1]))"
    settings = {k: getattr(options, k) for k in ("threads", "device", "small")}
    command = [sys.executable, "-c", code, json.dumps([settings, tasks, stride, repeats])]
    done = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def print_alone(settings: dict[str, Any], tasks: int, stride: int, repeats: int) -> None:
    """Measure the iterations and print JSON; `alone` runs this in a new process."""
    options = Options(**settings)
    torch.set_num_threads(options.threads)
    cuda, sizes = options.device.startswith("cuda"), SMALL if options.small else Sizes()
    agent, trials = navigation(options, replace(sizes, tasks=tasks), stride)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"bytes_before": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    warm, few = navigation(options, replace(sizes, tasks=tasks if cuda else 2), stride)  # CUDA loads kernels by shape
    warm.train_step(few(0))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: dict[str, list[float]] = {"total": [], "sampling": []}
    for i in range(repeats):
        played = trials(i)
        total, _ = timed(options.device, lambda played=played: agent.train_step(played))  # type: ignore[misc]
        seconds["total"].append(total)
        seconds["sampling"].append(played.seconds)
    memory["bytes_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if cuda:
        memory["bytes_peak_cuda"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"memory": memory, "seconds": seconds}))


def navigation(o: Options, s: Sizes, stride: int = 1) -> tuple[MAML, Callable[[int], PoolTrials]]:
    """Make a MAML agent, and the function that makes the trials of its iteration i."""
    family, sizes = "metarl/PointNavigation-v0", {"meta_batch_size": s.tasks, "episodes": s.episodes}
    agent = make_agent("maml", family, device=o.device, hidden=s.hidden, fvp_stride=stride, **sizes)
    assert isinstance(agent, MAML)
    pool = EnvironmentPool(agent.family, agent.device)

    def trials(i: int) -> PoolTrials:
        return PoolTrials(pool, agent.family.tasks("train", s.tasks, start=i * s.tasks), iteration=i)

    return agent, trials


def navigation_sampler(agent: MAML, trials: PoolTrials, s: Sizes) -> Callable[[], int]:
    """Make a plain loop over the trials' tasks. Environments and networks are made here; the loop returns its steps."""
    theta, generator = agent.theta, torch.Generator().manual_seed(0)
    made = [
        (navigation_loop.vector_env(goal, s.episodes), navigation_loop.network(theta, agent.config.activation))
        for goal in trials.tasks.values["goal"]
    ]

    def sample() -> int:
        steps = 0
        for envs, net in made:
            data = navigation_loop.rollout(envs, net, theta["log_std"].cpu(), agent.family.horizon, generator)
            steps += data["reward"].numel()
        return steps

    return sample


def stepping(o: Options, s: Sizes) -> Part:
    """(a) Collect one episode in every environment of every task, with a policy for each task."""
    agent, trials = navigation(o, s)

    def metarl(i: int) -> Sample:
        def work() -> int:
            state, budget = agent.begin(s.tasks), Budget(envs=s.episodes, steps=agent.family.horizon)
            return int(trials(i).collect(agent, state, 0, budget)[0].env_steps.sum())

        seconds, steps = timed(o.device, work)
        return {"rate": steps / seconds}

    def loop(i: int) -> Sample:
        seconds, steps = timed(o.device, navigation_sampler(agent, trials(i), s))
        return {"rate": steps / seconds}

    raw = interleave({"metarl": metarl, "loop": loop}, o.repeats)
    return [compare("a", "stepping", "SyncVectorEnv per task", raw["metarl"]["rate"], raw["loop"]["rate"])], {}


def meta_iteration(o: Options, s: Sizes) -> Part:
    """(b) Whole iterations. A loop samples as many steps as metarl, and then optimises metarl's batches.

    The loop's sampling neither adapts nor fits baselines; metarl's does both. `difference` is the distance of a loop's
    new parameters from metarl's, relative to metarl's step; conjugate gradients amplify float32 rounding. `stride 5` is
    the same iteration with one sample in five in the Fisher-vector products; its `difference` is the distance from the
    exact iteration.
    """
    agent, trials = navigation(o, s)
    thinned, _ = navigation(o, s, STRIDE)
    rollouts = agent.config.inner_steps + 1
    steps = s.tasks * s.episodes * agent.family.horizon * rollouts
    shared: dict[str, Any] = {}

    def sample(sampling: float, optimisation: float, **more: float) -> Sample:
        total = sampling + optimisation
        seconds = {"seconds_total": total, "seconds_sampling": sampling, "seconds_optimisation": optimisation}
        return {"rate": steps / total, "update_rate": steps / optimisation, **seconds, **more}

    def difference(new: maml_loop.Theta) -> float:
        change, error = (maml_loop.distance(agent.theta, other) for other in (shared["theta"], new))
        return error / max(change, 1e-30)

    def library(which: MAML, i: int) -> Sample:
        played = trials(i)
        total, _ = timed(o.device, lambda: which.train_step(played))
        return sample(played.seconds, total - played.seconds, sampling_share=played.seconds / total)

    def metarl(i: int) -> Sample:
        shared.update(theta=dict(agent.theta), batches=maml_loop.collect(agent, trials(i)))
        return library(agent, i)

    def strided(i: int) -> Sample:
        thinned.theta = dict(shared["theta"])
        return library(thinned, i) | {"difference": difference(thinned.theta)}

    def plain_sampling(i: int) -> Sample:
        work = navigation_sampler(agent, trials(i), s)
        shared["sampling"] = timed(o.device, lambda: [work() for _ in range(rollouts)])[0]
        return {}

    def loop(keep_graphs: bool) -> Sample:
        theta, tasks = shared["theta"], maml_loop.split(*shared["batches"])
        seconds, new = timed(o.device, lambda: maml_loop.meta_update(theta, tasks, agent.config, keep_graphs))
        return sample(shared["sampling"], seconds, difference=difference(new))

    stride = f"stride {STRIDE}"
    loops: dict[str, Side] = {"loop": lambda i: loop(False), "loop, graphs kept": lambda i: loop(True)}
    raw = interleave({"metarl": metarl, stride: strided, "sampling": plain_sampling, **loops}, o.repeats)
    rows = [
        compare("b", what, "exact" if other == "metarl" else other, raw[ours][key], raw[other][key])
        for ours, note, others in (("metarl", "", loops), (stride, f", {stride}", ("metarl", *loops)))
        for what, key in ((f"MAML iteration{note}", "rate"), (f"MAML meta-update{note}", "update_rate"))
        for other in others
    ]
    return rows, {"meta_iteration": raw}


def recurrent(o: Options, s: Sizes) -> Part:
    """(c) Collect trials and train on them."""
    done = [bandit_loop.measure_case(case, o.device, o.threads, o.repeats) for case in s.cases]
    return [row for rows, _ in done for row in rows], {"rl2": [arithmetic for _, arithmetic in done]}


def lines_of_arithmetic(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Lines about the arithmetic that (c) counted."""
    for case in cases:
        size = f"{case['hidden']} units, {case['trials']:,} trials, {case['parameters']:,} parameters"
        yield f"(c) {size}: peak {case['peak_flops'] / 1e9:,.0f} GFLOP/s"
        for name, side in case["sides"].items():
            work = f"{side['flops_per_step'] / 1e6:.2f} MFLOP a step"
            yield f"(c) {size}: {name}: {side['rate']:,.0f} steps/s, {work}, {side['share_of_peak']:.0%} of the peak"


def sequences(o: Options, s: Sizes) -> Part:
    """(e) Forward and backward passes over sequences on the CPU; inputs are as wide as rl2's on the bandit."""
    return [sequence_row(o, s, units, rows) for units, rows in itertools.product(s.units, s.rows)], {}


def sequence_row(o: Options, s: Sizes, units: int, rows: int) -> dict[str, Any]:
    """One size of (e): metarl's GRU, which divides many sequences into parts, and the `nn.GRU` of the same weights."""
    rng, memory, passes = Rng(torch.tensor([0])), GRU(8, units), max(1, s.sequences // rows)
    memory.initialise(rng)
    x, gradient = rng.normal(s.steps, rows, 8)[0], torch.ones(s.steps, rows, units)

    def rated(forward: Callable[[torch.Tensor], torch.Tensor]) -> Side:
        def work() -> None:
            for _ in range(passes):
                forward(x).backward(gradient)

        return lambda i: {"rate": passes * s.steps * rows / timed("cpu", work)[0]}

    raw = interleave({"metarl": rated(memory), "nn.GRU": rated(lambda x: memory.rnn(x)[0])}, o.repeats)
    return compare("e", f"GRU {units}, {rows} rows", "nn.GRU", raw["metarl"]["rate"], raw["nn.GRU"]["rate"])


def many_tasks(o: Options, s: Sizes) -> Part:
    """(d) Meta-iterations on many tasks in a new process, exact and thinned; on CUDA also on few tasks.

    A CPU makes one iteration after a warm-up on two tasks, for any `--repeats`, because it takes minutes. CUDA makes
    `--repeats` iterations after a warm-up of the same size.
    """
    cuda = o.device.startswith("cuda")
    repeats = o.repeats if cuda else 1
    cases = [
        {"tasks": tasks, "stride": stride, **alone(o, tasks, stride, repeats)}
        for tasks in ((s.tasks, s.many_tasks) if cuda else (s.many_tasks,))
        for stride in (1, STRIDE)
    ]
    peaks = [case["memory"]["bytes_peak_cuda" if cuda else "bytes_peak"] for case in cases]
    fine = max(peaks) < GOAL_BYTES
    return [], {"many_tasks": {"repeats": repeats, "goal_bytes": GOAL_BYTES, "goal_met": fine, "cases": cases}}


PARTS = {"a": stepping, "b": meta_iteration, "c": recurrent, "d": many_tasks, "e": sequences}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
