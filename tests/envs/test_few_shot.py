"""T-mazes, sinusoids and digits: steps by hand, references and Bayes optima against brute force."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from matplotlib.figure import Figure
from scipy import integrate, stats

import metarl
from metarl import InvalidValueError, Rng
from metarl.envs.grids.t_maze import BACK, FORWARD, LEFT, RIGHT, TMaze, optimal_search
from metarl.rng import fold_in, make_key

UNSCALED = "ignore:.*recommend using a symmetric and normalized space:UserWarning"  # the paper's units

MAZES = ["metarl/TMaze-v0", "metarl/TMaze-v0:cue", "metarl/TMaze-v0:double"]
SINUSOIDS = ["metarl/Sinusoid-v0", "metarl/Sinusoid-v0:reward_only"]
DIGITS = ["metarl/Digits-v0", "metarl/Digits-v0:reward_only"]


def keyed(n):
    return Rng(fold_in(make_key("test few-shot"), torch.arange(n)))


def repeated(tasks, n):
    """One task's tensors for `n` environments."""
    return {k: v.expand(n, *v.shape[1:]) for k, v in tasks.tensors().items()}


def drawn(family, state, task):
    """What `draw` puts on empty axes."""
    axes = Figure().add_subplot(xticks=[], yticks=[])
    numpy_state = {k: v[0].numpy() for k, v in state.items()} if isinstance(state, dict) else state[0].numpy()
    family.draw(axes, numpy_state, {k: v[0].numpy() for k, v in task.items()})
    assert axes.get_aspect() == 1.0
    return axes


@pytest.mark.filterwarnings(UNSCALED)
@pytest.mark.filterwarnings("ignore:note.*shows the task:metarl.FamilyWarning")  # the cue
@pytest.mark.parametrize("id", [*MAZES, *SINUSOIDS, *DIGITS])
def test_contract(id):
    if id in DIGITS:
        pytest.importorskip("sklearn")
    assert metarl.check_family(id) == []
    if ":" not in id:
        check_env(gym.make(id).unwrapped, skip_render_check=True)


class TestTMaze:
    def walk(self, family, turn, actions):
        """Observations (after the first), rewards, ends and successes of one episode, and its last state."""
        task, rng = family.make_tasks(turn=turn).tensors(), keyed(1)
        state, rows = family.reset(task, rng), []
        seen = ["".join(str(int(b)) for b in family.observe(state, task)[0])]
        for action in actions:
            state, reward, ended, info = family.step(state, torch.tensor([action]), task, rng)
            rows.append((round(reward.item(), 6), ended.item(), info["success"].item()))
            seen.append("".join(str(int(b)) for b in family.observe(state, task)[0]))
        return seen, rows, state, task

    def test_declarations(self):
        family = metarl.make_family(MAZES[0])
        assert (family.turns, family.corridor, family.horizon) == (6, 2, 2 * 6 * 3)
        assert family.action_space == Discrete(4)
        assert family.observation_space == Box(0.0, 1.0, (9,), np.float32)
        assert not family.finite
        cue = metarl.make_family(MAZES[1])
        assert (cue.turns, cue.corridor, cue.cue, cue.horizon) == (1, 10, True, 22)
        assert cue.observation_space.shape == (3,)
        assert cue.finite
        double = metarl.make_family(MAZES[2])
        assert (double.turns, double.dead_ends, double.finite) == (2, False, True)

    def test_train_and_test_share_the_mazes_out(self):
        family = metarl.make_family(MAZES[0])
        train, test = (
            {tuple(turn) for turn in family.tasks(split, 2000).values["turn"]} for split in ("train", "test")
        )
        assert not train & test
        assert len(train) + len(test) == 64
        assert min(len(train), len(test)) > 20

    def test_bakkers_maze_by_hand(self):
        # the sign 011 says left, 110 right; walking into a wall (also at the junction, ahead) costs .1
        family = metarl.make_family("metarl/TMaze-v0", turns=1, corridor=2, cue=True)
        actions = [BACK, LEFT, FORWARD, RIGHT, FORWARD, FORWARD, BACK, BACK, FORWARD, FORWARD, LEFT]
        seen, rows, _, _ = self.walk(family, [-1], actions)
        assert seen == [*["011"] * 3, "101", "101", "010", "010", "101", "011", "101", "010", "101"]
        costs = [-0.1, -0.1, 0, -0.1, 0, -0.1, 0, 0, 0, 0]
        assert rows == [*[(c, False, False) for c in costs], (4.0, True, True)]
        seen, rows, _, _ = self.walk(family, [1], [FORWARD, FORWARD, LEFT])
        assert seen == ["110", "101", "010", "101"]
        assert rows == [(0, False, False), (0, False, False), (-0.1, True, False)]

    def test_corridors_follow_right_turns(self):
        # bits of the place, then which corridor; the door behind the second corridor is shut
        family = metarl.make_family("metarl/TMaze-v0", turns=2, corridor=1)
        seen, rows, _, _ = self.walk(family, [1, -1], [FORWARD, RIGHT, BACK, FORWARD, LEFT])
        assert seen == ["10110", "01010", "10101", "10101", "01001", "10100"]
        assert rows == [(0, False, False)] * 2 + [(-0.1, False, False), (0, False, False), (4.0, True, True)]

    def test_a_dead_end_ends_the_episode_and_a_lost_way_goes_on(self):
        family = metarl.make_family("metarl/TMaze-v0", turns=2, corridor=1)
        seen, rows, _, _ = self.walk(family, [1, -1], [FORWARD, LEFT])
        assert seen == ["10110", "01010", "10100"]
        assert rows == [(0, False, False), (-0.1, True, False)]
        family = metarl.make_family("metarl/TMaze-v0", turns=2, corridor=1, dead_ends=False)
        seen, rows, _, _ = self.walk(family, [1, -1], [FORWARD, LEFT, FORWARD, LEFT])
        assert seen == ["10110", "01010", "10101", "01001", "10100"]
        assert rows == [(0, False, False)] * 3 + [(-0.1, True, False)]

    @pytest.mark.parametrize("kwargs", [{}, {"turns": 1, "cue": True}, {"turns": 3, "dead_ends": False}])
    def test_without_a_sign_no_observation_before_the_end_tells_the_task(self, kwargs):
        family = metarl.make_family("metarl/TMaze-v0", **kwargs)
        tasks = family.make_tasks(turn=family.task_space["turn"].table)
        task = tasks.tensors()
        state = family.reset(task, keyed(len(tasks)))
        obs = family.observe(state, task)
        assert len(obs.unique(dim=0)) == (2 if family.cue else 1)

    @pytest.mark.parametrize("dead_ends", [True, False])
    def test_floor_is_the_mean_over_all_action_sequences(self, dead_ends):
        family = TMaze(turns=2, corridor=1, dead_ends=dead_ends, horizon=5)
        plans = torch.tensor(list(itertools.product(range(4), repeat=5)))
        tasks = family.make_tasks(turn=[1, -1])
        task, rng = repeated(tasks, len(plans)), keyed(len(plans))
        state, total, alive = family.reset(task, rng), torch.zeros(len(plans)), torch.ones(len(plans), dtype=bool)
        for action in plans.T:
            state, reward, ended, _ = family.step(state, action, task, rng)
            total, alive = total + reward * alive, alive & ~ended
        assert family.references(tasks)["floor"] == pytest.approx([total.double().mean().item()], abs=1e-6)

    def test_bayes_by_hand(self):
        # one turn: 4 or -.1 in the first episode, 4 in every later one
        assert optimal_search(1, True, 3).tolist() == pytest.approx([1.95, 4, 4])
        assert optimal_search(1, False, 3).tolist() == pytest.approx([1.95, 4, 4])
        # two turns behind dead ends: 1/4 both right; 1/2 wrong first, then the second is still to be guessed
        assert optimal_search(2, True, 2).tolist() == pytest.approx([1 - 0.075, 0.5 * 1.95 + 0.5 * 4])
        # four ends: 1/4, then of three
        assert optimal_search(2, False, 2).tolist() == pytest.approx([1 - 0.075, 1 + 0.75 * (4 / 3 - 0.2 / 3)])
        # six unknown turns and one episode: 4 / 2^6 is worth less than the -.1 of a wrong turn
        assert optimal_search(6, True, 1).tolist() == [0.0]
        assert metarl.make_family(MAZES[1]).bayes_optimal_return(3) == 12.0

    @pytest.mark.parametrize(
        ("turns", "dead_ends", "horizon"), [(1, True, 3), (2, True, 4), (2, False, 5), (3, True, 6)]
    )
    def test_bayes_optimum_is_that_of_a_full_search(self, turns, dead_ends, horizon):
        family = TMaze(turns, 1, dead_ends, horizon=horizon)
        for episodes in (1, 2, 3):
            expected = bayes_by_brute_force(turns, dead_ends, horizon, episodes)
            assert family.bayes_optimal_return(episodes) == pytest.approx(expected)
            assert family.bayes_optimal_episodes(episodes).sum() == pytest.approx(expected)

    def test_picture(self):
        family = metarl.make_family("metarl/TMaze-v0", turns=2, corridor=2)
        _, _, state, task = self.walk(family, [1, -1], [FORWARD, FORWARD, RIGHT, FORWARD])
        axes = drawn(family, state, task)
        star, agent = (next(x for x in axes.lines if x.get_marker() == m) for m in ("*", "o"))
        assert star.get_xydata().tolist() == [[0.0, 4.0]]  # right, then left again, at the second junction's height
        assert agent.get_xydata().tolist() == [[1.0, 3.0]]

    @pytest.mark.parametrize(
        "kwargs", [{"turns": 0}, {"turns": 11}, {"turns": 2.0}, {"corridor": 0}, {"turns": 2, "horizon": 5}]
    )
    def test_bad_keywords_are_named(self, kwargs):
        with pytest.raises(InvalidValueError, match=rf"TMaze.{list(kwargs)[-1]} is .* expected a whole number"):
            metarl.make_family("metarl/TMaze-v0", **kwargs)


def bayes_by_brute_force(turns, dead_ends, horizon, episodes):
    """All actions at all beliefs, corridors of one step, nothing taken for granted: the best expected return."""

    def play(goal, path, cell, action):
        """Path, cell, reward and whether it is over."""
        if cell == 1 and action in (LEFT, RIGHT):
            path = (*path, -1 if action == LEFT else 1)
            if path == goal:
                return path, 0, 4.0, True
            wrong = dead_ends and path[-1] != goal[len(path) - 1]
            return (path, 0, -0.1, True) if wrong or len(path) == turns else (path, 0, 0.0, False)
        after = {FORWARD: 1, BACK: 0}.get(action, cell)
        return path, after, 0.0 if after != cell else -0.1, False

    @cache
    def value(belief, path, cell, t):
        """Summed over the goals in `belief`."""
        if t == episodes * horizon:
            return 0.0
        best = -np.inf
        for action in range(4):
            groups = {}
            for goal in belief:
                groups.setdefault(play(goal, path, cell, action), []).append(goal)
            total = 0.0
            for (after, reached, reward, over), goals in groups.items():
                episode_over = over or (t + 1) % horizon == 0
                # what is left of an episode that ended is not played
                later = (t // horizon + 1) * horizon if episode_over else t + 1
                place = ((), 0) if episode_over else (after, reached)
                total += reward * len(goals) + value(frozenset(goals), *place, later)
            best = max(best, total)
        return best

    goals = frozenset(itertools.product((-1, 1), repeat=turns))
    return value(goals, (), 0, 0) / len(goals)


class TestSinusoid:
    def test_declarations(self):
        family = metarl.make_family(SINUSOIDS[0])
        assert family.horizon == 10
        assert family.task_space == {"amplitude": metarl.Uniform(0.1, 5.0), "phase": metarl.Uniform(0.0, np.pi)}
        assert family.action_space == Box(-6.0, 6.0, (1,), np.float32)
        assert family.observation_space == Box(np.float32([-5, -6]), np.float32([5, 6]))
        assert metarl.make_family(SINUSOIDS[1]).observation_space == Box(-5.0, 5.0, (1,), np.float32)
        large, shifted = (family.tasks(split, 100).values for split in ("large", "shifted"))
        assert large["amplitude"].min() > 5.0
        assert large["phase"].max() <= np.pi
        assert shifted["phase"].min() > np.pi
        assert shifted["amplitude"].max() <= 5.0

    def test_a_step_by_hand(self):
        # 2 sin(pi/2) = 2, 2 sin(-pi/6) = -1, 2 sin(0) = 0; predictions beyond the box count as its edge
        family = metarl.make_family(SINUSOIDS[0])
        task = repeated(family.make_tasks(amplitude=2.0, phase=0.5), 3)
        x = torch.tensor([np.pi / 2 + 0.5, 0.5 - np.pi / 6, 0.5], dtype=torch.float32)
        state = torch.stack([x, torch.full((3,), 9.0)], -1)
        after, reward, ended = family.step(state, torch.tensor([[1.5], [-3.0], [100.0]]), task, keyed(3))
        assert reward.tolist() == pytest.approx([-0.25, -4.0, -36.0], abs=1e-5)
        assert after[:, 1].tolist() == pytest.approx([2.0, -1.0, 0.0], abs=1e-6)
        assert not ended.any()
        assert torch.equal(family.observe(after, task), after)
        hidden = metarl.make_family(SINUSOIDS[1])
        assert torch.equal(hidden.observe(after, task), after[:, :1])

    def test_inputs_are_uniform_and_the_first_value_is_blank(self):
        family, n = metarl.make_family(SINUSOIDS[0]), 5000
        task = repeated(family.make_tasks(amplitude=1.0, phase=0.0), n)
        first = family.reset(task, keyed(n))
        assert not first[:, 1].any()
        second = family.step(first, torch.zeros(n, 1), task, keyed(n).seek(1))[0]
        for state in (first, second):
            assert stats.kstest(state[:, 0].numpy(), stats.uniform(-5, 10).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.05

    def test_floor_is_the_integral_over_inputs_and_predictions(self):
        family = metarl.make_family("metarl/Sinusoid-v0", shots=3)
        for amplitude, phase in ((0.1, 0.0), (3.0, 1.0), (5.0, 3.0)):
            found = integrate.dblquad(lambda a, x, A=amplitude, p=phase: (a - A * np.sin(x - p)) ** 2, -5, 5, -6, 6)[0]
            tasks = family.make_tasks(amplitude=amplitude, phase=phase)
            assert family.references(tasks)["floor"] == pytest.approx([-3 * found / 120], rel=1e-6)

    def test_picture(self):
        family = metarl.make_family(SINUSOIDS[0])
        task = family.make_tasks(amplitude=2.0, phase=0.5).tensors()
        axes = drawn(family, torch.tensor([[0.5 - np.pi / 6, 0.0]]), task)
        star = next(line for line in axes.lines if line.get_marker() == "*")
        assert star.get_xydata()[0].tolist() == pytest.approx([0.5 - np.pi / 6, -1.0])

    @pytest.mark.parametrize("shots", [0, 2.5])
    def test_bad_keywords_are_named(self, shots):
        with pytest.raises(InvalidValueError, match=rf"Sinusoid.shots is {shots}, expected a whole number"):
            metarl.make_family("metarl/Sinusoid-v0", shots=shots)


class TestDigits:
    @pytest.fixture(autouse=True)
    def _needs_sklearn(self):
        pytest.importorskip("sklearn")

    def test_declarations(self):
        family = metarl.make_family(DIGITS[0])
        assert (family.ways, family.horizon, family.finite) == (3, 15, False)
        assert (family.observation_space.shape, family.action_space) == ((67,), Discrete(3))
        assert metarl.make_family(DIGITS[1]).observation_space.shape == (64,)
        train = family.tasks("train", 500).values["classes"]
        assert set(np.unique(train)) == set(range(7))
        assert all(len(set(row)) == 3 for row in train.tolist())
        new = family.tasks("new_digits", 100).values["classes"]
        assert {tuple(sorted(row)) for row in new.tolist()} == {(7, 8, 9)}
        assert len(np.unique(new, axis=0)) == 6
        assert metarl.make_family("metarl/Digits-v0", ways=4).ood == {}

    def test_images_are_those_of_the_tasks_classes(self):
        """Each is looked up by its pixels in the data set as scikit-learn gives it."""
        from sklearn.datasets import load_digits

        pixels, digit = load_digits(return_X_y=True)
        known = {row.astype(np.float32).tobytes(): d for row, d in zip(pixels, digit, strict=True)}
        family, n = metarl.make_family(DIGITS[0]), 20_000
        task = repeated(family.make_tasks(classes=[5, 0, 3]), n)
        state = family.reset(task, keyed(n))
        shown = family.observe(state, task)[:, :64].numpy() * 16
        digits = np.array([known[row.tobytes()] for row in shown])
        assert digits.tolist() == np.array([5, 0, 3])[state["label"].numpy()].tolist()
        assert stats.chisquare(np.bincount(state["label"])).pvalue > 1e-3
        for d in (5, 0, 3):  # every image of a class is as likely
            counts = np.unique(shown[digits == d], axis=0, return_counts=True)[1]
            assert len(counts) == (digit == d).sum()
            assert stats.chisquare(counts).pvalue > 1e-3

    def test_a_step_by_hand(self):
        family = metarl.make_family(DIGITS[0])
        task = repeated(family.make_tasks(classes=[6, 1, 2]), 3)
        first = family.reset(task, keyed(3))
        assert not family.observe(first, task)[:, 64:].any()
        state = {**first, "label": torch.tensor([2, 0, 1])}
        after, reward, ended = family.step(state, torch.tensor([2, 1, 1]), task, keyed(3).seek(1))
        assert reward.tolist() == [1.0, 0.0, 1.0]
        assert not ended.any()
        assert family.observe(after, task)[:, 64:].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
        assert metarl.make_family(DIGITS[1]).observe(after, task).shape == (3, 64)
        assert family.images(torch.device("cpu")) is family.images(torch.device("cpu"))

    def test_references(self):
        family = metarl.make_family("metarl/Digits-v0", ways=4, shots=3)
        found = family.references(family.tasks("test", 2))
        assert found["floor"].tolist() == [3.0, 3.0]
        assert found["informed_optimum"].tolist() == [12.0, 12.0]

    @pytest.mark.parametrize(("ways", "shots"), [(2, 1), (2, 3), (3, 1), (3, 2)])
    def test_bayes_optimum_is_that_of_a_full_search(self, ways, shots):
        """All guesses at all beliefs about which label each of the classes has."""

        @cache
        def value(belief, left):
            if not left:
                return 0.0
            total = 0.0
            for shown in range(ways):
                by_label = [frozenset(b for b in belief if b[shown] == label) for label in range(ways)]
                later = sum(len(b) * value(b, left - 1) for b in by_label if b)
                total += max(len(b) for b in by_label) + later
            return total / ways / len(belief)

        family = metarl.make_family("metarl/Digits-v0", ways=ways, shots=shots)
        expected = value(frozenset(itertools.permutations(range(ways))), ways * shots)
        assert family.bayes_optimal_return(1) == pytest.approx(expected)
        assert family.bayes_optimal_return(2) is None
        assert metarl.make_family(DIGITS[1]).bayes_optimal_return(1) is None

    def test_picture(self):
        family = metarl.make_family(DIGITS[0])
        task = family.make_tasks(classes=[6, 1, 2]).tensors()
        state = {**family.reset(task, keyed(1)), "label": torch.tensor([1])}
        axes = drawn(family, state, task)
        assert [text.get_text() for text in axes.texts] == ["6", "[1]", "2"]
        shown = family.observe(state, task)[0, :64].view(8, 8).numpy()
        assert np.array_equal(axes.images[0].get_array(), shown)

    @pytest.mark.parametrize(("field", "value"), [("ways", 1), ("ways", 6), ("shots", 0), ("ways", 2.0)])
    def test_bad_keywords_are_named(self, field, value):
        with pytest.raises(InvalidValueError, match=rf"Digits.{field} is {value}, expected a whole number"):
            metarl.make_family("metarl/Digits-v0", **{field: value})


def test_digits_without_scikit_learn_say_how_to_install_it():
    """In a process of its own: the module is imported without the package, the family is not built."""
    program = """
import sys
sys.modules["sklearn"] = None
from metarl.envs.few_shot.digits import Digits
try:
    Digits()
except Exception as error:
    print(type(error).__name__, error)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.startswith("MissingExtraError Digits needs the package sklearn")
    assert "which is not installed: pip install " in out
