"""What each command does with its options."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent, Device, make_agent
from metarl.cli.options import (
    CheckAgentOptions,
    CheckFamilyOptions,
    EvalOptions,
    ReportOptions,
    ResumeOptions,
    TrainOptions,
    WatchOptions,
)
from metarl.cli.outputs import check_film, check_report, check_results
from metarl.cli.progress import bar, console, say
from metarl.config import check_config
from metarl.contract.agent_contract import check_agent, check_briefly, is_built_in
from metarl.contract.family_contract import check_family
from metarl.contract.notes import warn_unused_parameters
from metarl.errors import (
    InvalidValueError,
    did_you_mean,
    verbatim,
)
from metarl.evaluation.evaluate import default_tasks, evaluate
from metarl.evaluation.results import Results
from metarl.families.family import Family
from metarl.families.legacy import parse_parameters
from metarl.families.opengl import quiet_windows
from metarl.families.registry import agent_class, agents, make_family
from metarl.families.tasks import Tasks
from metarl.report.films import watch
from metarl.report.page import table_text, write_report
from metarl.runs.run import Run
from metarl.runs.train import Interrupted


def run_train(name: str, options: Any) -> None:
    """`metarl train AGENT --family ID`."""
    family = _family_of(options)
    notes = warn_unused_parameters(family)
    agent = make_agent(name, family, seed=options.seed, device=options.device, config=options.config)
    if not agent.learns:
        raise InvalidValueError("agent", name, f"one that learns; {name} can be evaluated as it is: metarl eval {name}")
    if not is_built_in(type(agent)):
        say(f"checking the contract of {name} (metarl check-agent {name} looks longer)")
        refuse("agent", name, check_briefly(agent))
    out = options.out or Path("runs") / f"{name}-{_label(options.env or family.id)}-seed{options.seed}"
    run = Run.create(out, agent, options.iterations, options.checkpoint_every, load=loaded)
    run.keep_notes(notes)
    _train_first(run, agent)


def _train_first(run: Run, agent: Agent) -> None:
    """Train a run that was just made; if nothing is learned, it is removed: the command may be given again."""
    try:
        with run.lock():
            try:
                train_run(run, agent, 0)
            except Interrupted:
                raise
            except Exception:
                if not run.has_metrics:
                    run.discard()
                raise
    except KeyboardInterrupt:
        raise Interrupted(run.path, 0) from None


def _family_of(options: TrainOptions) -> Family:
    """What `--family`, or `--env` with `--param`, says."""
    if (options.family is None) == (options.env is None):
        given = verbatim("missing" if options.family is None else "given beside --env")
        raise InvalidValueError("--family", given, "either --family ID, or --env ID with --param NAME=LOW:HIGH")
    if options.family is not None:
        defaults = TrainOptions()
        for name in ("param", "apply", "horizon"):
            if getattr(options, name) != getattr(defaults, name):
                expected = "--env ID beside it; a family has its own task space"
                raise InvalidValueError(f"--{name}", getattr(options, name), expected)
        return make_family(options.family)
    if not options.param:
        raise InvalidValueError(
            "--param", verbatim("missing"), f"NAME=LOW:HIGH, a range of an attribute of {options.env}"
        )
    keywords: dict[str, Any] = {"env": options.env, "params": parse_parameters(options.param)}
    if options.apply != "attrs":
        keywords["apply"] = options.apply
    if options.horizon is not None:
        keywords["horizon"] = options.horizon
    return make_family("metarl/Gymnasium-v0", **keywords)


def run_resume(options: ResumeOptions) -> None:
    """`metarl train --resume RUN`."""
    run = Run.open(options.resume)
    with run.lock():
        agent, start = run.load_agent(options.device)
        if options.iterations is not None:
            run.set_iterations(options.iterations, agent, start)
        total = run.config["iterations"]
        longer = "; --iterations N beside it trains for longer" if start == total else ""
        say(f"{options.resume}: {start} of {total} iterations are done{longer}")
        train_run(run, agent, start)


def train_run(run: Run, agent: Agent, start: int) -> None:
    """Train from iteration `start` on, with a bar."""
    steps, total = agent.train_env_steps, run.config["iterations"]
    if start < total:
        say(f"training {agent.name} on {agent.family.id}")
    if steps and start < total:
        most = "up to " if agent.family.terminates and agent.family.horizon > 1 else ""
        say(f"{total - start:,} iterations of {most}{steps:,} env steps")
    with bar(agent.name, total, start, "iterations", steps) as advance:
        run.train(agent, start, lambda done, total, metrics: advance(done, _headline(metrics)))
    say(f"trained: {run.path}")


def run_eval(options: EvalOptions) -> None:
    """`metarl eval RUN...`."""
    learned, family, where, trained = _load(options.runs, options.family, options.device, _config(options), options.k)
    k: Any = options.k[0] if len(options.k) == 1 else options.k
    splits = options.split or ("test",)
    if options.out and len(splits) > 1:
        raise InvalidValueError("--out", str(options.out), "nothing where there are several splits: a file each")
    if len(set(splits)) < len(splits):
        raise InvalidValueError("--split", list(splits), "names that are all different")
    chosen = options.num_tasks
    counts = {split: default_tasks(family, split) if chosen is None else chosen for split in splits}
    sets = {split: family.tasks(split, count, options.task_seed) for split, count in counts.items()}
    settings = {"k": k, "trials": options.trials, "episodes": options.episodes, "seed": options.seed}
    settings["floor_episodes"] = options.floor_episodes
    groups = [learned, *others(learned, options.beside, options.k, options.device)]
    _set_budget(groups, options.eval_steps)
    names = [group[0].name for group in groups]
    outputs = {split: _outputs(options.out or where / "results" / f"{split}.json", names) for split in splits}
    for path in (path for paths in outputs.values() for path in paths.values()):
        check_results(path)
    results: list[Results] = []
    for split, tasks in sets.items():
        for result in evaluate_each(groups, tasks, settings | {"allow_train_tasks": split == "train"}):
            if result.agent == learned[0].name:
                result.meta["iterations"] = trained
            if options.eval_steps is not None and "eval_steps" in result.meta["config"]:
                result.meta["overrides"] = {"eval_steps": options.eval_steps}
            say(f"wrote {result.save(outputs[split][result.agent])}")
            results.append(result)
    say_table(results)


def _outputs(first: Path, names: Sequence[str]) -> dict[str, Path]:
    """A results file for each of some agents, the first agent's under the name that was asked for."""
    stem = first.name.removesuffix(".json")
    return {name: first if name == names[0] else first.with_name(f"{stem}-{name}.json") for name in names}


def run_report(options: ReportOptions) -> None:
    """`metarl report RUN...`."""
    files: list[Path] = []
    for source in options.sources:
        found = sorted((source / "results").glob("*.json")) if source.is_dir() else [source]
        if not found:
            raise InvalidValueError("run", str(source), "a run with results (metarl eval makes them)")
        files += found
    if not files:
        raise InvalidValueError("sources", "nothing", "run directories or results files")
    check_report(options.out)
    say(f"wrote {write_report([Results.load(f) for f in files], options.out, title=options.title)}")


def run_watch(options: WatchOptions) -> None:
    """`metarl watch RUN`."""
    quiet_windows()
    loaded, _, where, _ = _load((options.run,), options.family, options.device, _config(options), options.k)
    out = options.out or where / "results" / f"{options.split}-task{options.task}.gif"
    settings: Any = {"mode": options.mode, "split": options.split, "task_seed": options.task_seed, "seed": options.seed}
    k: Any = options.k[0] if len(options.k) == 1 else options.k
    check_film(out)
    returns = watch(loaded[0], options.task, k, out, **settings, size=options.size, fps=options.fps)
    for steps, value in returns.items():
        say(f"k = {steps}: return {value:.2f}")
    say(f"wrote {out}")


def run_check_family(options: CheckFamilyOptions) -> None:
    """`metarl check-family ID`."""
    problems = check_family(options.id, seed=options.seed, device=options.device)
    refuse("family", options.id, problems)
    say(f"{options.id}: clean")


def run_check_agent(options: CheckAgentOptions) -> None:
    """`metarl check-agent NAME`."""
    settings: Any = {"seed": options.seed, "device": options.device, "config": _config(options)}
    refuse("agent", options.name, check_agent(options.name, options.family, **settings))
    say(f"{options.name}: clean")


def refuse(what: str, name: str, problems: Sequence[str]) -> None:
    """Print what is wrong with a family or an agent, and raise, if there is anything."""
    for problem in problems:
        say(f"- {problem}")
    if problems:
        raise InvalidValueError(what, name, f"no violation of the contract ({len(problems)} found, listed above)")


loaded: list[str] = []  # what --load named


def _config(options: Any) -> Any:
    """The hyperparameters of an untrained agent, where the options have them."""
    return getattr(options, "agent", None)


def _load(
    runs: Sequence[str], family: str | None, device: Device, config: Any, k: Sequence[int]
) -> tuple[list[Agent], Family, Path, list[int]]:
    """The agents of some runs (or an untrained one by name, with its `config`).

    Returns:
        the agents, their family, where results go, and how many meta-updates each has behind it.
    """
    if not runs:
        raise InvalidValueError("runs", "nothing", "one or more run directories")
    if len(runs) == 1 and runs[0] in agents and not Path(runs[0]).exists():
        if family is None:
            raise InvalidValueError("--family", verbatim("missing"), f"an id, because {runs[0]} is no run: --family ID")
        agent = make_agent(runs[0], family, device=device, config=_for_trials(runs[0], config, max(k, default=0)))
        if agent.learns:
            raise InvalidValueError("runs", runs[0], f"run directories: {runs[0]} must be trained first")
        return [agent], agent.family, Path("runs") / f"{runs[0]}-{_label(family)}{_digits(agent)}", [0]
    opened = [_open_run(path) for path in runs]
    for name in ("agent", "family", "iterations"):
        _one_and_the_same(name, [run.config[name] for run in opened])
    seeds = [run.config["seed"] for run in opened]
    if len(set(seeds)) < len(seeds):
        raise InvalidValueError("seeds of the runs", seeds, "all different")
    both = [_load_trained(run, device) for run in opened]
    loaded = [agent for agent, _ in both]
    _one_and_the_same("config", [asdict(agent.config) for agent in loaded])  # older runs have fewer hyperparameters
    if family not in (None, loaded[0].family.id):
        raise InvalidValueError("family", family, f"{loaded[0].family.id!r}, which the runs were trained on")
    return loaded, loaded[0].family, Path(runs[0]), [done for _, done in both]


def _load_trained(run: Run, device: Device) -> tuple[Agent, int]:
    """A run's agent, and how many meta-updates it has behind it; said where those are not all."""
    agent, done = run.load_agent(device)
    if not run.has_checkpoint:
        resume = f"one that was trained: metarl train --resume {quoted(run.path)}"
        raise InvalidValueError("run", str(run.path), resume)
    if done < run.config["iterations"]:
        what = "its agent is untrained" if done == 0 else "the agent is that of its last checkpoint"
        say(f"{run.path}: {done} of {run.config['iterations']} iterations are done, {what}")
    return agent, done


def quoted(path: str | Path) -> str:
    """A path as part of a command to copy."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _one_and_the_same(name: str, values: Sequence[Any]) -> None:
    """Refuse runs that differ in more than the seed."""
    different = {json.dumps(value, sort_keys=True) for value in values}
    if len(different) > 1:
        raise InvalidValueError(f"{name} of the runs", sorted(different), "one and the same (runs of several seeds)")


def _digits(agent: Agent) -> str:
    """Six hexadecimal digits of what a directory's name leaves out: an agent's settings, a family's keywords."""
    changed = {k: v for k, v in asdict(agent.config).items() if v != getattr(type(agent.config)(), k)}
    keywords = agent.family.id.partition("{")[2]
    told = json.dumps([changed, keywords], sort_keys=True, default=str).encode()
    return f"-{hashlib.blake2b(told, digest_size=3).hexdigest()}" if changed or keywords else ""


def _label(id: str) -> str:
    """A family's or environment's id as part of a directory's name."""
    return id.partition("{")[0].split("/")[-1].replace(":", "-")


def _open_run(path: str) -> Run:
    if path in agents and not Path(path).exists():
        raise InvalidValueError("runs", path, "one untrained agent alone, or run directories; --beside takes others")
    if not Path(path).exists() and "/" not in path:
        near = did_you_mean(path, agents)
        raise InvalidValueError("run", path, f"a run directory, or the name of an agent that needs no training: {near}")
    return Run.open(path)


def others(learned: list[Agent], beside: Sequence[str], k: Sequence[int], device: Device) -> list[list[Agent]]:
    """Agents that need no training, to stand beside some seeds' agents: they adapt on as many environment steps."""
    names = [learned[0].name, *beside]
    if len(set(names)) < len(names):
        raise InvalidValueError("--beside", list(beside), f"names that are all different, and not {names[0]!r}")
    family = learned[0].family
    others = [make_agent(n, family, device=device, config=_for_trials(n, None, max(k, default=0))) for n in beside]
    for agent in others:
        if agent.learns:
            raise InvalidValueError("--beside", agent.name, "an agent that needs no training")
        _eat(agent, getattr(learned[0].config, "eval_steps", None))
    return [[agent] for agent in others]


def _set_budget(groups: list[list[Agent]], steps: int | None) -> None:
    """Give agents that have one another budget for an adaptation step; refused where none has."""
    if not any([_eat(agent, steps) for group in groups for agent in group]) and steps is not None:
        names = ", ".join(group[0].name for group in groups)
        raise InvalidValueError("--eval-steps", steps, f"nothing: {names} has no hyperparameter eval_steps")


def _eat(agent: Agent, steps: int | None) -> bool:
    """Let an agent's adaptation steps eat so many environment steps at most, where it has such a hyperparameter."""
    if steps is None or not hasattr(agent.config, "eval_steps"):
        return False
    agent.config = replace(agent.config, eval_steps=steps)
    check_config(agent.name, agent.config)
    return True


def evaluate_each(groups: list[list[Agent]], tasks: Tasks, settings: Mapping[str, Any]) -> Iterator[Results]:
    """Evaluate some seeds' agents, and others, on the same tasks; each one's results as soon as they are there."""
    for group in groups:
        with bar(f"evaluate {group[0].name}", None, 0, "adaptation steps") as advance:
            result = evaluate(group, tasks, **settings, progress=lambda done, total: advance(done, total=total))
        result.meta["command"] = shlex.join(["metarl", *sys.argv[1:]])
        yield result


def _for_trials(name: str, config: Any, episodes: int) -> Any:
    """The hyperparameters of an untrained agent, told how long a trial is if it must know and was not told."""
    default = agent_class(name).Config()
    config = default if config is None else config
    if getattr(config, "trial_episodes", None) == getattr(default, "trial_episodes", None) is not None:
        config = replace(config, trial_episodes=max(1, episodes))
    return config


def say_table(results: Sequence[Results]) -> None:
    """Print the table, in a terminal no wider than that."""
    say(*table_text(results, console.width if console.is_terminal else None).split("\n"))


def fresh(path: Path) -> Path:
    """A directory name that is not taken: PATH, PATH-2, PATH-3, ..."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _headline(metrics: Mapping[str, float]) -> list[str]:
    """The returns among some metrics, the last two of them."""
    return [f"{k} {v:.2f}" for k, v in metrics.items() if "return" in k][-2:]
