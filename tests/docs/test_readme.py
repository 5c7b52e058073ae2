"""README: its code runs as printed; the generated parts of README and docs are up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metarl
from metarl.contract.family_contract import check_family
from metarl.engine.pool import EnvironmentPool

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def block_with(text: str, word: str) -> str:
    return next(b for b in blocks(text) if word in b)


def code_lines(block: str) -> int:
    """Lines of code after the imports, without blank ones."""
    return len([line for line in block.splitlines() if line.strip() and not line.startswith(("import", "from"))])


def test_torch_form_runs_as_printed_and_is_short(scratch_registry: None) -> None:
    block = block_with(README, "PointGoal")
    assert code_lines(block) <= 15
    exec(block, {"__name__": "readme"})
    assert check_family("mine/PointGoal-v0") == []


def test_gymnasium_form_runs_as_printed_and_is_short(scratch_registry: None) -> None:
    block = block_with(README, "CartPole")
    assert code_lines(block) <= 5
    exec(block, {"__name__": "readme"})
    assert check_family("mine/CartPole-v0") == []
    agent = metarl.make_agent("maml", "mine/CartPole-v0", meta_batch_size=2, episodes=2, eval_steps=400, hidden=(8,))
    metarl.train(agent, 1)
    assert metarl.evaluate(agent, k=1, num_tasks=2, episodes=1).scores["sampled"].shape == (1, 2, 2, 1)


def test_five_lines_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    block = block_with(README, "metarl.train(agent")
    assert code_lines(block) == 5
    monkeypatch.chdir(tmp_path)
    exec(block.replace("iterations=20", "iterations=1"), {"__name__": "readme"})
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_the_variant_in_docs_gradients_runs_as_printed(scratch_registry: None) -> None:
    exec("".join(blocks((ROOT / "docs" / "gradients.md").read_text())), {"__name__": "docs"})
    settings = {"meta_batch_size": 2, "episodes": 2, "eval_steps": 200, "hidden": (8,)}
    agent = metarl.make_agent("bias_maml", "metarl/PointNavigation-v0", **settings)
    metarl.train(agent, 1)
    tensors = agent.tensors()
    assert all(float(tensors[k]) != 0.5 for k in ("alpha.b0", "alpha.b1"))  # the sizes are meta-learned
    trials = metarl.engine.rollout.PoolTrials(EnvironmentPool(agent.family), agent.family.tasks("test", 1))
    _, state = agent.interact(agent.begin(1), trials, 0)
    moved = {k for k, v in tensors.items() if k in state and not torch.equal(v, state[k][0])}
    assert moved == {"b0", "b1"}


def test_generated_parts_are_up_to_date() -> None:
    """Numbers in README come from experiments/results, never from a keyboard."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "make_tables.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
