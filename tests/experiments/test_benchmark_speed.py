"""The speed benchmark: its plain loops compute what metarl computes, and the script measures and reports every part."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.agent import Rollout
from metarl.agents.gradient.maml import MAML
from metarl.agents.memory.rl2 import RL2
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.interop.facades import MetaEnv
from metarl.learning.gradient.meta_gradient import GRAPH_BYTES, MetaObjective
from metarl.learning.gradient.policy_gradient import Batch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
from baselines import bandit_loop, maml_loop, measure, navigation_loop  # noqa: E402
from benchmark_speed import Sizes  # noqa: E402


@pytest.fixture(params=[1, 2], ids=["1 inner step", "2 inner steps"])
def problem(request: pytest.FixtureRequest) -> tuple[MAML, list[Batch], Batch]:
    """An agent in double precision and its batches: 3 tasks of 2 episodes."""
    sizes: dict[str, Any] = {"meta_batch_size": 3, "episodes": 2, "hidden": (8, 8), "inner_steps": request.param}
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", activation="tanh", cg_damping=0.0, **sizes)
    assert isinstance(agent, MAML)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 3))
    pre, post = maml_loop.collect(agent, trials)
    agent.theta = {k: v.double() for k, v in agent.theta.items()}
    double = [Batch(*(leaf.double() if leaf.is_floating_point() else leaf for leaf in batch)) for batch in (*pre, post)]
    return agent, double[:-1], double[-1]


def leaves(agent: MAML) -> maml_loop.Theta:
    return {k: v.clone().requires_grad_() for k, v in agent.theta.items()}


def objective_of(agent: MAML, pre: list[Batch], post: Batch) -> MetaObjective:
    return MetaObjective(agent.inner, agent.make_outer_loss(post), agent.theta, pre, post)


def test_meta_gradient_of_the_loop_is_metarls(problem):
    agent, pre, post = problem
    objective = objective_of(agent, pre, post)
    loss, gradient, _ = maml_loop.meta_gradient(leaves(agent), maml_loop.split(pre, post), agent.config)
    assert loss == pytest.approx(objective.loss, rel=1e-10)
    torch.testing.assert_close(gradient, objective.grad, rtol=1e-8, atol=1e-12)
    # the inner steps matter here: the gradient at theta' alone would not pass
    agent.inner.first_order = True
    first_order = objective_of(agent, pre, post)
    assert not torch.allclose(gradient, first_order.grad, rtol=1e-2)


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_fisher_vector_product_of_the_loop_is_metarls(problem, keep_graphs):
    agent, pre, post = problem
    objective, theta, tasks = objective_of(agent, pre, post), leaves(agent), maml_loop.split(pre, post)
    _, gradient, old = maml_loop.meta_gradient(theta, tasks, agent.config)
    product = maml_loop.fisher_vector_product(theta, tasks, old, agent.config, keep_graphs)
    for v in (gradient, torch.linspace(-1.0, 1.0, len(gradient), dtype=torch.float64)):
        expected = objective.fisher_vector(v)
        torch.testing.assert_close(product(v), expected, rtol=1e-8, atol=1e-10 * float(expected.norm()))


def test_update_of_the_loop_is_metarls(problem):
    agent, pre, post = problem
    before, tasks = dict(agent.theta), maml_loop.split(pre, post)
    updated = [maml_loop.meta_update(before, tasks, agent.config, keep_graphs) for keep_graphs in (False, True)]
    assert agent.meta_update(pre, post)["step_rejected"] == 0.0
    for theta in updated:
        assert maml_loop.distance(theta, agent.theta) < 1e-4 * maml_loop.distance(before, agent.theta)


def test_collect_gives_the_batches_of_train_step(monkeypatch):
    sizes: dict[str, Any] = {"meta_batch_size": 2, "episodes": 2, "hidden": (8,), "inner_steps": 2}
    agent = metarl.make_agent("maml", "metarl/PointNavigation-v0", **sizes)
    trials = PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("train", 2))
    pre, post = maml_loop.collect(agent, trials)
    seen: list[Any] = []
    monkeypatch.setattr(agent, "meta_update", lambda *batches: seen.extend(batches) or {})
    agent.train_step(trials)
    for ours, theirs in zip((*pre, post), (*seen[0], seen[1]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_numpy_navigation_is_metarls():
    goal = np.array([0.25, -0.1], dtype=np.float32)
    theirs, ours = navigation_loop.PointNavigation(goal), MetaEnv("metarl/PointNavigation-v0", task={"goal": goal})
    rng = np.random.default_rng(0)
    # noise till the horizon; then straight to the goal: .1 + .1 + .05 on one axis, -.1 on the other
    for actions in (rng.uniform(-0.2, 0.25, (100, 2)), [[0.1, -0.1], [0.1, 0.0], [0.05, 0.0]]):
        theirs.reset()
        ours.reset(seed=0)
        for action in np.asarray(actions, dtype=np.float32):
            a, b = theirs.step(action), ours.step(action)
            np.testing.assert_allclose(a[0], b[0], atol=1e-6)
            assert a[1] == pytest.approx(b[1], abs=1e-6)
            assert a[2:4] == b[2:4]
        assert a[2] or a[3]
    assert a[2]


def test_loop_of_navigation_records_what_happened():
    theta = {k: v for k, v in metarl.make_agent("maml", "metarl/PointNavigation-v0").tensors().items()}
    goal, steps, generator = np.array([0.3, 0.3]), 101, torch.Generator().manual_seed(0)
    net = navigation_loop.network(theta, "relu")
    data = navigation_loop.rollout(navigation_loop.vector_env(goal, 3), net, theta["log_std"], steps, generator)
    assert data["obs"].shape == data["action"].shape == (steps, 3, 2)
    moved = data["obs"][:99] + 0.1 * data["action"][:99].clamp(-1, 1)
    going_on = ~data["ended"][:99]
    torch.testing.assert_close(data["obs"][1:100][going_on], moved[going_on])
    distance = (moved - torch.tensor(goal)).norm(dim=-1)
    torch.testing.assert_close(data["reward"][:99], -distance, atol=1e-5, rtol=0)
    assert data["ended"][99].all()
    assert not data["obs"][100].any()
    x = torch.randn(5, 2)
    hidden = torch.relu(torch.relu(x @ theta["w0"] + theta["b0"]) @ theta["w1"] + theta["b1"])
    torch.testing.assert_close(net(x), hidden @ theta["w2"] + theta["b2"])


def small_rl2(**sizes: Any) -> RL2:
    sizes = {"meta_batch_size": 6, "trial_episodes": 7, "hidden": 8, "epochs": 3, "minibatches": 1} | sizes
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", entropy_coef=0.02, **sizes)
    assert isinstance(agent, RL2)
    return agent


def played(net: bandit_loop.GRUPolicy) -> dict[str, torch.Tensor]:
    """6 trials of 7 pulls."""
    return bandit_loop.play(net, torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), 7, torch.Generator())


def test_gru_loop_makes_the_update_of_rl2():
    agent = small_rl2()
    net = bandit_loop.GRUPolicy(agent.net, 5)
    before = [p.detach().clone() for p in net.parameters()]
    data = played(net)
    wide = {k: v.unsqueeze(2) for k, v in data.items()}
    off, all_of_it = torch.zeros(7, 6, 1, dtype=torch.bool), torch.ones(7, 6, 1, dtype=torch.bool)
    rollout = Rollout(
        obs=torch.zeros(7, 6, 1, 1),
        action=wide["action"],
        reward=wide["reward"],
        terminated=off,
        truncated=all_of_it,
        valid=all_of_it,
        last_obs=torch.zeros(6, 1, 1),
        extras={"log_prob": wide["log_prob"], "value": wide["value"]},
    )
    torch.testing.assert_close(agent.trial_memory.inputs.of(rollout)[..., 1:], data["x"])
    tasks = agent.family.tasks("train", 6)
    agent.train_step(SimpleNamespace(rows=6, key=0, tasks=tasks, collect=lambda *_: (rollout, None)))
    bandit_loop.update(net, torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-5), data, agent.config)
    after = bandit_loop.GRUPolicy(agent.net, 5)
    for p, q, old in zip(net.parameters(), after.parameters(), before, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)  # Adam's steps are 3e-3 each
        assert not torch.equal(p, old)


def test_gru_loop_deals_every_trial_into_one_minibatch_per_epoch(monkeypatch):
    agent, parts = small_rl2(minibatches=3), []
    net = bandit_loop.GRUPolicy(agent.net, 5)
    data = played(net)
    monkeypatch.setattr(bandit_loop, "ppo_step", lambda net, optimizer, part, cfg: parts.append(part))
    bandit_loop.update(net, torch.optim.Adam(net.parameters()), data, agent.config, torch.Generator().manual_seed(0))
    assert [part[0].shape for part in parts] == [(7, 2, 7)] * 9  # 3 epochs of 3; k + 2 inputs
    for epoch in (parts[:3], parts[3:6], parts[6:]):
        dealt = torch.cat([part[2] for part in epoch], 1)  # log-probabilities: no two trials' are alike
        assert torch.equal(dealt.sort(1).values, data["log_prob"].sort(1).values)
    assert not torch.equal(parts[0][2], parts[3][2])


def test_jax_loop_makes_the_update_of_the_gru_loop():
    jax_loop = jax_side()
    agent = small_rl2()
    net = bandit_loop.GRUPolicy(agent.net, 5)
    data = played(net)
    before = jax_loop.parameters(net)
    state = jax_loop.learn(jax_loop.begin(before), jax_arrays(data), agent.config)
    bandit_loop.update(net, torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-5), data, agent.config)
    assert int(state.count) == 3
    for name, expected in jax_loop.parameters(net).items():
        np.testing.assert_allclose(state.params[name], expected, rtol=1e-3, atol=2e-5)  # Adam's steps are 3e-3 each
        assert not np.array_equal(before[name], expected)


def test_jax_loop_records_what_happened():
    jax_loop = jax_side()
    params = jax_loop.parameters(bandit_loop.GRUPolicy(small_rl2().net, 5))
    data = {k: np.asarray(v) for k, v in jax_loop.play(params, jax_loop.jax.random.key(0), 6, 7).items()}
    assert data["x"].shape == (7, 6, 7)
    assert (data["x"][0] == [0, 0, 0, 0, 0, 0, 1]).all()
    assert (data["x"][1:, :, :5] == np.eye(5)[data["action"][:-1]]).all()
    assert (data["x"][1:, :, 5] == data["reward"][:-1]).all()
    assert set(data["reward"].flatten()) == {0, 1}
    log_probs, value = jax_loop.unroll(params, data["x"])
    np.testing.assert_allclose(value, data["value"], atol=1e-5)
    taken = np.take_along_axis(np.asarray(log_probs), data["action"][..., None], -1)[..., 0]
    np.testing.assert_allclose(taken, data["log_prob"], atol=1e-5)


def test_jax_loop_deals_every_trial_into_one_minibatch_per_epoch(monkeypatch):
    jax_loop = jax_side()
    agent, dealt = small_rl2(minibatches=3), []
    net = bandit_loop.GRUPolicy(agent.net, 5)
    data = played(net)
    monkeypatch.setattr(jax_loop, "adam", lambda state, gradient, cfg: state._replace(count=state.count + 1))

    def loss(params, part, cfg):
        jax_loop.jax.debug.callback(lambda v: dealt.append(np.asarray(v)), part["log_prob"], ordered=True)
        return 0.0 * params["bias_value"].sum()

    monkeypatch.setattr(jax_loop, "loss", loss)
    state = jax_loop.learn(jax_loop.begin(jax_loop.parameters(net)), jax_arrays(data), agent.config)
    assert int(state.count) == 9
    jax_loop.jax.effects_barrier()
    for epoch in (dealt[:3], dealt[3:6], dealt[6:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch, 1)), np.sort(data["log_prob"].numpy()))


@pytest.mark.learning
def test_jax_loop_learns():
    jax_loop = jax_side()
    agent = small_rl2(meta_batch_size=256, trial_episodes=10, hidden=32, epochs=4, minibatches=4)
    work = jax_loop.trainer(bandit_loop.GRUPolicy(agent.net, 5), agent.config, "cpu", 1)
    rewards = [work() for _ in range(100)]
    # arms are uniform on [0, 1] and play begins uniform: 2,560 pulls a batch, whose arms' means differ by trial
    assert statistics.mean(rewards[:2]) == pytest.approx(0.5, abs=0.04)
    assert statistics.mean(rewards[-10:]) > 0.6


def test_arithmetic_of_a_step():
    # GRU 2, k = 1: 2 x 6 rows x (2 + 3) columns, and heads of 2 outputs x 2; acting 1 + 4 epochs x 3
    assert bandit_loop.flops_per_step("gru", 2, 1, 4) == 13 * (60 + 8)
    assert bandit_loop.flops_per_step("lstm", 2, 1, 2) == 7 * (80 + 8)


def test_matmul_rate_is_arithmetic_over_time(monkeypatch):
    seconds = iter([0.25, 0.5, 4.0])
    monkeypatch.setattr(bandit_loop, "timed", lambda device, work: (next(seconds), work()))
    # of width 16, the next multiple
    assert bandit_loop.matmul_rate(9, "cpu", products=3) == 2 * 6400 * 16 * 48 / 0.5


def test_large_case_has_134_thousand_parameters():
    case = Sizes().cases[-1]
    assert (case.trials, case.pulls) == (1024, 100)

    def off(hidden: int) -> int:
        net = bandit_loop.rl2_agent(bandit_loop.Case(hidden), "gru", "cpu").net
        return abs(sum(p.numel() for p in net.parameters()) - 134_000)

    assert off(case.hidden) < min(off(case.hidden - 1), off(case.hidden + 1))


def test_trial_bandit_shows_the_last_pull():
    env = bandit_loop.TrialBandit(k=3, pulls=4)
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [0, 0, 0, 0, 1]
    ends = []
    for _ in range(4):
        obs, reward, terminated, truncated, _ = env.step(np.int64(1))
        assert obs.tolist() == [0, 1, 0, reward, 1]
        assert reward in (0.0, 1.0)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 3 + [(True, False)]


def test_sides_take_turns_and_the_warm_up_does_not_count():
    turns: list[tuple[str, int]] = []

    def side(name: str) -> measure.Side:
        return lambda i: turns.append((name, i)) or {"rate": 10.0 * i}

    raw = measure.interleave({"a": side("a"), "b": side("b")}, 2)
    assert turns == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert raw == {"a": {"rate": [10.0, 20.0]}, "b": {"rate": [10.0, 20.0]}}


def test_a_missing_package_leaves_a_row_without_a_ratio():
    row = measure.compare("c", "RL2", "RecurrentPPO", [1.0, 3.0], [])
    assert row["ratio"] is None
    assert any(measure.MISSING in line for line in measure.lines_of({"rows": [row], "details": {}}))


def jax_side() -> Any:
    pytest.importorskip("jax")
    from baselines import jax_loop

    return jax_loop


def jax_arrays(data: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: jax_side().jnp.asarray(v.numpy()) for name, v in data.items()}


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXPERIMENTS / "benchmark_speed.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_script_reports_every_part(tmp_path):
    out = tmp_path / "speed.json"
    done = run_script("--small", "--repeats", "2", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert {row["part"] for row in report["rows"]} == {"a", "b", "c", "e"}
    has_jax = importlib.util.find_spec("jax") is not None
    assert ("JAX loop left out" in done.stderr) == (not has_jax)
    jax = {"JAX loop"} if has_jax else set()
    for size, others in (("8, 4", {"GRUCell loop", "RecurrentPPO"}), ("9, 8", {"GRUCell loop"})):
        assert {row["other"] for row in report["rows"] if f"RL2, GRU {size} trials" in row["what"]} == others | jax
    assert [row["other"] for row in report["rows"] if "LSTM" in row["what"]] == ["RecurrentPPO"]
    assert [row["what"] for row in report["rows"] if row["part"] == "e"] == ["GRU 8, 2 rows", "GRU 8, 3 rows"]
    for case, more in zip(report["details"]["rl2"], ({"metarl, LSTM"}, set()), strict=True):
        assert case["sides"].keys() == {"metarl", "GRUCell loop"} | jax | more
        for side in case["sides"].values():
            assert side["share_of_peak"] == pytest.approx(side["rate"] * side["flops_per_step"] / case["peak_flops"])
    assert {(row["what"], row["other"]) for row in report["rows"] if "stride 5" in row["what"]} == {
        (f"MAML {what}, stride 5", other)
        for what in ("iteration", "meta-update")
        for other in ("exact", "loop", "loop, graphs kept")
    }
    for row in report["rows"]:
        assert len(row["ours"]) == 2
        if row["other"] == "RecurrentPPO" and not row["theirs"]:
            assert measure.MISSING in done.stdout
            continue
        assert len(row["theirs"]) == 2
        assert row["ratio"] == pytest.approx(statistics.median(row["ours"]) / statistics.median(row["theirs"]))
        assert f"{row['ratio']:.2f}" in done.stdout
    ours = report["details"]["meta_iteration"]["metarl"]
    for total, *parts in zip(
        ours["seconds_total"], ours["seconds_sampling"], ours["seconds_optimisation"], strict=True
    ):
        assert total == pytest.approx(sum(parts))
    strided = report["details"]["meta_iteration"]["stride 5"]
    assert len(strided["seconds_total"]) == len(strided["sampling_share"]) == 2
    # another update than the exact one, less than two steps away from it; one in five of few samples is very few
    assert 0 < statistics.median(strided["difference"]) < 2
    # the same Fisher matrix: rounding alone, which conjugate gradients that stay orthogonal do not make larger
    loop = report["details"]["meta_iteration"]["loop"]
    assert statistics.median(loop["difference"]) < 0.01
    many = report["details"]["many_tasks"]
    assert [(case["tasks"], case["stride"]) for case in many["cases"]] == [(3, 1), (3, 5)]
    for memory in (report["details"]["memory"], *(case["memory"] for case in many["cases"])):
        assert 2**26 < memory["bytes_before"] <= memory["bytes_peak"] < 2**34  # PyTorch alone takes over 64 MiB
    for case in many["cases"]:
        assert len(case["seconds"]["total"]) == many["repeats"] == 1
        assert 0 < case["seconds"]["sampling"][0] < case["seconds"]["total"][0]
    assert many["goal_met"] == all(case["memory"]["bytes_peak"] < many["goal_bytes"] for case in many["cases"])
    assert report["graph_bytes"] == GRAPH_BYTES
    assert report["versions"]["torch"] == torch.__version__
    assert {"options", "sizes", "cpu", "git", "load_average"} <= report.keys()


def test_script_measures_many_tasks_alone(tmp_path):
    out = tmp_path / "speed.json"
    done = run_script("--small", "--only", "d", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["rows"] == []
    assert list(report["details"]) == ["many_tasks"]
    assert done.stdout.count("(d) 3 tasks, stride") == 2
    assert "(d) below 8 GiB: yes" in done.stdout


def test_script_refuses_unknown_parts():
    done = run_script("--only", "a,z")
    assert done.returncode == 1
    assert "a,b,c,d" in done.stderr


@pytest.mark.parametrize(
    ("parts", "package", "others"),
    [
        (
            "f,g,k",
            "mujoco",
            ["SyncVectorEnv", "AsyncVectorEnv"] * 2
            + ["open loop"] * 2
            + ["CartPoleVectorEnv", "SyncVectorEnv"]
            + ["environments alone"] * 2,
        ),
        ("l", "minigrid", ["SyncVectorEnv", "AsyncVectorEnv"]),
        ("j", "metaworld", ["SyncVectorEnv", "AsyncVectorEnv", "physics alone"] * 3),
    ],
)
def test_families_beside_other_environments(tmp_path, parts, package, others):
    pytest.importorskip(package)
    out = tmp_path / "speed.json"
    command = [
        sys.executable,
        str(EXPERIMENTS / "benchmark_families.py"),
        "--only",
        parts,
        "--small",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["other"].partition(",")[0] for row in rows] == others
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours"][0] / row["theirs"][0])
