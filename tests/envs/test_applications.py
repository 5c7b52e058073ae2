"""Dosing and recommendation: steps worked out by hand, references against brute force and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats
from scipy.integrate import solve_ivp

import metarl
from metarl import Rng
from metarl.engine.pool import EnvironmentPool
from metarl.engine.rollout import PoolTrials
from metarl.envs.applications.recommendation import NONE, item_features
from metarl.envs.applications.vancomycin_dosing import CLEARANCE, MAX_DOSE, VOLUME
from metarl.rng import fold_in, make_key

DOSING, RECOMMENDATION = "metarl/VancomycinDosing-v0", "metarl/Recommendation-v0"

FIRST_ITEM = ["0x1.6186c5f4e8b11p-1", "0x1.a503c6db0402fp-6", "0x1.aa663ec48766bp-2", "0x1.2e8c8452f154bp-1"]


def keyed(n):
    return Rng(fold_in(make_key("test applications"), torch.arange(n)))


def returns(family, tasks, agent, per_task):
    """Returns of episodes of every task, `[N, per_task]`."""
    trials = PoolTrials(EnvironmentPool(family), tasks, per_task=per_task)
    agent = metarl.make_agent(agent, family)
    rollout, _ = trials.collect(agent, agent.begin(trials.rows, trials.tasks), 0, metarl.Budget(episodes=1))
    return rollout.mean_return().view(len(tasks), per_task).double().numpy()


@pytest.mark.parametrize("id", [DOSING, RECOMMENDATION])
def test_random_and_oracle_earn_the_references(id):
    family = metarl.make_family(id)
    tasks = family.tasks("test", 20)
    for agent, name in (("random", "floor"), ("oracle", "informed_optimum")):
        found = returns(family, tasks, agent, 200)
        error = found.std(1) / math.sqrt(200)
        assert (np.abs(found.mean(1) - family.references(tasks)[name]) < 5 * error + 1e-4).all()


def patient(clearance, volume):
    """The patient with a clearance in l/h and a volume in l."""
    return metarl.make_family(DOSING).make_tasks(
        eta_clearance=math.log(clearance / CLEARANCE), eta_volume=math.log(volume / VOLUME)
    )


def course(tasks, doses):
    """Troughs and rewards of doses in mg."""
    family, task = metarl.make_family(DOSING), tasks.tensors()
    state, troughs, rewards = family.reset(task, keyed(1)), [], []
    for dose in doses:
        state, reward, ended = family.step(state, torch.tensor([[float(dose)]]), task, keyed(1))
        assert not ended.any()
        troughs.append(float(state[0, 0]))
        rewards.append(float(reward))
    return troughs, rewards


class TestVancomycinDosing:
    def test_constants_are_the_papers(self):
        family = metarl.make_family(DOSING)
        # 1.08 x 89.4 ml/min, which is 5.364 l/h, and .98 l/kg x 64.7 kg
        assert pytest.approx(5.79312) == CLEARANCE
        assert pytest.approx(63.406) == VOLUME
        normals = {"eta_clearance": metarl.Normal(0.0, 0.2816), "eta_volume": metarl.Normal(0.0, 0.3715)}
        assert family.task_space == normals
        assert (family.action_space, family.horizon) == (Box(0, 3000, (1,), np.float32), 12)

    def test_a_course_by_hand(self):
        # k = .1 / h: e^-.8 = .449329 of a trough is left, and 1 mg adds (1 - e^-.1) / 5 e^-.7 = .00945127 mg/l.
        # 9.45127; 4.24673 + 18.90254; 10.40164 + 5.67076; 7.22179; then the largest dose, 3.24496 + 28.35380
        troughs, rewards = course(patient(5.0, 50.0), [1000, 2000, 600, 0, 9000])
        assert troughs == pytest.approx([9.45127, 23.14927, 16.07240, 7.22179, 31.59877], abs=2e-5)
        # a lack of 5.54873, an excess of 3.14927 at twice the cost, none, 7.77821 and 11.59877, over 15
        assert rewards == pytest.approx([-0.369916, -0.419902, 0.0, -0.518547, -1.546502], abs=2e-6)

    def test_concentrations_solve_the_differential_equation(self):
        # dc/dt = rate of infusion / V - CL / V c
        clearance, volume, doses = 7.5, 40.0, [1500.0, 400.0, 2500.0, 0.0]
        expected, c = [], 0.0
        for dose in doses:
            for hours, rate in ((1.0, dose), (7.0, 0.0)):
                flow = solve_ivp(
                    lambda _, x, rate=rate: (rate - clearance * x) / volume, (0.0, hours), [c], rtol=1e-9, atol=1e-9
                )
                c = float(flow.y[0, -1])
            expected.append(c)
        assert course(patient(clearance, volume), doses)[0] == pytest.approx(expected, rel=1e-5)

    def test_what_is_observed(self):
        family, task = metarl.make_family(DOSING), patient(5.0, 50.0).tensors()
        state = torch.tensor([[30.0, 1500.0]])
        assert family.observe(state, task).tolist() == [[2.0, 0.5]]
        assert family.observe(family.reset(task, keyed(1)), task).tolist() == [[0.0, 0.0]]

    def test_the_best_dose_by_hand(self):
        family = metarl.make_family(DOSING)
        task = {k: v.expand(3) for k, v in patient(5.0, 50.0).tensors().items()}
        state = torch.tensor([[9.45127, 0.0], [60.0, 0.0], [0.0, 0.0]])
        # (17.5 - 4.24673) / .00945127; 26.96 are left of 60, too much; 17.5 / .00945127
        found = family.optimal_action(state, task, torch.zeros(3))
        assert found[:, 0].tolist() == pytest.approx([1402.274, 0.0, 1851.603], abs=0.02)

    def test_the_informed_optimum_by_hand(self):
        family = metarl.make_family(DOSING)
        assert family.references(patient(5.0, 50.0))["informed_optimum"] == pytest.approx([0.0])
        # k = .25: e^-2 = .135335 is left, the largest dose adds 200 (1 - e^-.25) e^-1.75 = 7.68773. Even endless doses
        # reach only 8.89100: trough t is 8.89100 (1 - e^-2t), and 12 lacks are 12 x 6.10900 + 8.89100 x .156518
        assert family.references(patient(15.0, 60.0))["informed_optimum"] == pytest.approx([-4.979973], abs=1e-5)

    def test_no_course_of_doses_is_better_than_the_informed_optimum(self):
        family = metarl.make_family(DOSING)
        family.horizon = 3
        levels = torch.linspace(0.0, MAX_DOSE, 31)
        doses = torch.cartesian_prod(levels, levels, levels)
        for tasks in (patient(15.0, 60.0), patient(9.0, 120.0), patient(6.0, 60.0), patient(2.0, 30.0)):
            task = {k: v.expand(len(doses)) for k, v in tasks.tensors().items()}
            state, total = family.reset(task, keyed(1)), 0.0
            for dose in doses.unbind(1):
                state, reward, _ = family.step(state, dose.unsqueeze(1), task, keyed(1))
                total = total + reward
            # doses are 100 mg apart, and the largest one is the best where the window is out of reach
            best = float(family.references(tasks)["informed_optimum"][0])
            assert float(total.max()) == pytest.approx(best, abs=1e-4)

    def test_the_floor_of_one_and_two_doses_by_hand(self):
        family = metarl.make_family(DOSING)
        # The trough of one dose is uniform on [0, w], w = 28.35380: the mean lack is 15^2 / 2w, and the mean excess
        # (w - 20)^2 / 2w: -(3.96772 + 2 x 1.23063) / 15
        family.horizon = 1
        assert family.references(patient(5.0, 50.0))["floor"] == pytest.approx([-0.428599], abs=1e-5)
        # and of the second by its double integral, over squares of doses w / 1000 wide
        family.horizon = 2
        u = (np.arange(1000) + 0.5) / 1000 * 28.35380
        trough = 0.449329 * u[:, None] + u
        cost = np.maximum(np.maximum(15 - trough, 2 * (trough - 20)), 0).mean() / 15
        assert family.references(patient(5.0, 50.0))["floor"] == pytest.approx([-0.428599 - cost], abs=2e-5)

    def test_impaired_patients_are_slower_than_all_others(self):
        family = metarl.make_family(DOSING)
        assert family.tasks("impaired", 1000).values["eta_clearance"].max() < -0.85 + 1e-6
        assert abs(float(family.tasks("impaired", 1000).values["eta_volume"].std()) - 0.3715) < 0.04


def user(*preference):
    return metarl.make_family(RECOMMENDATION).make_tasks(preference=list(preference))


def chances(tasks, sequences):
    """The probabilities of clicks, `[N, T]`, on sequences of items `[N, T]` for one user."""
    family, sequences = metarl.make_family(RECOMMENDATION), torch.as_tensor(sequences)
    task = {k: v.expand(len(sequences), -1) for k, v in tasks.tensors().items()}
    state, out = family.reset(task, keyed(len(sequences))), []
    for item in sequences.unbind(1):
        state, _, ended, info = family.step(state, item, task, keyed(len(sequences)))
        assert not ended.any()
        out.append(info["expected_reward"])
    return torch.stack(out, 1)


class TestRecommendation:
    def test_declarations(self):
        family = metarl.make_family(RECOMMENDATION)
        assert (family.action_space, family.horizon) == (Discrete(10), 20)
        assert family.task_space == {"preference": metarl.Normal(0.0, 1.0, (4,))}

    def test_items_are_unit_vectors_with_known_bits(self):
        x = item_features()
        assert np.linalg.norm(x, axis=1) == pytest.approx(np.ones(10))
        assert [float(v).hex() for v in x[0]] == FIRST_ITEM
        different = np.abs(x[:, None] - x).max(-1) > 0.1
        assert (different | np.eye(10, dtype=bool)).all()

    def test_boredom_by_hand(self):
        # the user likes twice item 3: 2 <p, x> = 4, and its recency is 0, 1, 3/2, 11/6, 11/6: 4, 2, 1, 1/3, 1/3
        x = item_features()
        clicks = chances(user(*(2.0 * x[3])), [[3, 3, 3, 3, 3]])[0]
        assert clicks.tolist() == pytest.approx([0.982014, 0.880797, 0.731059, 0.582570, 0.582570], abs=1e-6)
        # after items 3, 7, 7, 7 the user has forgotten item 3; before, similar items bore and opposite ones refresh
        clicks = chances(user(*(2.0 * x[3])), [[3, 7, 7, 7, 3]])[0]
        c = float(x[3] @ x[7])
        exponents = [4, 2 * (2 * c - c), 2 * (2 * c - 1 - c / 2), 2 * (2 * c - 1.5 - c / 3), 2 * (2 - 11 / 6 * c)]
        assert clicks.tolist() == pytest.approx([1 / (1 + math.exp(-e)) for e in exponents], abs=1e-6)

    def test_the_observation_is_what_bores(self):
        family, x = metarl.make_family(RECOMMENDATION), item_features()
        state = torch.tensor([[NONE, NONE, NONE], [4, NONE, NONE], [4, 2, 9]])
        expected = [0 * x[0], x[4], x[4] + x[2] / 2 + x[9] / 3]
        np.testing.assert_allclose(family.observe(state, {}).numpy(), expected, atol=1e-6)
        task = family.tasks("train", 2).tensors()
        assert family.reset(task, keyed(2)).tolist() == [[NONE] * 3] * 2
        shown = family.step(state[1:], torch.tensor([7, 0]), task, keyed(2))[0]
        assert shown.tolist() == [[7, 4, NONE], [0, 4, 2]]

    def test_clicks_have_their_probabilities(self):
        family, n = metarl.make_family(RECOMMENDATION), 20_000
        task = {k: v.expand(n, -1) for k, v in user(0.5, -1.0, 0.3, 0.8).tensors().items()}
        for item in range(3):
            action = torch.full((n,), item)
            _, reward, _, info = family.step(family.reset(task, keyed(n)), action, task, keyed(n).seek(item))
            assert set(reward.unique().tolist()) == {0.0, 1.0}
            assert stats.binomtest(int(reward.sum()), n, float(info["expected_reward"][0])).pvalue > 1e-3

    def test_references_are_those_of_all_sequences(self):
        family = metarl.make_family(RECOMMENDATION)
        family.horizon = 5
        ways = torch.cartesian_prod(*[torch.arange(10)] * 5)
        tasks = family.tasks("test", 3)
        found = family.references(tasks)
        for i in range(3):
            total = chances(tasks[[i]], ways).double().sum(1)
            assert found["floor"][i] == pytest.approx(float(total.mean()), abs=1e-5)
            assert found["informed_optimum"][i] == pytest.approx(float(total.max()), abs=1e-5)

    def test_the_best_items_earn_the_informed_optimum(self):
        family = metarl.make_family(RECOMMENDATION)
        tasks = family.tasks("test", 5)
        task, total = tasks.tensors(), 0.0
        state = family.reset(task, keyed(5))
        for t in range(20):
            action = family.optimal_action(state, task, torch.full((5,), t))
            state, _, _, info = family.step(state, action, task, keyed(5))
            total = total + info["expected_reward"].double()
        np.testing.assert_allclose(total.numpy(), family.references(tasks)["informed_optimum"], atol=1e-4)

    def test_what_is_left_of_a_session_decides(self):
        # environments of one batch may be at different steps: each plans for its own rest
        family = metarl.make_family(RECOMMENDATION)
        task = {k: v.expand(2, -1) for k, v in family.tasks("test", 1).tensors().items()}
        state = torch.tensor([[1, 4, 6]] * 2)
        both = family.optimal_action(state, task, torch.tensor([19, 12]))
        one = {k: v[:1] for k, v in task.items()}
        alone = [int(family.optimal_action(state[:1], one, torch.tensor([t]))) for t in (19, 12)]
        assert both.tolist() == alone
        present = one["preference"] - family.observe(state[:1], one)
        assert alone[0] == int((present @ torch.from_numpy(item_features()).float().T).argmax())
