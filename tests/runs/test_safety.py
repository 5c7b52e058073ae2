"""What is kept from harm: a user's folders and files, a run that two train at once, and who opens a stranger's run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fuzz_commands
import gymnasium as gym
import kill_runs
import numpy as np
import pytest

import metarl
from metarl import named
from metarl.cli.main import main
from metarl.evaluation import results
from metarl.lock import NAME, locked
from metarl.runs import checkpoints, metrics_log, run_config, stop_requests
from metarl.runs import run as runs
from metarl.runs.checkpoints import save_checkpoint
from metarl.runs.run import Run

TINY = ["--iterations", "2", "--meta-batch-size", "2", "--episodes", "1", "--hidden", "4"]
MAML = ["train", "maml", "--family", "metarl/PointNavigation-v0", *TINY]
BANDITS = ["--family", "metarl/BernoulliBandit-v0"]
EVAL = ["--k", "0", "--num-tasks", "1", "--episodes", "1"]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_config, "git_revision", lambda: None)


def tree() -> dict[str, bytes | None]:
    """Every file here with its bytes, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must write nothing and fail with exit code 2 and one sentence; the sentence."""
    before = tree()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert tree() == before
    return lines[0]


def bandits(**overrides: Any) -> metarl.Agent:
    return metarl.make_agent("rl2", BANDITS[1], **{"meta_batch_size": 8, "hidden": 4} | overrides)


def trained(path: str = "run", iterations: int = 2) -> Run:
    agent = bandits()
    run = Run.create(path, agent, iterations)
    run.train(agent)
    return run


# --- nothing is removed or overwritten that was there before --------------------------------------------------------


@pytest.mark.parametrize("out", ["thesis", ".", "", "thesis/chapter.tex", "/"])
def test_a_place_that_holds_something_else_is_refused(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("years of work")
    assert re.search(r"(run directory|output path|--out) is ", refused(capsys, *MAML, "--out", out))


@pytest.fixture
def failing(scratch_registry: Any, counting: type[metarl.TorchFamily]) -> list[Callable[[], None]]:
    """A family, toy/Failing-v0, in whose steps what the list holds happens first, one after another."""
    happens: list[Callable[[], None]] = []

    class Failing(counting):  # type: ignore[misc, valid-type]
        def step(self, state: Any, action: Any, task: Any, rng: Any) -> Any:
            if happens:
                happens.pop(0)()
            return super().step(state, action, task, rng)

    metarl.register_family("toy/Failing-v0", Failing)
    return happens


def fail() -> None:
    raise ZeroDivisionError


FAILING = ["train", "maml", "--family", "toy/Failing-v0", *TINY]


def test_a_failed_first_iteration_removes_what_it_made_and_nothing_else(failing: list[Callable[[], None]]) -> None:
    Path("mine/empty").mkdir(parents=True)
    for out, left in (("mine/a/b/run", {"mine", "mine/empty"}), ("mine/empty", {"mine", "mine/empty"})):
        failing[:] = [fail]
        with pytest.raises(ZeroDivisionError):
            main([*FAILING, "--out", out])
        assert set(tree()) == left
    failing[:] = [lambda: Path("mine/a/notes.txt").write_text("a note") and fail()]
    with pytest.raises(ZeroDivisionError):
        main([*FAILING, "--out", "mine/a"])
    assert set(tree()) == {"mine", "mine/empty", "mine/a", "mine/a/notes.txt"}


def test_a_failure_later_on_keeps_what_was_learned(
    failing: list[Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 2 * 4  # of an iteration: rollouts before and after the inner step, four steps each
    for command, kept in (([*FAILING, "--out", "run"], True), ([*FAILING, "--out", "other"], False)):
        failing[:] = [*[lambda: None] * (steps if kept else 0), fail]
        with pytest.raises(ZeroDivisionError):
            main(command)
        told = capsys.readouterr().err.strip()
        resume = (
            "the checkpoint after 0 iterations stands: metarl train --resume run"
            if kept
            else "no iteration was finished"
        )
        assert told == f"metarl: ZeroDivisionError; {resume}"
        assert Path(command[-1]).exists() == kept
    failing[:] = [fail]
    with pytest.raises(ZeroDivisionError):
        main(["train", "--resume", "run"])
    assert "no iteration was finished" in capsys.readouterr().err
    main(["train", "--resume", "run"])
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


def test_metrics_that_are_missing_are_told_of() -> None:
    run = trained()
    Path("run/metrics.jsonl").unlink()
    agent, start = run.load_agent()
    run.set_iterations(3, agent, start)
    with pytest.warns(UserWarning, match=r"metrics.jsonl has 0 of 2 iterations: metrics were lost"):
        run.train(agent, start)


def test_a_link_among_the_metrics_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    Path("elsewhere").mkdir()
    shutil.rmtree("run/tensorboard")
    Path("run/tensorboard").symlink_to(Path("elsewhere").resolve())
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", "run", "--iterations", "3"])
    assert "not a symbolic link" in capsys.readouterr().err
    assert not list(Path("elsewhere").iterdir())


def test_an_interruption_removes_nothing_and_can_be_resumed(
    failing: list[Callable[[], None]], capfd: pytest.CaptureFixture[str]
) -> None:
    told = []

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        told.append(capfd.readouterr().err)  # at once

    failing[:] = [interrupt, interrupt]
    with pytest.raises(SystemExit) as stop:
        main([*FAILING, "--out", "my [bold]run"])
    assert stop.value.code == 130
    assert told == ["metarl: stopping after this iteration, or within 3 s; Ctrl-C again stops at once\n"]
    said = re.fullmatch(
        r"metarl: stopped after iteration 0; continue with: metarl train --resume '(.*)'",
        capfd.readouterr().err.strip(),
    )
    assert said is not None
    main(["train", "--resume", said[1]])
    assert len(Path(said[1], "metrics.jsonl").read_text().splitlines()) == 2
    assert "my [bold]run: 0 of 2 iterations are done" in capfd.readouterr().out


def test_of_many_that_begin_a_run_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 8
    agents = [bandits(learning_rate=0.01 * (i + 1)) for i in range(count)]
    for attempt in range(5):
        path, together = Path(f"a{attempt}/run"), threading.Barrier(count)
        won: list[int] = []
        lost: list[str] = []

        def begin(i: int, path: Path, together: threading.Barrier, won: list[int], lost: list[str]) -> None:
            together.wait()
            try:
                Run.create(path, agents[i], 1)
            except metarl.InvalidValueError as error:
                lost.append(error.field)
            else:
                won.append(i)

        threads = [threading.Thread(target=begin, args=(i, path, together, won, lost)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert lost == ["run directory"] * (count - 1)
        assert os.listdir(path) == ["config.json"]
        assert Run.open(path).config["config"]["learning_rate"] == agents[won[0]].config.learning_rate


def test_the_race_for_a_run_is_lost_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner's run appears after the loser has looked, and stays as it is."""
    link = os.link

    def late(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        trained("run")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(metarl.InvalidValueError, match=r"run directory is 'run', expected a new one"):
        Run.create("run", bandits(), 5)
    assert Run.open("run").load_agent()[1] == 2
    assert not list(Path("run").glob(".*"))


def test_who_loses_the_race_leaves_the_winners_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    with ExitStack() as winner:

        def late(source: Any, target: Any) -> None:
            monkeypatch.setattr(os, "link", link)
            winner.enter_context(Run.create("run", bandits(), 5).lock())
            link(source, target)

        monkeypatch.setattr(os, "link", late)
        with pytest.raises(metarl.InvalidValueError, match="another process has just made it"):
            Run.create("run", bandits(), 5)
        assert Path("run", NAME).exists()


def test_a_lock_that_another_one_replaced_is_left() -> None:
    Path("run").mkdir()
    with locked(Path("run")):
        Path("run", NAME).unlink()  # as a run is discarded
        Path("run", NAME).write_text("of another process")
    assert Path("run", NAME).exists()


def test_a_second_signal_at_the_very_end_interrupts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_requests, "STOPPING", b"")
    before = signal.getsignal(signal.SIGINT)
    with runs.StopRequests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        cancel = stop._patience.cancel
        monkeypatch.setattr(stop._patience, "cancel", lambda: (os.kill(os.getpid(), signal.SIGINT), cancel()))
    assert stop.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_while_the_first_is_told_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_requests, "STOPPING", b"")
    before = signal.getsignal(signal.SIGINT)
    stop = runs.StopRequests()
    monkeypatch.setattr(stop._patience, "start", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_checkpoints_replace_only_their_like() -> None:
    run = trained("run", 1)
    for name in ("checkpoint-best-1.safetensors", "checkpoint-1.safetensors.kept"):
        Path("run", name).write_text("a copy of somebody's")
    agent, _ = run.load_agent()
    save_checkpoint(run.path / "checkpoint", agent, 2)
    assert sorted(path.name for path in Path("run").glob("checkpoint*")) == [
        *("checkpoint-1.safetensors.kept", "checkpoint-2.safetensors"),
        *("checkpoint-best-1.safetensors", "checkpoint.json"),
    ]


def test_a_damaged_archive_is_nobodys_results(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("test.npz", mine=np.zeros(2))
    data = bytearray(Path("test.npz").read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 200  # the version that is needed to read a member
    Path("test.npz").write_bytes(data)
    evaluate = ["eval", "random", "--family", "metarl/BernoulliBandit-v0", "--k", "0", "--num-tasks", "1"]
    assert "output path is 'test.npz'" in refused(capsys, *evaluate, "--out", "test.json")
    assert Path("test.npz").read_bytes() == data


def test_results_reports_and_films_replace_only_their_like(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "random", *BANDITS, *EVAL, "--out", "thesis.json"]
    for name in ("thesis.json", "thesis.npz", "thesis-oracle.json"):
        Path(name).write_text("years of work")
        assert f"output path is '{name}', expected a new path" in refused(capsys, *command, "--beside", "oracle")
        Path(name).unlink()
    main(command)
    main(command)
    Path("page").mkdir()
    Path("page/report.html").write_text("<html>my page</html>")
    for command in (["report", "thesis.json", "--out", "page"], ["quickstart", "--out", "page"]):
        assert "output path is 'page/report.html', expected a new path" in refused(capsys, *command)
    main(["report", "thesis.json", "--out", "other"])
    main(["report", "thesis.json", "--out", "other"])
    for kind in ("csv", "md", "tex", "png", "pdf", "svg"):
        mine = min(Path("other/report_files").glob(f"*/*.{kind}"))
        before = mine.read_bytes()
        mine.write_text("my table")
        assert f"output path is '{mine}', expected a new path" in refused(
            capsys, "report", "thesis.json", "--out", "other"
        )
        mine.write_bytes(before)
    main(["report", "thesis.json", "--out", "page2", "--no-files"])
    assert [path.name for path in Path("page2").iterdir()] == ["report.html"]
    film = ["watch", "random", "--family", "metarl/PointNavigation-v0", "--k", "0", "--size", "64", "--out", "film.gif"]
    Path("film.gif").write_bytes(b"GIF89a of my cat")
    assert "output path is 'film.gif', expected a new path" in refused(capsys, *film)
    Path("film.gif").unlink()
    main(film)
    main(film)


# --- opening a run executes nothing ----------------------------------------------------------------------------------

MARKER = "executed"
SPY = f"open({MARKER!r}, 'w')\nclass Thing:\n    def __init__(self, *a, **k): open({MARKER!r}, 'w')\n"
KWARGS = (
    {"policy_kwargs": {"activation_fn": "spy_beside:Thing"}},
    {"policy_kwargs": {"activation_fn": "pydoc:cli"}},
    {"policy_kwargs": {"optimizer_class": "subprocess:Popen", "optimizer_kwargs": {"args": ["touch", MARKER]}}},
    {"policy_kwargs": {"activation_fn": "stable_baselines3.common.logger:HumanOutputFormat"}},
    {"replay_buffer_class": "spy_beside:Thing"},
    {"learning_rate": "spy_beside:Thing"},
)
HOSTILE: dict[str, dict[str, Any]] = {
    **{f"keyword {i}": {"config": {"algorithm_kwargs": kwargs}} for i, kwargs in enumerate(KWARGS)},
    "algorithm": {"config": {"algorithm": "spy_beside:Thing"}},
    "policy": {"config": {"policy": "spy_beside:Thing"}},
    "agent": {"agent": "spy_beside:Thing"},
    "family": {"family": "spy_beside:Thing"},
    "load": {"load": ["spy_beside", "spy_beside.py"], "family": "spy/Family-v0"},
    "environment": {"family": 'metarl/Gymnasium-v0{"env": "spy_beside:Id-v0", "params": {"length": "0:1"}}'},
    "switching": {
        "family": "metarl/Switching-v0" + json.dumps({"family": 'metarl/Gymnasium-v0{"env": "spy_beside:Id-v0"}'})
    },
    "keywords of the environment": {
        "family": 'metarl/Gymnasium-v0{"env": "CartPole-v1", "env_kwargs": {"env_id": "spy_beside:Id-v0"}}'
    },
    "id of a package": {"family": 'metarl/MiniGrid-v0{"env_id": "spy_beside:Id-v0"}'},
    "name of a package's": {"family": 'metarl/MetaWorldML1-v0{"env_name": "spy_beside:Thing"}'},
}


@pytest.mark.parametrize("text", ["spy-beside:Id-v0", "\u00e9spy:Id-v0", "spy_beside: any text"])
def test_no_text_that_gymnasium_would_import_from_reaches_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = text.partition(":")[0]
    Path(f"{module}.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with named.without_imports("run"), pytest.raises(metarl.InvalidValueError, match="an environment in run is"):
        named.check_environment("CartPole-v1", {"inner": [text]})
    with named.without_imports("run"):
        named.check_environment("CartPole-v1", {"title": "Goal: reach the end", "time": "12:30"})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that has names among its hyperparameters."""
    path = tmp_path_factory.mktemp("pretrained") / "run"
    kwargs = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"activation_fn": "torch.nn:ReLU"}}
    agent = metarl.make_agent("sb3_pretrained", BANDITS[1], steps=8, algorithm_kwargs=kwargs)
    Run.create(path, agent, 1).train(agent)
    return path


def with_config(path: Path, **changes: Any) -> None:
    """Change a run's config.json, as its author could."""
    config = json.loads((path / "config.json").read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    rewrite(path / "config.json", config)


def rewrite(file: Path, content: dict[str, Any]) -> None:
    from metarl.files import write_json

    write_json(file, {k: v for k, v in content.items() if k != "sha256"})


@pytest.mark.parametrize("how", HOSTILE)
def test_opening_a_hostile_run_executes_nothing(
    how: str, pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pretrained, "run")
    for place in ("spy_beside.py", "run/spy_beside.py"):
        Path(place).write_text(SPY)
    with_config(Path("run"), **HOSTILE[how])
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.syspath_prepend(str(Path("run").absolute()))
    with pytest.raises(metarl.MetaRLError):
        Run.open("run").load_agent()
    for command in (["eval", "run", *EVAL], ["train", "--resume", "run"], ["watch", "run", "--k", "0"]):
        refused(capsys, *command)
    assert not Path(MARKER).exists()
    assert "spy_beside" not in sys.modules


def test_what_a_run_names_of_pytorch_and_of_loaded_modules_is_found(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Run.open(pretrained).load_agent()[1] == 1
    monkeypatch.setattr(named, "_trusted", set())
    Path("my_nets.py").write_text("from subprocess import Popen\nfrom torch.nn import ReLU\nclass Mine(ReLU): ...\n")
    kwargs = {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"activation_fn": "my_nets:Mine"}}
    try:
        metarl.load_source("my_nets.py")
        agent = metarl.make_agent("sb3_pretrained", BANDITS[1], steps=8, algorithm_kwargs=kwargs)
        Run.create("run", agent, 1)
        Run.open("run").load_agent()
        with_config(Path("run"), config={"algorithm_kwargs": {"policy_kwargs": {"activation_fn": "my_nets:Popen"}}})
        with pytest.raises(metarl.InvalidValueError, match="a name in run is 'my_nets:Popen', expected a class of"):
            Run.open("run").load_agent()
        with_config(Path("run"), config={"algorithm_kwargs": kwargs})
        named._trusted.clear()
        assert "--load my_nets," in refused(capsys, "train", "--resume", "run")
    finally:
        del sys.modules["my_nets"]


def test_a_module_of_an_environment_is_imported_for_who_types_it_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scratch_registry: Any
) -> None:
    pole = "gymnasium.register('MyPole-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=4)"
    Path("my_poles.py").write_text(f"import gymnasium\n{pole}\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    typed = ["--env", "my_poles:MyPole-v0", "--param", "length=0.5:1"]
    try:
        main(["train", "maml", *typed, *TINY, "--out", "run"])
        for table in (sys.modules, gym.registry):
            table.pop("my_poles" if table is sys.modules else "MyPole-v0")
        expected = "an environment in run is 'my_poles:MyPole-v0', expected one that is registered"
        assert expected in refused(capsys, "eval", "run", *EVAL)
        main(["eval", "run", *EVAL, "--load", "my_poles"])
    finally:
        sys.modules.pop("my_poles", None)


def test_a_module_that_a_registered_family_names_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scratch_registry: Any
) -> None:
    register = "gymnasium.register('Lazy-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=4)"
    Path("lazy_poles.py").write_text(f"import gymnasium\n{register}\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    space = {"length": metarl.Uniform(0.5, 1.0)}
    metarl.register_family("mine/Lazy-v0", env="lazy_poles:Lazy-v0", task_space=space, apply="attrs")
    try:
        agent = metarl.make_agent("reptile", "mine/Lazy-v0", hidden=(4,))
        Run.create("run", agent, 1)
        del sys.modules["lazy_poles"], gym.registry["Lazy-v0"]
        Run.open("run").load_agent()
        assert "lazy_poles" in sys.modules
        with_config(Path("run"), family='mine/Lazy-v0{"env": "others:Lazy-v0"}')
        assert "an environment in run is 'others:Lazy-v0'" in refused(capsys, "eval", "run", *EVAL)
    finally:
        sys.modules.pop("lazy_poles", None)


# --- what a run says is not printed raw ------------------------------------------------------------------------------


def test_texts_of_a_run_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;gone\x07[red]\u202e; touch marker\n"
    trained()
    with_config(Path("run"), family=f"mine/{evil}-v0", load=[evil, "x; touch marker", "-rf"])
    said = [refused(capsys, *command) for command in (["eval", "run"], ["train", "--resume", "run"])]
    with_config(Path("run"), agent=evil, family=BANDITS[1], load=[])
    said += [refused(capsys, "eval", "run"), refused(capsys, "train", "--resume", evil), refused(capsys, "list", evil)]
    assert all(sentence.isprintable() for sentence in said)
    assert "--load 'x; touch marker' --load -rf" in said[0]
    Path("run").rename(evil)
    with_config(Path(evil), agent="rl2")
    main(["train", "--resume", evil])
    main(["eval", evil, *EVAL])
    told = capsys.readouterr()
    assert all(line.isprintable() for line in (told.out + told.err).splitlines())
    assert "\\x1b]0;gone\\x07[red]\\u202e; touch marker\\n: 2 of 2 iterations are done" in told.out


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [["checkpoint.json"], ["checkpoint.json", "metrics.jsonl"]])
def test_a_lost_checkpoint_is_not_an_untrained_agent(lost: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    for name in lost:
        (run.path / name).unlink()
    for command in (["eval", "run", *EVAL], ["train", "--resume", "run"], ["watch", "run", "--k", "0"]):
        assert "checkpoint.json is missing, expected there, beside checkpoint-2" in refused(capsys, *command)


def test_a_run_that_has_just_begun_is_resumed_and_not_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    agent = bandits()
    run = Run.create("run", agent, 1)
    save_checkpoint(run.path / "checkpoint", agent, 0)
    (run.path / "checkpoint.json").unlink()  # as a kill before it was written leaves it
    assert "expected a trained run: metarl train --resume run" in refused(capsys, "eval", "run", *EVAL)
    main(["train", "--resume", "run"])
    assert Run.open("run").load_agent()[1] == 1


def test_an_agent_that_is_not_trained_to_the_end_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    agent = bandits()
    run = Run.create("run", agent, 3)
    for done, what in ((0, "its agent is untrained"), (1, "the agent is from the last checkpoint")):
        save_checkpoint(run.path / "checkpoint", agent, done)
        main(["eval", "run", *EVAL])
        assert f"run: {done} of 3 iterations are done, {what}" in capsys.readouterr().out


# --- one training at a time ------------------------------------------------------------------------------------------


def test_a_second_training_is_refused_and_evaluations_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(iterations=1)
    agent, start = run.load_agent()
    with locked(run.path):
        holder = f"process {os.getpid()} on "
        with pytest.raises(metarl.InvalidValueError, match=f"expected a run that no other process trains: {holder}"):
            run.train(agent, start)
        assert holder in refused(capsys, "train", "--resume", "run", "--iterations", "5")
        main(["eval", "run", *EVAL])
    main(["train", "--resume", "run", "--iterations", "2"])
    assert not Path("run", NAME).exists()
    with pytest.raises(metarl.InvalidValueError, match="start is 1, expected 2, the number of iterations in the last"):
        run.train(agent, start)  # somebody else trained it meanwhile
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


def test_a_killed_training_holds_no_lock_nor_do_its_workers() -> None:
    Path("run").mkdir()
    child = os.fork()
    if child == 0:
        with locked(Path("run")):
            if os.fork() == 0:  # a worker
                Path("worker").write_text(str(os.getpid()))
                time.sleep(60)
            time.sleep(60)
        os._exit(0)
    while not (Path("worker").exists() and Path("worker").read_text()):
        time.sleep(0.01)
    with pytest.raises(metarl.InvalidValueError, match=f"process {child} on "), locked(Path("run")):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(Path("run")):
        os.kill(int(Path("worker").read_text()), signal.SIGKILL)


def test_a_checkpoint_is_read_again_while_training_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run, agent = trained(), bandits()
    read, times = checkpoints.read_bytes, 0

    def meanwhile(path: Path, largest: int) -> bytes:
        nonlocal times
        if path.suffix == ".safetensors" and times < 5:  # between the head that names it and the tensors
            times += 1
            save_checkpoint(run.path / "checkpoint", agent, 2 - times % 2)
        return read(path, largest)

    monkeypatch.setattr(checkpoints, "read_bytes", meanwhile)
    assert Run.open("run").load_agent()[1] in (1, 2)
    assert times == 5


def test_results_are_never_read_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [metarl.evaluate(bandits(), k=0, num_tasks=n, episodes=1) for n in (1, 2, 3)]
    found[0].save("results.json")
    write, threads, loaded = results.write_json, list[threading.Thread](), list[int]()

    def load() -> None:
        loaded.append(metarl.Results.load("results.json").meta["tasks"])

    def meanwhile(path: Path, head: Any) -> None:  # the arrays are new, and what describes them is not yet
        monkeypatch.setattr(results, "write_json", write)
        threads.extend(threading.Thread(target=call) for call in (load, lambda: found[2].save("results.json"), load))
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        write(path, head)

    monkeypatch.setattr(results, "write_json", meanwhile)
    found[1].save("results.json")
    for thread in threads:
        thread.join()
    assert len(loaded) == 2
    assert set(loaded) <= {2, 3}
    assert metarl.Results.load("results.json").meta["tasks"] == 3


# --- odd input -------------------------------------------------------------------------------------------------------


def test_what_a_loaded_file_raises_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.py").write_text("def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(ZeroDivisionError) as raised:
        main(["list", "--load", "bad.py"])
    assert raised.traceback[-1].path == Path("bad.py").absolute()
    assert capsys.readouterr().err == "metarl: bad.py raised ZeroDivisionError while it was loaded:\n"
    assert "bad" not in sys.modules


@pytest.mark.parametrize("name", ["reset", "step", "action_space", "np_random", "np_random_seed", "__dict__"])
def test_a_task_replaces_numbers_and_no_methods(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"task_space is '{name}', expected an attribute " in refused(
        capsys, "train", "maml", "--env", "CartPole-v1", "--param", f"{name}=0:1", *TINY
    )


def test_output_that_nobody_reads_ends_a_command_quietly() -> None:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.dup2(theirs, 1)
        os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr, code = open(1, "w"), open(2, "w"), 3  # noqa: SIM115
        try:
            main(["--help"])
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(ours)
    os.close(theirs)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert Path("err").read_text() == ""


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_log.Metrics, "write", metrics_log.writing(Path("run"))(full))
    with pytest.raises(SystemExit):
        main(["train", "rl2", *BANDITS, "--hidden", "4", "--meta-batch-size", "8", "--out", "run"])
    assert "output path is 'run', expected a place that can be written (No space left" in capsys.readouterr().err
    assert tree() == {}


def test_a_sample_of_odd_commands() -> None:
    lines = list(fuzz_commands.commands())
    counts = fuzz_commands.fuzz(lines[2::37])  # "--version" first
    assert (counts["traceback"], counts["hang"], counts["lost"]) == (0, 0, 0)
    assert counts["refused"] > counts["fine"] > 0


def test_a_sample_of_kills(tmp_path: Path, scratch_registry: Any) -> None:
    counts = kill_runs.kill(6, seed=1, folder=tmp_path)
    assert (counts["unequal"], counts["error"], counts["left"]) == (0, 0, 0)
    assert counts["killed"] >= 6
