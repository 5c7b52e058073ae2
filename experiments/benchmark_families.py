"""Speed of the families and of Gymnasium's vector environments, measured in turns in the same run.

    python experiments/benchmark_families.py [--repeats 5] [--only f,g,j,k,l] [--threads 2] [--small]

Part (f) is HalfCheetah with a policy in the loop (two layers of 64 units, normal actions, equal on both sides),
compared with Gymnasium's SyncVectorEnv and AsyncVectorEnv of HalfCheetah-v5, and AntDir with such a policy; both are
also compared with the open loop: MuJoCo's steps alone on as many threads, with actions drawn in advance. Part (g) is
CartPole with actions drawn in advance, compared with Gymnasium's CartPoleVectorEnv and SyncVectorEnv. Part (j) is
Meta-World with actions drawn in advance, compared with the package's own vector environments of the same benchmark, and
with MuJoCo's steps alone on as many threads: the same scenes and actions, nothing observed and nothing paid; last comes
the environment that is slowest here in a first pass. Part (k) is whole meta-updates of `rl2` on HalfCheetahVel (a GRU
of 128 units, 4 epochs of 4 minibatches) and of `maml` on HalfCheetahDir (20 tasks x 20 episodes x 200 steps, before and
after adaptation), compared with their environments alone. Part (l) is MiniGrid's four rooms with actions drawn in
advance and pictures as observations, compared with Gymnasium's vector environments of the package's, which observe the
package's picture (three numbers for a cell in place of 24). Every number is environment steps per second, restarts
included, as a median over repeats after one warm-up. Each of metarl's environments has a task of its own; Gymnasium's
have none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from baselines.measure import Side, compare, interleave, lines_of, machine, timed
from results_files import results_file
from torch import Tensor, nn

from metarl import make_agent, make_family, train
from metarl.engine.environments import engine_threads
from metarl.engine.pool import make_environments
from metarl.files import write_atomic
from metarl.rng import Rng, fold_in, make_key

OUT = results_file("speed", "speed_families")
PARTS = ("f", "g", "j", "k", "l")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    repeats: int = 5
    """Timed repeats of each side."""
    only: str = "f,g,j,k,l"
    """Parts, separated by commas."""
    threads: int = 2
    """Number of threads of PyTorch and of MuJoCo."""
    out: Path = OUT
    """Results file."""
    small: bool = False
    """Whether to use tiny sizes, to test that everything runs. Such numbers are meaningless."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the work."""

    cheetahs: tuple[int, ...] = (64, 256, 1024)
    """(f): numbers of metarl's environments."""
    sync: int = 64
    """(f), (g): environments of Gymnasium's SyncVectorEnv."""
    processes: int = 16
    """(f): environments of Gymnasium's AsyncVectorEnv, each in a process."""
    cheetah_steps: int = 40_000
    """(f): environment steps per repeat."""
    carts: int = 16_384
    """(g): environments."""
    cart_steps: int = 8_000_000
    """(g): environment steps per repeat of metarl and of CartPoleVectorEnv; SyncVectorEnv takes a hundredth of them."""
    arms: int = 100
    """(j): metarl's environments; the package has a tenth of them."""
    arm_steps: int = 50_000
    """(j): environment steps per repeat of metarl; the package takes a tenth of them."""
    others: int = 50
    """(j): environments in which the slowest is looked for."""
    trials: tuple[int, ...] = (20, 80, 160)
    """(k): trials of a meta-update of rl2, of 400 steps each."""
    maml: tuple[int, int] = (20, 20)
    """(k): tasks and episodes of a meta-update of maml."""
    mazes: int = 256
    """(l): metarl's environments; the package has a quarter of them in one process, and 8 in processes."""
    maze_steps: int = 1_000_000
    """(l): environment steps per repeat of metarl; the package takes a hundredth of them."""


SMALL = Sizes(
    cheetahs=(2, 3),
    sync=2,
    processes=2,
    cheetah_steps=12,
    carts=8,
    cart_steps=800,
    arms=10,
    arm_steps=20,
    others=2,
    trials=(4,),
    maml=(2, 2),
    mazes=8,
    maze_steps=800,
)


def policy(inputs: int, outputs: int) -> Callable[[Tensor], Tensor]:
    """Make a policy: normal actions around the output of a small network, clipped to [-1, 1]."""
    net = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

    def act(obs: Tensor) -> Tensor:
        return (net(obs) + torch.randn(len(obs), outputs)).clamp(-1.0, 1.0)

    return act


def metarl_side(id: str, n: int, total: int, threads: int, act: Callable[[Tensor, int], Tensor]) -> Side:
    """Make metarl's side: the engine over `n` environments, each with a task of its own."""
    family: Any = make_family(id)
    if family.on_host:
        family.threads = threads
    envs, tasks, steps = make_environments(family, n), family.tasks("train", n), max(1, total // n)

    def work(repeat: int) -> None:
        with engine_threads(family):  # as rollouts do
            obs = envs.begin(tasks, fold_in(make_key("speed", repeat), torch.arange(n)), steps)
            for t in range(steps):
                obs = envs.step(act(obs, t)).obs

    return lambda i: {"rate": steps * n / timed("cpu", lambda: work(i))[0]}


def gymnasium_side(envs: gym.vector.VectorEnv[Any, Any, Any], total: int, act: Callable[[Tensor, int], Tensor]) -> Side:
    """Make Gymnasium's side: a vector environment."""
    steps = max(1, total // envs.num_envs)

    def work(repeat: int) -> None:
        obs, _ = envs.reset(seed=repeat)
        for t in range(steps):
            obs = envs.step(act(torch.as_tensor(obs, dtype=torch.float32), t).numpy())[0]

    return lambda i: {"rate": steps * envs.num_envs / timed("cpu", lambda: work(i))[0]}


def cheetah(o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """Part (f): HalfCheetah."""
    net = policy(17, 6)
    sides = {
        f"{n} environments": metarl_side(
            "metarl/HalfCheetahVel-v0", n, s.cheetah_steps, o.threads, lambda obs, t: net(obs)
        )
        for n in s.cheetahs
    }
    theirs = {"SyncVectorEnv": (s.sync, "sync"), "AsyncVectorEnv": (s.processes, "async")}
    others = {name: gym.make_vec("HalfCheetah-v5", n, vectorization_mode=mode) for name, (n, mode) in theirs.items()}
    for name, envs in others.items():
        sides[name] = gymnasium_side(envs, s.cheetah_steps // 4, lambda obs, t: net(obs))
    raw = interleave(sides, o.repeats)
    for envs in others.values():
        envs.close()
    for n in s.cheetahs:
        for name, (count, _) in theirs.items():
            what, other = f"HalfCheetahVel, {n:,} environments", f"{name}, {count}"
            yield compare("f", what, other, raw[f"{n} environments"]["rate"], raw[name]["rate"])
    n = s.cheetahs[1]
    for name, shape, steps in (("HalfCheetahVel", (17, 6), s.cheetah_steps), ("AntDir", (27, 8), s.cheetah_steps // 4)):
        id, act = f"metarl/{name}-v0", policy(*shape)
        ours = metarl_side(id, n, steps, o.threads, lambda obs, t, act=act: act(obs))  # type: ignore[misc]
        raw = interleave({"ours": ours, "open loop": open_loop_side(id, n, steps, o.threads)}, o.repeats)
        yield compare("f", f"{name}, {n:,} environments", "open loop", raw["ours"]["rate"], raw["open loop"]["rate"])


def open_loop_side(id: str, n: int, total: int, threads: int) -> Side:
    """The robots' physics alone: steps of the engine with actions drawn in advance, and no restarts."""
    family: Any = make_family(id)
    family.threads = threads
    engine, steps = family.engine, max(1, total // n)
    rng = Rng(fold_in(make_key("speed"), torch.arange(n)))
    start = family.reset(family.tasks("train", n).tensors(), rng)["physics"].numpy()
    control = np.random.default_rng(0).uniform(-1, 1, (97, n, family.action_space.shape[0]))

    def work() -> None:
        physics = start
        for t in range(steps):
            if engine.robot.fields:
                physics = engine.resume(physics, control[t % 97])[0]["physics"]
            else:
                physics = engine.roll(physics, control[t % 97])[0]

    return lambda i: {"rate": steps * n / timed("cpu", work)[0]}


def cart_pole(o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """Part (g): CartPole."""
    plan = torch.randint(2, (97, s.carts))
    sync = gym.make_vec("CartPole-v1", s.sync, vectorization_mode="sync")
    batch = gym.make_vec("CartPole-v1", s.carts, vectorization_mode="vector_entry_point")
    sides = {
        "ours": metarl_side("metarl/CartPole-v0", s.carts, s.cart_steps, o.threads, lambda obs, t: plan[t % 97]),
        "CartPoleVectorEnv": gymnasium_side(batch, s.cart_steps, lambda obs, t: plan[t % 97]),
        "SyncVectorEnv": gymnasium_side(sync, s.cart_steps // 100, lambda obs, t: plan[t % 97, : s.sync]),
    }
    raw = interleave(sides, o.repeats)
    for name, count in (("CartPoleVectorEnv", s.carts), ("SyncVectorEnv", s.sync)):
        what = f"CartPole, {s.carts:,} environments"
        yield compare("g", what, f"{name}, {count:,}", raw["ours"]["rate"], raw[name]["rate"])


def physics_side(id: str, n: int, total: int, threads: int, plan: Tensor) -> Side:
    """MuJoCo's steps of Meta-World's environments: the same scenes and actions, nothing observed and nothing paid."""
    from metarl.envs.packages.meta_world_steps import Arms

    family: Any = make_family(id)
    names, vectors = family.scenes(family.tasks("train", n).tensors("cpu"))
    arms, steps, kinds = Arms(threads), max(1, total // n), np.array(names)
    scenes = [arms.arm(name).scene(vector) for name, vector in zip(names, vectors, strict=True)]
    shares = [share.tolist() for share in np.array_split(np.argsort(kinds, kind="stable"), threads)]
    for thread, share in enumerate(shares):
        for name in {names[row] for row in share}:
            arms.arm(name, thread)

    def step(t: int, states: Any) -> None:
        action = plan[t % len(plan)].numpy()
        for name in set(names):
            rows = np.flatnonzero(kinds == name)
            states[rows] = arms.arm(name).pulled(states[rows], action[rows])

        def work(thread: int) -> None:
            for row in shares[thread]:
                arm = arms.arm(names[row], thread)
                arm.place_in(scenes[row])
                arm.step(states[row], float(action[row, 3]))

        arms.share(work)

    def work() -> None:
        states = arms.start(names, vectors).physics
        for t in range(steps):
            step(t, states)

    return lambda i: {"rate": steps * n / timed("cpu", work)[0]}


def meta_world(o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """Part (j): Meta-World."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    plan = torch.rand(97, s.arms, 4) * 2 - 1
    ids = {"ML10": "metarl/MetaWorldML10-v0"}
    ids |= {name: f'metarl/MetaWorldML1-v0{{"env_name": "{name}"}}' for name in ("pick-place-v3", *ALL_V3_ENVIRONMENTS)}

    def ours(name: str, total: int) -> Side:
        return metarl_side(ids[name], s.arms, total, o.threads, lambda obs, t: plan[t % 97])

    first = {name: ours(name, s.arm_steps // 20)(0)["rate"] for name in list(ALL_V3_ENVIRONMENTS)[: s.others]}
    slowest = min(first, key=lambda name: first[name])
    for name in ("ML10", "pick-place-v3", slowest):
        yield from arms_beside_others(name, ids[name], ours(name, s.arm_steps), plan, o, s)


def arms_beside_others(name: str, id: str, ours: Side, plan: Tensor, o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """One benchmark of Meta-World beside the package's vector environments and MuJoCo's steps alone."""
    import metaworld

    few = max(10, s.arms // 10)
    sides = {"ours": ours, "physics alone": physics_side(id, s.arms, s.arm_steps, o.threads, plan)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package declares its spaces in two number formats
        theirs: dict[str, Any] = {
            f"{kind}VectorEnv": metaworld.make_ml_envs(name, seed=0, meta_batch_size=few, vector_strategy=kind.lower())
            for kind in ("Sync", "Async")
        }
    for other, envs in theirs.items():
        sides[other] = gymnasium_side(envs, s.arm_steps // 10, lambda obs, t: plan[t % 97, : len(obs)])
    raw = interleave(sides, o.repeats)
    for envs in theirs.values():
        envs.close()
    for other, count in {**dict.fromkeys(theirs, few), "physics alone": s.arms}.items():
        what = f"Meta-World {name}, {s.arms} environments"
        yield compare("j", what, f"{other}, {count}", raw["ours"]["rate"], raw[other]["rate"])


RL2 = {"hidden": 128, "trial_episodes": 2, "minibatches": 4, "normalize_rewards": True, "normalize_features": True}
MAML = {"hidden": (64, 64), "inner_lr": 0.1, "fvp_stride": 5}


def training_side(name: str, id: str, settings: dict[str, Any]) -> Side:
    """A meta-update of an agent."""
    agent = make_agent(name, make_family(id), **settings)
    steps = agent.train_env_steps or 0
    return lambda i: {"rate": steps / timed("cpu", lambda: train(agent, 1))[0]}


def training(o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """Part (k): training on HalfCheetahVel and HalfCheetahDir."""
    act = torch.rand(97, max(s.trials), 6) * 2 - 1
    for n in s.trials:
        alone = metarl_side("metarl/HalfCheetahVel-v0", n, 400 * n, o.threads, lambda obs, t: act[t % 97, : len(obs)])
        rl2 = training_side("rl2", "metarl/HalfCheetahVel-v0", RL2 | {"meta_batch_size": n})
        raw = interleave({"ours": rl2, "alone": alone}, o.repeats)
        yield compare(
            "k", f"rl2 on HalfCheetahVel, {n} trials", "environments alone", raw["ours"]["rate"], raw["alone"]["rate"]
        )
    (tasks, episodes), id = s.maml, "metarl/HalfCheetahDir-v0"
    n, act = tasks * episodes, torch.rand(97, tasks * episodes, 6) * 2 - 1
    alone = metarl_side(id, n, 200 * n, o.threads, lambda obs, t: act[t % 97])
    maml = training_side("maml", id, MAML | {"meta_batch_size": tasks, "episodes": episodes})
    raw = interleave({"ours": maml, "alone": alone}, o.repeats)
    what = f"maml on HalfCheetahDir, {tasks} tasks x {episodes} episodes"
    yield compare("k", what, "environments alone", raw["ours"]["rate"], raw["alone"]["rate"])


def mini_grid(o: Options, s: Sizes) -> Iterator[dict[str, Any]]:
    """Part (l): MiniGrid's four rooms."""
    from minigrid.wrappers import ImgObsWrapper

    plan, id = torch.randint(3, (97, s.mazes)), 'metarl/MiniGrid-v0:four_rooms{"image": true}'
    sides = {"ours": metarl_side(id, s.mazes, s.maze_steps, o.threads, lambda obs, t: plan[t % 97])}
    theirs = {"SyncVectorEnv": (max(1, s.mazes // 4), "sync"), "AsyncVectorEnv": (min(8, s.mazes), "async")}
    others = {
        name: gym.make_vec("MiniGrid-FourRooms-v0", n, vectorization_mode=mode, wrappers=[ImgObsWrapper])
        for name, (n, mode) in theirs.items()
    }
    for name, envs in others.items():
        sides[name] = gymnasium_side(envs, s.maze_steps // 100, lambda obs, t: plan[t % 97, : len(obs)])
    raw = interleave(sides, o.repeats)
    for envs in others.values():
        envs.close()
    for name, (count, _) in theirs.items():
        what = f"MiniGrid four rooms, {s.mazes} environments"
        yield compare("l", what, f"{name}, {count}", raw["ours"]["rate"], raw[name]["rate"])


def main(options: Options) -> None:
    """Measure, print the table and write the results."""
    chosen, sizes = options.only.split(","), SMALL if options.small else Sizes()
    if options.repeats < 1 or not set(chosen) <= set(PARTS):
        raise SystemExit(f"--repeats must be at least 1 and --only some of {','.join(PARTS)}, not {options.only!r}")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"options": asdict(options) | {"out": options.out.name}, "sizes": asdict(sizes)}
    report |= {**machine(), "rows": [], "details": {}}
    for name, part in (("f", cheetah), ("g", cart_pole), ("j", meta_world), ("k", training), ("l", mini_grid)):
        with torch.set_grad_enabled(name == "k"):
            report["rows"] += list(part(options, sizes)) if name in chosen else []
    print("\n".join(lines_of(report)))
    write_atomic(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
