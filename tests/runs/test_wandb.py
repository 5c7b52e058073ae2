"""Weights & Biases gets the numbers that TensorBoard gets, and a resumed training continues its run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import metarl
from metarl.cli.main import main
from metarl.runs.run import Run

TRAIN = ["train", "rl2", "--family", "metarl/BernoulliBandit-v0", "--meta-batch-size", "8", "--hidden", "4"]
TRAIN += ["--iterations", "2", "--eval-every", "1", "--out", "run", "--wandb", "bandits"]


class FakeWandb:
    """Takes the place of the package, as in its offline mode."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.exit_codes: list[int] = []

    def init(self, **settings: Any) -> FakeWandb:
        self.settings.append(settings)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.chdir(tmp_path)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    return fake


def test_metrics_and_validations_are_logged_and_a_resumed_run_goes_on(fake: FakeWandb) -> None:
    main(TRAIN)
    main(["train", "--resume", "run", "--iterations", "3", "--wandb", "bandits"])
    first, second = fake.settings
    assert (first["project"], first["name"], first["config"]["agent"]) == ("bandits", "run", "rl2")
    assert first["id"] == second["id"]
    assert [step for step, values in fake.logged if "trial_return" in values] == [0, 1, 2]
    # the validation after iteration 2 is shown again when the run continues from there
    assert [step for step, values in fake.logged if "validation/return_0" in values] == [0, 1, 2, 2, 3]
    assert fake.exit_codes == [0, 0]


def test_a_failed_training_says_so_and_without_the_option_nothing_is_sent(fake: FakeWandb) -> None:
    agent = metarl.make_agent("rl2", "metarl/BernoulliBandit-v0", meta_batch_size=8, hidden=4)
    run = Run.create("run", agent, 1)
    run.wandb = "bandits"
    with pytest.raises(ZeroDivisionError):
        run.train(agent, progress=lambda *_: 1 // 0)
    assert fake.exit_codes == [1]
    Run.create("quiet", agent, 1).train(agent)
    assert len(fake.settings) == 1


def test_without_the_package_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit, match="2"):
        main(TRAIN)
    expected = "wandb is 'bandits', expected no project, because wandb is not installed"
    assert expected in capsys.readouterr().err
    assert not Path("run").exists()
