"""The commands: one function for each, with its options as the argument."""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from metarl.agent_base import Agent, make_agent
from metarl.cli.options import (
    CheckAgentOptions,
    CheckFamilyOptions,
    EvalOptions,
    ReportOptions,
    WatchOptions,
)
from metarl.cli.outputs import check_film, check_report, check_results
from metarl.cli.progress import bar, console, say
from metarl.config import check_config
from metarl.contract.agent_contract import check_agent
from metarl.contract.family_contract import check_family
from metarl.devices import Device
from metarl.errors import (
    InvalidValueError,
    did_you_mean,
    verbatim,
)
from metarl.evaluation.averaging import average
from metarl.evaluation.evaluate import adaptation_grid, default_tasks, evaluate
from metarl.evaluation.results import Results
from metarl.families.opengl import quiet_windows
from metarl.families.registry import agent_class, agents
from metarl.families.tasks import Tasks
from metarl.report.films import watch
from metarl.report.page import table_text, write_report
from metarl.runs.directory import SEED_NAME, seed_runs
from metarl.runs.load import curves_of_runs
from metarl.runs.run import Checkpoint, Run

_PROTOCOL = ("tasks", "task_seed", "trials", "episodes", "seed")  # of an evaluation, beside k


def run_eval(options: EvalOptions) -> None:
    """`metarl eval RUN...`."""
    config = _config(options)
    found = _load(options.runs, options.family, options.device, config, options.k, options.checkpoint)
    learned = [average(found.agents)] if options.average else found.agents
    family = learned[0].family
    meta = found.meta
    if options.average:  # one agent, without learning curves
        meta = {"averaged": [agent.seed for agent in found.agents], "iterations": found.meta["iterations"][:1]}
    k: int | tuple[int, ...] = options.k[0] if len(options.k) == 1 else options.k
    splits = options.split or ("test",)
    if options.out and len(splits) > 1:
        raise InvalidValueError("--out", str(options.out), "no path for several splits, because each split has a file")
    if len(set(splits)) < len(splits):
        raise InvalidValueError("--split", list(splits), "different names")
    chosen = options.num_tasks
    counts = {split: default_tasks(family, split) if chosen is None else chosen for split in splits}
    sets = {split: family.tasks(split, count, options.task_seed) for split, count in counts.items()}
    settings: dict[str, Any] = {"k": k, "trials": options.trials, "episodes": options.episodes, "seed": options.seed}
    settings["floor_episodes"] = options.floor_episodes
    groups = [learned, *baselines(learned, options.beside, options.k, options.device)]
    _set_budget(groups, options.eval_steps)
    names = [group[0].name for group in groups]
    best = "" if options.checkpoint == "last" else f"-{options.checkpoint}"
    best += "-average" if options.average else ""
    place = found.directory / "results"
    outputs = {split: _outputs(options.out or place / f"{split}{best}.json", names) for split in splits}
    for path in (path for paths in outputs.values() for path in paths.values()):
        check_results(path)
    results: list[Results] = []
    for split, tasks in sets.items():
        for result in evaluate_each(groups, tasks, settings | {"allow_train_tasks": split == "train"}):
            if result.agent == learned[0].name:
                result.meta |= meta
            if options.eval_steps is not None and "eval_steps" in result.meta["config"]:
                result.meta["overrides"] = {"eval_steps": options.eval_steps}
            path = outputs[split][result.agent]
            replaced = _other_protocol(path, result)
            say(f"wrote {result.save(path)}{replaced}")
            results.append(result)
    say_table(results)
    say(*_beyond_training(learned[0], adaptation_grid(k)))


def _other_protocol(path: Path, new: Results) -> str:
    """What is said of results that are replaced by those of another protocol; empty if there are none."""
    try:
        old = Results.load(path)
    except (InvalidValueError, OSError):  # there are none, or they cannot be read
        return ""
    both = [{"k": r.k, **{name: r.meta.get(name) for name in _PROTOCOL}} for r in (old, new)]
    changed = [f"{name} {both[0][name]}" for name in both[0] if both[0][name] != both[1][name]]
    return f" (in place of results with {', '.join(changed)})" if changed else ""


def _beyond_training(agent: Agent, grid: Sequence[int]) -> list[str]:
    """A sentence if trials are played on for longer than an agent that lives through them was trained."""
    episodes = getattr(agent.config, "trial_episodes", 0)
    if not (agent.learns and agent.is_recurrent and 0 < episodes <= grid[-1]):
        return []
    return [f"{agent.name} was trained in trials of {episodes} episodes: from R_{episodes} on, trials are longer"]


def _outputs(first: Path, names: Sequence[str]) -> dict[str, Path]:
    """Path of a results file for each agent; `first` is the path of the first agent."""
    stem = first.name.removesuffix(".json")
    return {name: first if name == names[0] else first.with_name(f"{stem}-{name}.json") for name in names}


def run_report(options: ReportOptions) -> None:
    """`metarl report RUN...`."""
    files = [file for source in options.sources for file in _results_files(source)]
    if not files:
        raise InvalidValueError("sources", "nothing", "run directories or results files")
    check_report(options.out)
    results = [Results.load(file) for file in files]
    missing = [row for source in options.sources for row in _without_results(source)]
    notes = [f"Begun, but not on this page, because not evaluated: {', '.join(missing)}."] if missing else []
    say(*notes)
    say(f"wrote {write_report(results, options.out, title=options.title, files=options.files, notes=notes)}")


def _results_files(source: Path) -> list[Path]:
    """The results files of a run, of all runs in a folder, or of all paths that match a pattern, in natural order."""
    if not source.exists() and any(character in str(source) for character in "*?["):
        matches = sorted(map(Path, glob.glob(str(source))), key=_natural)
        files = [file for path in matches for file in ([path] if path.suffix == ".json" else _results_in(path))]
    else:
        files = _results_in(source) if source.is_dir() else [source]
    if not files:
        raise InvalidValueError("run", str(source), "a run with results (metarl eval makes them)")
    return files


def _results_in(folder: Path) -> list[Path]:
    own = sorted((folder / "results").glob("*.json"))
    if own or (folder / "config.json").exists():
        return own
    rows = sorted(folder.glob("**/results.json"), key=_natural)  # of benchmarks
    runs = sorted(folder.glob("*/results/*.json"), key=_natural)  # of runs beside them
    return rows + [path for path in runs if path not in rows]


def _without_results(folder: Path) -> list[str]:
    """Rows of a benchmark's folder whose trainings are there, and whose results are not."""
    done = {path.parent for path in folder.glob("**/results.json")}
    trained = {path.parent.parent for path in folder.glob("**/seed*/config.json")} if done else set()
    evaluated = {path for path in trained if any(path.glob("results/*.json"))}  # together, by metarl train --seeds
    return [str(row) for row in sorted(trained - done - evaluated, key=_natural)]


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """A key for sorting in which seed2 comes before seed10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", str(path))]


def run_watch(options: WatchOptions) -> None:
    """`metarl watch RUN`."""
    quiet_windows()
    found = _load((options.run,), options.family, options.device, _config(options), options.k)
    if len(found.agents) > 1:
        raise InvalidValueError("run", options.run, f"one run, for example {options.run}/seed{found.agents[0].seed}")
    out = options.out or found.directory / "results" / f"{options.split}-task{options.task}.gif"
    settings: Any = {"mode": options.mode, "split": options.split, "task_seed": options.task_seed, "seed": options.seed}
    k: int | tuple[int, ...] = options.k[0] if len(options.k) == 1 else options.k
    check_film(out)
    returns = watch(found.agents[0], options.task, k, out, **settings, size=options.size, fps=options.fps)
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
    """Print the problems of a family or an agent, and raise if there are any."""
    for problem in problems:
        say(f"- {problem}")
    if problems:
        raise InvalidValueError(what, name, f"no violation of the contract ({len(problems)} found, listed above)")


loaded: list[str] = []  # the arguments of --load


def _config(options: object) -> Any:
    """Hyperparameters of an untrained agent; None if the options have none."""
    return getattr(options, "agent", None)


class _Loaded(NamedTuple):
    """Agents to evaluate together, the directory for their results, and meta data of the results."""

    agents: list[Agent]
    directory: Path
    meta: dict[str, Any]


def _load(
    runs: Sequence[str],
    family: str | None,
    device: Device,
    config: Any,
    k: Sequence[int],
    checkpoint: Checkpoint = "last",
) -> _Loaded:
    """Load the agents of runs, or make an untrained agent by name, with its `config`."""
    if not runs:
        raise InvalidValueError("runs", "nothing", "one or more run directories")
    if len(runs) == 1 and runs[0] in agents and not Path(runs[0]).exists():
        if family is None:
            raise InvalidValueError("--family", verbatim("missing"), f"--family ID, because {runs[0]} is not a run")
        agent = make_agent(runs[0], family, device=device, config=_for_trials(runs[0], config, max(k, default=0)))
        if agent.learns:
            raise InvalidValueError("runs", runs[0], f"run directories, because {runs[0]} must be trained first")
        if checkpoint != "last":
            raise InvalidValueError("--checkpoint", checkpoint, f"'last', because {runs[0]} is not a run")
        place = Path("runs") / f"{runs[0]}-{label(family)}{_digits(agent)}"
        return _Loaded([agent], place, {"iterations": [0]})
    directory, paths = _places(runs)
    opened = [_open_run(path) for path in paths]
    for name in ("agent", "family", "iterations"):
        _check_equal(name, [run.config[name] for run in opened])
    seeds = [run.config["seed"] for run in opened]
    if len(set(seeds)) < len(seeds):
        raise InvalidValueError("seeds of the runs", seeds, "different seeds")
    pairs = [_load_trained(run, device, checkpoint) for run in opened]
    loaded = [agent for agent, _ in pairs]
    _check_equal("config", [asdict(agent.config) for agent in loaded])  # older runs have fewer hyperparameters
    if family not in (None, loaded[0].family.id):
        raise InvalidValueError("family", family, f"{loaded[0].family.id!r}, which the runs were trained on")
    meta = {"iterations": [done for _, done in pairs], "checkpoint": checkpoint}
    return _Loaded(loaded, directory, meta | curves_of_runs(run.path for run in opened))


def _places(runs: Sequence[str]) -> tuple[Path, list[str]]:
    """The directory for results, and the run directories; a folder of several seeds stands for its runs.

    Runs that are seeds of one folder have their results in this folder, other runs in the first one.
    """
    if len(runs) == 1:
        return Path(runs[0]), [str(path) for path in seed_runs(Path(runs[0]))] or list(runs)
    folders = {Path(run).parent for run in runs if SEED_NAME.fullmatch(Path(run).name)}
    together = len(folders) == 1 and all(Path(run).parent in folders for run in runs)
    return folders.pop() if together else Path(runs[0]), list(runs)


def _load_trained(run: Run, device: Device, checkpoint: Checkpoint) -> tuple[Agent, int]:
    """Load a run's agent and its number of meta-updates; prints a note if the run is not complete."""
    agent, done = run.load_agent(device, checkpoint)
    if not run.has_checkpoint:
        expected = f"a trained run: metarl train --resume {quoted(run.path)}"
        raise InvalidValueError("run", str(run.path), expected)
    if checkpoint == "best":
        say(f"{run.path}: the best checkpoint is from iteration {done} of {run.config['iterations']}")
    elif done < run.config["iterations"]:
        what = "its agent is untrained" if done == 0 else "the agent is from the last checkpoint"
        say(f"{run.path}: {done} of {run.config['iterations']} iterations are done, {what}")
    return agent, done


def quoted(path: str | Path) -> str:
    """Quote a path for the shell."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _check_equal(name: str, values: Sequence[Any]) -> None:
    """Check that a value is equal in all runs, which may differ only in the seed."""
    different = {json.dumps(value, sort_keys=True) for value in values}
    if len(different) > 1:
        raise InvalidValueError(f"{name} of the runs", sorted(different), "one value; only seeds may differ")


def _digits(agent: Agent) -> str:
    """Hash of an agent's changed settings and its family's keywords, six hexadecimal digits for a directory's name."""
    changed = {k: v for k, v in asdict(agent.config).items() if v != getattr(type(agent.config)(), k)}
    keywords = agent.family.id.partition("{")[2]
    text = json.dumps([changed, keywords], sort_keys=True, default=str).encode()
    return f"-{hashlib.blake2b(text, digest_size=3).hexdigest()}" if changed or keywords else ""


def label(id: str) -> str:
    """Shorten the id of a family or environment for a directory's name."""
    return id.partition("{")[0].split("/")[-1].replace(":", "-")


def _open_run(path: str) -> Run:
    if path in agents and not Path(path).exists():
        raise InvalidValueError("runs", path, "run directories, or one untrained agent; --beside takes more agents")
    if not Path(path).exists() and "/" not in path:
        near = did_you_mean(path, agents)
        raise InvalidValueError("run", path, f"a run directory, or the name of an agent that needs no training: {near}")
    return Run.open(path)


def baselines(learned: list[Agent], beside: Sequence[str], k: Sequence[int], device: Device) -> list[list[Agent]]:
    """Make the agents of `--beside`, which need no training; they adapt on as many environment steps as `learned`."""
    names = [learned[0].name, *beside]
    if len(set(names)) < len(names):
        raise InvalidValueError("--beside", list(beside), f"different names, without {names[0]!r}")
    family = learned[0].family
    episodes = max(k, default=0)
    made = [make_agent(n, family, device=device, config=_for_trials(n, None, episodes)) for n in beside]
    for agent in made:
        if agent.learns:
            raise InvalidValueError("--beside", agent.name, "an agent that needs no training")
        _set_eval_steps(agent, getattr(learned[0].config, "eval_steps", None))
    return [[agent] for agent in made]


def _set_budget(groups: list[list[Agent]], steps: int | None) -> None:
    """Set the hyperparameter `eval_steps` of the agents that have it; an error if none has it."""
    if not any([_set_eval_steps(agent, steps) for group in groups for agent in group]) and steps is not None:
        names = ", ".join(group[0].name for group in groups)
        raise InvalidValueError("--eval-steps", steps, f"no value, because {names} has no hyperparameter eval_steps")


def _set_eval_steps(agent: Agent, steps: int | None) -> bool:
    """Set the most environment steps of an adaptation step; returns whether the agent has the hyperparameter."""
    if steps is None or not hasattr(agent.config, "eval_steps"):
        return False
    agent.config = replace(agent.config, eval_steps=steps)
    check_config(agent.name, agent.config)
    return True


def evaluate_each(groups: list[list[Agent]], tasks: Tasks, settings: Mapping[str, Any]) -> Iterator[Results]:
    """Evaluate groups of agents on the same tasks; yields the results of each group when they are ready."""
    for group in groups:
        with bar(f"evaluate {group[0].name}", None, 0, "adaptation steps") as advance:
            result = evaluate(group, tasks, **settings, progress=lambda done, total: advance(done, total=total))
        result.meta["command"] = shlex.join(["metarl", *sys.argv[1:]])
        yield result


def _for_trials(name: str, config: Any, episodes: int) -> Any:
    """Hyperparameters of an untrained agent. `trial_episodes` is set to `episodes` unless the user changed it."""
    default = agent_class(name).Config()
    config = default if config is None else config
    if getattr(config, "trial_episodes", None) == getattr(default, "trial_episodes", None) is not None:
        config = replace(config, trial_episodes=max(1, episodes))
    return config


def say_table(results: Sequence[Results]) -> None:
    """Print the table, at most as wide as the terminal."""
    say(*table_text(results, console.width if console.is_terminal else None).split("\n"))


def fresh(path: Path) -> Path:
    """First path that does not exist: PATH, PATH-2, PATH-3, ..."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
