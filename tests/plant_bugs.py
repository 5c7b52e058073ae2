"""Plant a bug for each pitfall of the field, one at a time, in a copy of the code, and see a test fail.

    python tests/plant_bugs.py            # all of them
    python tests/plant_bugs.py lvc time   # those whose name contains a word

Exit code 1 if any bug survives. The pitfalls are numbered as in docs/pitfalls.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Bug(NamedTuple):
    """One planted bug."""

    name: str
    file: str
    old: str
    new: str
    test: str


BUGS = (
    Bug(
        "1 evaluator takes one step whatever k",
        "metarl/evaluation.py",
        "if k < grid[-1]:",
        "if k < min(1, grid[-1]):",
        "test_evaluation",
    ),
    Bug(
        "2 scores the episodes it adapts on",
        "metarl/rollout.py",
        "torch.tensor(make_key(purpose, mode))",
        "torch.tensor(make_key(mode))",
        "test_evaluation",
    ),
    Bug("2 mean mode samples", "agents/maml.py", 'policy.mode if mode == "mean" else', "", "test_maml"),
    Bug(
        "3 LVC without its ratio",
        "agents/maml.py",
        "log_prob = torch.exp(log_prob - (log_prob.detach() if sampled is None else sampled))",
        "pass",
        "test_maml",
    ),
    Bug(
        "3 line search of another loss",
        "agents/maml.py",
        "batch, stage, self.sampled[j])",
        "batch, stage)",
        "test_maml",
    ),
    Bug(
        "intervals that forget the seeds",
        "metarl/results.py",
        "size=(n, seeds, 1), dtype",
        "size=(n, seeds, tasks), dtype",
        "test_evaluation",
    ),
    Bug(
        "4 second-order terms dropped",
        "agents/maml.py",
        "return v if self.agent.config.first_order else",
        "return v if True else",
        "test_maml",
    ),
    Bug(
        "4 Jacobians in the wrong order",
        "agents/maml.py",
        "for j in reversed(range(len(self.steps))):",
        "for j in range(len(self.steps)):",
        "test_maml",
    ),
    Bug(
        "5 parameters leak between tasks",
        "agents/maml.py",
        "- _rowwise(lr, v) * g for",
        "- _rowwise(lr, v) * g.mean(0, keepdim=True) for",
        "test_maml",
    ),
    Bug(
        "5 evaluation trains theta",
        "agents/maml.py",
        'return {"stage": state["stage"] + 1, **out}',
        'self.theta = {k: v[0] for k, v in out.items()}; return {"stage": state["stage"] + 1, **out}',
        "test_maml",
    ),
    Bug(
        "6 ends taken for starts",
        "metarl/rollout.py",
        "return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])",
        "return self.ended",
        "test_rollout",
    ),
    Bug(
        "7 variance instead of deviation",
        "metarl/returns.py",
        ".sum((0, 2), keepdim=True) / count).sqrt()",
        ".sum((0, 2), keepdim=True) / count)",
        "test_returns",
    ),
    Bug(
        "7 advantages of all tasks together",
        "metarl/returns.py",
        "std = ((centred * centred).sum((0, 2), keepdim=True) / count).sqrt()",
        "std = ((centred * centred).sum() / weight.sum()).sqrt()",
        "test_maml",
    ),
    Bug(
        "8 log-probabilities averaged",
        "metarl/networks.py",
        "return -0.5 * (z * z).sum(-1) - (self.log_std + 0.5 * _LOG_2PI).sum(-1)",
        "return -0.5 * (z * z).mean(-1) - (self.log_std + 0.5 * _LOG_2PI).mean(-1)",
        "test_networks",
    ),
    Bug(
        "9 time feature not restarted",
        "metarl/rollout.py",
        "return t - started.cummax(0).values",
        "return t - 0 * started",
        "test_maml",
    ),
    Bug(
        "9 padding in the baseline's fit", "metarl/returns.py", "(phi * weight.unsqueeze(-1))", "(phi)", "test_returns"
    ),
    Bug(
        "10 test tasks drawn in training",
        "metarl/family.py",
        'side = None if self.finite or is_finite(space) else _SIDES.get(split, _SIDES["test"])',
        "side = None",
        "test_tasks",
    ),
    Bug(
        "10 train tasks accepted",
        "metarl/evaluation.py",
        "allow_train_tasks or bool(held_out.all())",
        "True",
        "test_evaluation",
    ),
    Bug(
        "11 memory's inputs cleared at episode ends",
        "agents/rl2.py",
        "torch.cat([first, told[:-1]])",
        "torch.cat([first, told[:-1] * ~rollout.ended[:-1]])",
        "test_rl2",
    ),
    Bug(
        "11 reward not fed back",
        "agents/rl2.py",
        "reward.unsqueeze(-1), ended",
        "0 * reward.unsqueeze(-1), ended",
        "test_rl2",
    ),
    Bug(
        "11 end flag dropped",
        "agents/rl2.py",
        "ended.unsqueeze(-1).float()], -1)",
        "0.0 * ended.unsqueeze(-1).float()], -1)",
        "test_rl2",
    ),
    Bug(
        "12 returns stop at episode ends",
        "agents/rl2.py",
        "value, trial_end, cfg.discount",
        "value, rollout.ended[:, :, 0], cfg.discount",
        "test_rl2",
    ),
    Bug(
        "12 returns leak past the trial",
        "agents/rl2.py",
        "trial_end = valid & ~torch.cat([valid[1:], torch.zeros_like(valid[:1])])",
        "trial_end = torch.zeros_like(valid)",
        "test_rl2",
    ),
    Bug(
        "13 cut episodes not bootstrapped",
        "agents/maml.py",
        "cfg.gae_lambda, last_value=after)",
        "cfg.gae_lambda)",
        "test_maml",
    ),
    Bug(
        "13 bootstrap through an end",
        "metarl/returns.py",
        "carry = discount * (~ended).to(reward.dtype)",
        "carry = discount * torch.ones_like(reward)",
        "test_returns",
    ),
    Bug(
        "14 inserted step pays",
        "metarl/vector.py",
        "reward[inserted], terminated[inserted], truncated[inserted] = 0.0, False, False",
        "pass",
        "test_vector",
    ),
    Bug(
        "15 KL of the initial policy",
        "agents/maml.py",
        "return self._surrogate(self.agent.policy(params, self.post.x))",
        "p = {k: v.expand(self.rows, *v.shape) for k, v in theta.items()}; "
        "return self._surrogate(self.agent.policy(p, self.post.x))",
        "test_maml",
    ),
    Bug(
        "15 failed line search keeps the step",
        "metarl/trust_region.py",
        "            return candidate, metrics | found\n    return theta, metrics",
        "            return candidate, metrics | found\n    return candidate, metrics",
        "test_maml",
    ),
    Bug(
        "memory reset at episode ends",
        "agents/rl2.py",
        'state["next_h"]\n',
        'state["next_h"] * ~(told.terminated | told.truncated)\n',
        "test_rl2",
    ),
    Bug("prior off by one", "envs/bernoulli_bandit.py", "(s + 1) / (s + f + 2)", "(s + 1) / (s + f + 1)", "test_envs"),
    Bug(
        "resumed parameters in another order",
        "agents/maml.py",
        "{k: tensors[k].to(self.device) for k in self.theta}",
        "{k: v.to(self.device) for k, v in tensors.items()}",
        "test_runs",
    ),
)


def survives(bug: Bug) -> bool:
    """Plant it in a copy and run one test file: do all tests still pass?"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignore = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "results", "runs", ".*_cache", ".venv")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
        target = copy / bug.file
        text = target.read_text()
        if text.count(bug.old) != 1:
            raise SystemExit(f"{bug.name}: {bug.file} holds {bug.old!r} {text.count(bug.old)} times, expected once")
        target.write_text(text.replace(bug.old, bug.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{bug.test}.py"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{bug.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def main(words: list[str]) -> None:
    """Plant them all."""
    chosen = [bug for bug in BUGS if not words or any(w in bug.name for w in words)]
    alive = []
    for bug in chosen:
        alive += [bug.name] if survives(bug) else []
        print(f"{'SURVIVED' if alive and alive[-1] == bug.name else 'caught'}  {bug.name}", flush=True)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} planted bugs caught")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
