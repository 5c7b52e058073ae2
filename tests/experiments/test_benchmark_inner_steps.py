"""What autograd keeps in a meta-update: it grows with MAML's inner steps, and not with those of iMAML."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from benchmark_inner_steps import Options, inner_steps_figure, inner_steps_table, kept_bytes, main, memory

SIZES = {"meta_batch_size": 2, "episodes": 2, "hidden": (16,)}


def test_bytes_are_those_of_the_tensors_that_are_kept() -> None:
    """An exponential keeps its output of 40 bytes, x * x keeps x twice, which counts once; both are let go."""
    x = torch.ones(10, requires_grad=True)
    with kept_bytes() as count:
        y = x.exp()
        assert count.now == 40
        z = x * x
        assert count.now == 80
        torch.autograd.grad(y.sum(), x)
        assert count.now == 40
        del z
        assert count.now == 0
    assert count.peak == 80


def test_memory_grows_with_the_inner_steps_of_maml_alone() -> None:
    maml, imaml = ([memory(name, k, **SIZES) for k in (1, 5, 20)] for name in ("maml", "imaml"))
    assert maml[1] > 2 * maml[0]
    assert maml[2] > 6 * maml[0]
    assert imaml[2] <= 1.05 * imaml[0]
    assert imaml[0] < 1.5 * maml[0]
    many = memory("imaml", 1, **SIZES, solver_steps=50)
    assert many <= 1.05 * imaml[0]


def test_the_script_measures_both_agents(tmp_path: Path) -> None:
    main(Options(repeats=1, steps=(1, 2), out=tmp_path / "found.json", small=True))
    report = json.loads((tmp_path / "found.json").read_text())
    assert [(row["agent"], row["steps"]) for row in report["rows"]] == [
        *(("maml", 1), ("imaml", 1), ("maml", 2), ("imaml", 2))
    ]
    assert "| 2 |" in inner_steps_table(report)
    assert len(inner_steps_figure(report).axes) == 2
