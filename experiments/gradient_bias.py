"""Bias and variance of the inner loop's estimators, on small problems whose exact meta-gradient is known.

    python experiments/gradient_bias.py

The exact meta-gradient is d/dtheta J(theta + alpha grad J(theta)). J is the expected return, a sum over all
trajectories of a random tabular MDP. It is compared with the meta-gradient of
`metarl.learning.gradient.meta_gradient.Unroll` for each inner surrogate of `metarl.learning.gradient.policy_gradient`,
with the exact value function as baseline: first in the limit of infinitely many trajectories (every trajectory once,
weighted by its probability), then with N sampled trajectories. The return after the inner step is exact in both cases,
so all differences come from the inner estimators. Writes `experiments/results/simulations/gradient_bias.json`;
`experiments/make_tables.py` draws `docs/gradient_bias.png` from it.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from results_files import results_file
from torch import Tensor

from metarl.distribution import git_revision, versions
from metarl.files import write_atomic
from metarl.learning.action_distributions import Categorical, Distribution
from metarl.learning.gradient.meta_gradient import Unroll
from metarl.learning.gradient.policy_gradient import ESTIMATORS, Batch, surrogate
from metarl.learning.networks import Params
from metarl.report.page import GREY, MARKERS, PALETTE, STYLE
from metarl.rng import Rng, fold_in, make_key

OUT = results_file("simulations", "gradient_bias")
UNBIASED = ("dice", "loaded_dice")
METHODS = (*ESTIMATORS, "first_order")  # first_order sets the inner Hessian to 0
LABELS = {"naive": "naive", "lvc": "LVC", "dice": "DiCE", "loaded_dice": "Loaded DiCE", "first_order": "first order"}


@dataclass(frozen=True)
class Options:
    """Options of the measurement."""

    mdps: int = 20
    """Number of random problems, each with a random policy."""
    states: int = 3
    """Number of states of each problem."""
    actions: int = 2
    """Number of actions in each state."""
    horizons: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Steps of an episode, for the limit of infinitely many trajectories."""
    sampled_horizon: int = 4
    """Steps of an episode, for sampled trajectories."""
    trajectories: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Numbers of trajectories that are sampled before the inner step."""
    repeats: int = 200
    """Samples of each size in each problem."""
    alpha: float = 2.0
    """Size of the inner step on the expected return; 2 closes about 60 % of the gap to the optimum in 4 steps."""
    seed: int = 0
    """Seed of problems, policies and samples."""
    out: Path = OUT
    """Results file."""


class Mdps(NamedTuple):
    """One tabular problem per row, with a policy's logits, all `float64`."""

    first: Tensor  # probabilities of the first state [R, S]
    moves: Tensor  # probabilities of the next state [R, S, A, S]
    reward: Tensor  # [R, S, A]
    logits: Tensor  # [R, S, A]

    def repeated(self, row: int, times: int) -> Mdps:
        """Repeat one row `times` times."""
        return Mdps(*(leaf[row].expand(times, *leaf.shape[1:]) for leaf in self))


class Trajectories(NamedTuple):
    """All M trajectories of H steps, with their rewards and probabilities in each of R problems."""

    state: Tensor  # int64 [M, H]
    action: Tensor  # int64 [M, H]
    reward: Tensor  # [R, M, H]
    value: Tensor  # value of the state under the policy, over the remaining steps [R, M, H]
    nature: Tensor  # probability of the states, given the actions [R, M]
    probability: Tensor  # probability under the policy [R, M]


def random_mdps(options: Options) -> Mdps:
    """Draw problems: Dirichlet(1) transitions and first states, normal rewards and logits."""
    rows, s, a = options.mdps, options.states, options.actions
    rng = Rng(fold_in(make_key("gradient_bias", "mdp", options.seed), torch.arange(rows)))
    first, moves = rng.exponential(s).double(), rng.exponential(s, a, s).double()
    reward, logits = rng.normal(s, a).double(), rng.normal(s, a).double()
    return Mdps(first / first.sum(-1, keepdim=True), moves / moves.sum(-1, keepdim=True), reward, logits)


def values(mdps: Mdps, logits: Tensor | None, horizon: int) -> Tensor:
    """Expected return of the remaining steps `[R, H, S]`, of the policy `logits`; None means the optimal policy."""
    after, out = torch.zeros_like(mdps.first), []
    for _ in range(horizon):
        worth = mdps.reward + torch.einsum("rsan,rn->rsa", mdps.moves, after)
        after = worth.amax(-1) if logits is None else (torch.softmax(logits, -1) * worth).sum(-1)
        out.append(after)
    return torch.stack(out[::-1], 1)


def all_trajectories(mdps: Mdps, horizon: int) -> Trajectories:
    """All sequences of states and actions."""
    s, a = mdps.first.shape[1], mdps.logits.shape[2]
    steps = torch.cartesian_prod(*[torch.arange(s * a)] * horizon).view(-1, horizon)
    state, action = steps // a, steps % a
    nature = mdps.first[:, state[:, 0]] * mdps.moves[:, state[:, :-1], action[:, :-1], state[:, 1:]].prod(-1)
    chosen = torch.log_softmax(mdps.logits, -1)[:, state, action].sum(-1).exp()
    value = values(mdps, mdps.logits, horizon)[:, torch.arange(horizon), state]
    return Trajectories(state, action, mdps.reward[:, state, action], value, nature, nature * chosen)


def expected_return(paths: Trajectories, logits: Tensor) -> Tensor:
    """J by summation over all trajectories: logits `[R, S, A]` to `[R]`."""
    chosen = torch.log_softmax(logits, -1)[:, paths.state, paths.action].sum(-1).exp()
    return (paths.nature * chosen * paths.reward.sum(-1)).sum(-1)


def share_of_gap(mdps: Mdps, horizon: int, alpha: float) -> float:
    """Share of the gap to the optimum that an exact inner step closes, over all problems."""
    paths, theta = all_trajectories(mdps, horizon), mdps.logits.clone().requires_grad_()
    before = expected_return(paths, theta)
    (slope,) = torch.autograd.grad(before.sum(), theta)
    before = before.detach()
    best = (mdps.first * values(mdps, None, horizon)[:, 0]).sum(-1)
    return float((expected_return(paths, mdps.logits + alpha * slope) - before).sum() / (best - before).sum())


def exact_meta_gradient(paths: Trajectories, logits: Tensor, alpha: float) -> Tensor:
    """d/dtheta J(theta + alpha grad J(theta)) by plain differentiation, `[R, S, A]`."""
    theta = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected_return(paths, theta).sum(), theta, create_graph=True)
    return torch.autograd.grad(expected_return(paths, theta + alpha * slope).sum(), theta)[0]


def batch_of(paths: Trajectories, row: Tensor, which: Tensor, weight: Tensor) -> Batch:
    """Make an inner loss's batch of trajectories.

    Args:
        paths: all trajectories.
        row: the problem of each row of the batch, `int64 [B]`.
        which: numbers of trajectories, `int64 [B, E]`.
        weight: weights of the trajectories, `[B, E]`, which sum to 1 over trajectories: J is a return.
    """
    at = row.unsqueeze(1)

    def steps(leaf: Tensor) -> Tensor:  # [B, E, H] to [B, H * E], time first
        return leaf.transpose(1, 2).flatten(1)

    state, reward = paths.state[which], paths.reward[at, which]
    value, horizon = paths.value[at, which], paths.state.shape[1]
    to_go = reward.flip(-1).cumsum(-1).flip(-1)
    return Batch(
        x=torch.nn.functional.one_hot(steps(state), int(paths.state.max()) + 1).double(),
        action=steps(paths.action[which]),
        advantage=steps(to_go - value),
        weight=steps(weight.unsqueeze(-1).expand_as(reward)),
        value=steps(value),
        time=torch.arange(horizon).view(1, -1, 1).expand(len(row), -1, which.shape[1]),
        mean_return=torch.zeros(len(row), dtype=torch.float64),
    )


class Tabular:
    """A `metarl.learning.gradient.meta_gradient.Inner`: softmax policies and one step.

    Every row has its own meta-parameters, so one call gives a separate gradient for each row.
    """

    def __init__(self, estimator: str, alpha: float, first_order: bool) -> None:
        self.estimator, self.alpha, self.first_order = estimator, alpha, first_order
        self.whole_episodes = "dice" in estimator

    def start(self, meta: Params, rows: int) -> Params:
        """The meta-parameters, which are those of each row."""
        return dict(meta)

    def step_sizes(self, meta: Params, j: int) -> Params:
        """The step size `alpha` for all parameters."""
        return {k: v.new_tensor(self.alpha) for k, v in meta.items()}

    def policy(self, params: Params, x: Tensor) -> Distribution:
        """Softmax of the state's logits."""
        return Categorical.from_logits(x @ params["logits"])

    def loss(self, params: Params, batch: Batch, sampled: Tensor | None = None) -> Tensor:
        """Minus the estimator's surrogate for the expected return."""
        return -surrogate(self.estimator, self.policy(params, batch.x).log_prob(batch.action), batch, sampled)

    def chunks(self, batch: Batch) -> list[slice]:
        """One chunk of all rows."""
        return [slice(0, len(batch.x))]

    def graph_bytes(self, batch: Batch) -> int:
        """0: the graphs are small."""
        return 0


@dataclass(frozen=True)
class ExactLoss:
    """Minus the exact expected return after the inner step; the batch holds every state once."""

    mdps: Mdps
    horizon: int
    every_step = False

    def kl_weight(self, j: int, last: bool) -> float:
        """1 for the last policy, 0 for the others."""
        return float(last)

    def rows(self, which: slice | Tensor) -> ExactLoss:
        """The whole loss; its rows are never divided."""
        return self

    def __call__(self, j: int, policy: Distribution, batch: Batch, old: Distribution, last: bool) -> Tensor:
        """See `metarl.learning.gradient.meta_gradient.OuterLoss`."""
        value = values(self.mdps, cast("Categorical", policy).logits, self.horizon)[:, 0]
        return -(self.mdps.first * value).sum()


def meta_gradient(method: str, mdps: Mdps, pre: Batch, horizon: int, alpha: float) -> Tensor:
    """The library's meta-gradient of the expected return after a step on `pre`, `[R, S, A]`."""
    rows, s = mdps.first.shape
    none = torch.zeros(rows, s, dtype=torch.float64)
    every_state = torch.eye(s, dtype=torch.float64).expand(rows, s, s)
    post = Batch(every_state, none.long(), none, none, none, none.long().unsqueeze(1), none[:, 0])
    first_order = method == "first_order"
    inner = Tabular("naive" if first_order else method, alpha, first_order)
    unroll = Unroll(inner, ExactLoss(mdps, horizon), {"logits": mdps.logits}, [pre], post)
    return -unroll.gradient()[1]["logits"]


def limit(options: Options, mdps: Mdps, horizon: int) -> list[dict[str, Any]]:
    """Error of each method with infinitely many trajectories, by problem."""
    paths = all_trajectories(mdps, horizon)
    rows, m = paths.probability.shape
    pre = batch_of(paths, torch.arange(rows), torch.arange(m).expand(rows, m), paths.probability)
    exact = exact_meta_gradient(paths, mdps.logits, options.alpha).flatten(1)
    out = []
    for method in METHODS:
        found = meta_gradient(method, mdps, pre, horizon, options.alpha).flatten(1)
        error = (found - exact).norm(dim=1) / exact.norm(dim=1)
        out.append(
            {
                "horizon": horizon,
                "method": method,
                "relative_error": error.tolist(),
                "cosine": torch.cosine_similarity(found, exact, dim=1).tolist(),
            }
        )
    return out


def sampled(options: Options, mdps: Mdps, count: int) -> list[dict[str, Any]]:
    """Cosine, bias and standard deviation of each method with `count` trajectories, by problem.

    All methods use the same samples. Bias and deviation are relative to the exact gradient's norm. The variance of the
    mean over repeats is subtracted from the squared bias.
    """
    horizon, repeats = options.sampled_horizon, options.repeats
    paths = all_trajectories(mdps, horizon)
    exact = exact_meta_gradient(paths, mdps.logits, options.alpha).flatten(1)
    rows: dict[str, dict[str, Any]] = {
        method: {"trajectories": count, "method": method, "cosine": [], "bias": [], "deviation": []}
        for method in METHODS
    }
    for i, (probability, aim) in enumerate(zip(paths.probability, exact, strict=True)):
        keys = fold_in(make_key("gradient_bias", "samples", options.seed, count, i), torch.arange(repeats))
        edges = probability.cumsum(0)
        drawn = torch.searchsorted(edges, Rng(keys).uniform(count).double() * edges[-1], right=True)
        which, weight = drawn.clamp_max(len(edges) - 1), torch.full(drawn.shape, 1.0 / count, dtype=torch.float64)
        pre, many = batch_of(paths, torch.full((repeats,), i), which, weight), mdps.repeated(i, repeats)
        for method in METHODS:
            found = meta_gradient(method, many, pre, horizon, options.alpha).flatten(1)
            mean, size = found.mean(0), aim.square().sum()
            variance = (found - mean).square().sum(1).sum() / (repeats - 1)
            bias = ((mean - aim).square().sum() - variance / repeats).clamp_min(0.0)
            rows[method]["cosine"].append(float(torch.cosine_similarity(found, aim.unsqueeze(0), dim=1).mean()))
            rows[method]["bias"].append(float((bias / size).sqrt()))
            rows[method]["deviation"].append(float((variance / size).sqrt()))
    return list(rows.values())


def measure(options: Options) -> dict[str, Any]:
    """All numbers, with the command, options and versions."""
    mdps, horizons = random_mdps(options), sorted({*options.horizons, options.sampled_horizon})
    report: dict[str, Any] = {
        "command": shlex.join(["python", "experiments/gradient_bias.py", *sys.argv[1:]]),
        "options": asdict(options) | {"out": options.out.name},
        "versions": versions(),
        "git_revision": git_revision(),
        "share_of_gap": {str(h): share_of_gap(mdps, h, options.alpha) for h in horizons},
        "limit": [row for horizon in options.horizons for row in limit(options, mdps, horizon)],
    }
    for row in report["limit"]:
        if row["method"] in UNBIASED and max(row["relative_error"]) > 1e-6:
            raise SystemExit(f"{row['method']} is off by {max(row['relative_error']):.1e} at horizon {row['horizon']}")
    report["sampled"] = [row for count in options.trajectories for row in sampled(options, mdps, count)]
    return report


# --- figure ----------------------------------------------------------------------------------------------------------


def mean_of(report: dict[str, Any], part: str, at: int, method: str, what: str) -> float:
    """Mean over problems of one number: of "limit" at a horizon, or of "sampled" at a number of trajectories."""
    key = "horizon" if part == "limit" else "trajectories"
    return float(np.mean(next(r for r in report[part] if r["method"] == method and r[key] == at)[what]))


def caption(report: dict[str, Any]) -> str:
    """Caption of the figure, with the command that makes it."""
    o = report["options"]
    exact = max(max(row["relative_error"]) for row in report["limit"] if row["method"] in UNBIASED)
    return (
        f"{o['mdps']} random problems of {o['states']} states and {o['actions']} actions with random softmax policies; "
        f"one inner step of size {o['alpha']:g}, which closes {report['share_of_gap'][str(o['sampled_horizon'])]:.0%} "
        f"of the gap to the optimum at horizon {o['sampled_horizon']}. Error: |expectation - exact| / |exact| with "
        f"infinitely many trajectories; the largest error of the two DiCE estimators in any problem is {exact:.0e}. "
        "Cosine "
        f"and deviation (standard deviation / |exact|) are over {o['repeats']} samples of N trajectories in each "
        "problem "
        f"at horizon {o['sampled_horizon']}. All numbers are means over problems. Command: `{report['command']}`."
    )


def figure(report: dict[str, Any]) -> Figure:
    """Bias against the horizon; cosine and standard deviation against the number of trajectories."""
    o = report["options"]
    title = "DiCE is unbiased but noisy, LVC a little biased and quieter, naive no better than first order"
    share = PercentFormatter(1.0, decimals=0)
    with matplotlib.rc_context(STYLE):
        out = Figure(figsize=(11.6, 3.9), layout=ConstrainedLayoutEngine(wspace=0.04))
        out.suptitle(title, x=0.008, ha="left", size=12, weight="bold")
        left, middle, right = out.subplots(1, 3)
        left.set_title("bias, from infinitely many trajectories", loc="left", size=9)
        left.set(xlabel="horizon, steps per episode", ylabel="relative error of the meta-gradient")
        left.xaxis.set_major_locator(FixedLocator(o["horizons"]))
        left.yaxis.set_major_formatter(share)
        _draw(left, report["limit"], "horizon", "relative_error")
        middle.set_title(f"agreement, horizon {o['sampled_horizon']}", loc="left", size=9)
        middle.set(ylabel="mean cosine with the exact meta-gradient")
        right.set_title(f"noise, horizon {o['sampled_horizon']}", loc="left", size=9)
        right.set(ylabel="standard deviation, share of the exact norm", yscale="log")
        right.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
        right.yaxis.set_minor_locator(NullLocator())
        right.yaxis.set_major_formatter(share)
        for ax, what in ((middle, "cosine"), (right, "deviation")):
            ax.set(xlabel="trajectories, sampled before the inner step", xscale="log")
            ax.xaxis.set_major_locator(FixedLocator(o["trajectories"]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
            _draw(ax, report["sampled"], "trajectories", what)
    return out


def _draw(ax: Axes, rows: Sequence[dict[str, Any]], x: str, y: str) -> None:
    """Draw means over problems: one line for each method, with its name at the right end."""
    ends = []
    for method, color, marker in zip(METHODS, (*PALETTE[: len(ESTIMATORS)], GREY), MARKERS, strict=False):
        matching = [row for row in rows if row["method"] == method]
        at, mean = [row[x] for row in matching], [float(np.mean(row[y])) for row in matching]
        style: dict[str, Any] = {"ls": "--"} if method == "first_order" else {}
        ax.plot(at, mean, color=color, marker=marker, **style)
        ends.append((mean[-1], LABELS[method], color))
    fraction = ax.transData + ax.transAxes.inverted()
    ends.sort()
    ax.set_ylim(ax.get_ylim())
    places = [float(fraction.transform((at[-1], end))[1]) for end, _, _ in ends]
    for i in list(range(len(ends) - 1)) * 50:  # move close names apart
        short = 0.062 - (places[i + 1] - places[i])
        if short > 0:
            places[i] -= short / 2
            places[i + 1] += short / 2
    for place, (_, name, color) in zip(places, ends, strict=True):
        ax.text(1.02, place, name, transform=ax.transAxes, color=color, va="center", size=8.5)


def text_of(report: dict[str, Any]) -> str:
    """JSON text with 6 digits, and lists of numbers on one line."""
    rounded = json.loads(json.dumps(report), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    text = json.dumps(rounded, indent=1)
    return re.sub(r"\[([^][{}]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n"


def main(options: Options) -> None:
    """Measure, print the means and write the results."""
    torch.set_num_threads(1)
    report = measure(options)
    for part, key in (("limit", "horizon"), ("sampled", "trajectories")):
        for row in report[part]:
            means = {k: f"{np.mean(v):.4f}" for k, v in row.items() if isinstance(v, list)}
            print(f"{key} {row[key]}, {row['method']}: {means}")
    write_atomic(options.out, text_of(report).encode())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
