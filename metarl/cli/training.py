"""`metarl train`: a run, or the runs of several seeds, from the beginning or from where they stand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from metarl.agent_base import Agent, make_agent
from metarl.benchmark.suite import load_suite, rows
from metarl.cli.commands import label, loaded, quoted, refuse
from metarl.cli.options import ResumeOptions, TrainOptions
from metarl.cli.progress import bar, say
from metarl.contract.agent_contract import check_briefly
from metarl.contract.family_probe import is_built_in
from metarl.contract.notes import warn_unused_parameters
from metarl.devices import Device
from metarl.errors import InvalidValueError, did_you_mean, verbatim
from metarl.families.family import Family
from metarl.families.legacy import GYMNASIUM, parse_parameters
from metarl.families.registry import agent_class, make_family
from metarl.runs.directory import seed_runs
from metarl.runs.load import begin_with
from metarl.runs.run import Run
from metarl.runs.train import Interrupted


def defaults_like(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Defaults of the options of `metarl train`: those of the row that `--like` names, or only the agent's `config`.

    Raises:
        InvalidValueError: there is no such row, it is another agent's, or it is not trained from new parameters.
    """
    config = agent_class(name).Config
    given = [b for a, b in pairwise(arguments) if a == "--like"]
    given += [a.removeprefix("--like=") for a in arguments if a.startswith("--like=")]
    if not given:
        return {"config": config()}
    if given[-1].count("/") < 2:
        raise InvalidValueError("--like", given[-1], "SUITE/STUDY/ENTRY")
    source, study, name_of_entry = given[-1].rsplit("/", 2)
    suite = load_suite(source)
    if (study, name_of_entry) not in rows(suite):
        near = did_you_mean(f"{study}/{name_of_entry}", [f"{s}/{e}" for s, e in rows(suite)])
        raise InvalidValueError("--like", given[-1], f"{source}/STUDY/ENTRY; {near}")
    played, entry = suite.studies[study], suite.studies[study].entries[name_of_entry]
    if entry.agent != name:
        raise InvalidValueError("--like", given[-1], f"a row of {name}; this one is of {entry.agent}")
    if not entry.iterations or entry.begins_with:
        played_runs = f"; this one plays the runs of {entry.runs_of}" if entry.runs_of else ""
        raise InvalidValueError("--like", given[-1], f"a row that is trained from new parameters{played_runs}")
    found: dict[str, Any] = {"config": config(**entry.settings), "iterations": entry.iterations}
    found |= {"checkpoint_every": played.checkpoint_every, "eval_every": played.eval_every}
    family = {} if any(a.partition("=")[0] == "--env" for a in arguments) else {"family": played.family}
    return found | family | {"task_sampler": entry.task_sampler}


def run_train(name: str, options: Any) -> None:
    """`metarl train AGENT --family ID`."""
    family = _family_of(options)
    notes = warn_unused_parameters(family)
    agents = [
        make_agent(name, family, seed=seed, device=options.device, config=options.config) for seed in _seeds(options)
    ]
    if not agents[0].learns:
        command = f"metarl eval {name} --family {shlex.quote(family.id)}"
        raise InvalidValueError("agent", name, f"an agent that learns; {name} needs no training: {command}")
    if not is_built_in(type(agents[0])):
        say(f"checking the contract of {name} (metarl check-agent {name} checks more)")
        refuse("agent", name, check_briefly(agents[0]))
    place = Path("runs") / f"{name}-{label(options.env or family.id)}"
    if options.begin_with is not None:
        for agent in agents:
            _begin(agent, options.begin_with)
    if options.seeds:
        _train_seeds(options.out or place, agents, notes, options)
        return
    run = _new_run(options.out or place.with_name(f"{place.name}-seed{options.seed}"), agents[0], notes, options)
    _train_first(run, agents[0])


def _begin(agent: Agent, source: Path) -> None:
    """Give an agent the parameters of a run, or if that is a folder of several seeds, of the run of its seed."""
    runs = {path.name: path for path in seed_runs(source)}
    path = runs.get(f"seed{agent.seed}") if runs else source
    if path is None:
        raise InvalidValueError("--begin-with", str(source), f"a folder with a run of seed {agent.seed}, or one run")
    run = Run.open(path)
    if not run.has_checkpoint:
        raise InvalidValueError("--begin-with", str(path), "a run that was trained")
    new = begin_with(agent, run.load_agent(agent.device.type)[0])  # type: ignore[arg-type]
    rest = f"; new: {', '.join(new)}" if new else ""
    say(f"seed {agent.seed} begins with the parameters of {path}{rest}")


def _seeds(options: TrainOptions) -> tuple[int, ...]:
    """The seeds of `--seeds`, or the one of `--seed`."""
    if options.seeds and options.seed != TrainOptions.seed:
        raise InvalidValueError("--seed", options.seed, "no value beside --seeds")
    if len(set(options.seeds)) < len(options.seeds):
        raise InvalidValueError("--seeds", list(options.seeds), "different seeds")
    return options.seeds or (options.seed,)


def _settings(options: TrainOptions) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in ("eval_every", "eval_tasks", "task_sampler")}
    return given | {"begins_with": str(options.begin_with or "")}


def _new_run(path: Path, agent: Agent, notes: Sequence[str], options: TrainOptions) -> Run:
    run = Run.create(path, agent, options.iterations, options.checkpoint_every, loaded, **_settings(options))
    run.write_notes(notes)
    if options.begin_with is not None:
        run.save_start(agent)
    run.wandb = options.wandb
    return run


def _train_first(run: Run, agent: Agent) -> None:
    """Train a new run. If an error stops the first iteration, remove the run: the same command then works again."""
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


def _train_seeds(out: Path, agents: Sequence[Agent], notes: Sequence[str], options: TrainOptions) -> None:
    """Train a run for each seed, one after another. Runs that exist already continue from their last checkpoint.

    All runs are made first, so that `--resume` finds all seeds. They are removed if an error stops the first iteration.
    """
    runs = _runs_of_seeds(out, agents, notes, options)
    try:
        _train_all(out, runs, options.device)
    except Exception as error:
        if not isinstance(error, Interrupted) and not any(run.has_metrics for run in runs):
            _discard(runs)
        raise
    say(f"evaluate the seeds together: metarl eval {quoted(out)}")


def _runs_of_seeds(out: Path, agents: Sequence[Agent], notes: Sequence[str], options: TrainOptions) -> list[Run]:
    """The run of each seed. Those that exist are checked before others are made."""
    found: dict[int, Run] = {}
    for agent in agents:
        if (path := out / f"seed{agent.seed}").joinpath("config.json").exists():
            found[agent.seed] = _opened(path, options)
            found[agent.seed].check_settings(agent, options.iterations, options.checkpoint_every, **_settings(options))
    runs: list[Run] = []
    try:
        for agent in agents:
            runs.append(found.get(agent.seed) or _new_run(out / f"seed{agent.seed}", agent, notes, options))
    except BaseException:
        _discard(runs)
        raise
    return runs


def _opened(path: Path, options: TrainOptions | ResumeOptions) -> Run:
    run = Run.open(path)
    run.wandb = options.wandb
    return run


def _discard(runs: Sequence[Run]) -> None:
    """Remove what was made for runs, the last one first: the first one made their folder."""
    for run in reversed(runs):
        run.discard()


def run_resume(options: ResumeOptions) -> None:
    """`metarl train --resume RUN`. RUN may also be the folder of the runs of several seeds."""
    runs = [_opened(path, options) for path in seed_runs(options.resume) or [options.resume]]
    if options.iterations is not None:
        for run in runs:
            with run.lock():
                run.set_iterations(options.iterations, *run.load_agent(options.device))
    _train_all(options.resume, runs, options.device)


def _train_all(place: Path, runs: Sequence[Run], device: Device | None) -> None:
    """Train runs to the end, one after another. An interrupt names `place`, from which all of them continue."""
    try:
        for run in runs:
            with run.lock():
                agent, start = run.load_agent(device)
                if not run.has_checkpoint and (source := run.config.get("begins_with")):
                    expected = f"there, because the run begins with {source}: make the run again by its command"
                    raise InvalidValueError(f"checkpoint of {run.path}", verbatim("missing"), expected)
                total = run.config["iterations"]
                longer = "; add --iterations N to train longer" if start == total else ""
                say(f"{run.path}: {start} of {total} iterations are done{longer}")
                train_run(run, agent, start)
    except Interrupted as stop:
        raise Interrupted(place, stop.iteration) from None


def train_run(run: Run, agent: Agent, start: int) -> None:
    """Train from iteration `start` on, with a progress bar."""
    steps, total = agent.train_env_steps, run.config["iterations"]
    if start < total:
        say(f"training {agent.name} on {agent.family.id}")
    if steps and start < total:
        at_most = "up to " if agent.family.terminates and agent.family.horizon > 1 else ""
        say(f"{total - start:,} iterations of {at_most}{steps:,} env steps")
    with bar(agent.name, total, start, "iterations", steps) as advance:
        run.train(agent, start, lambda done, total, metrics: advance(done, _headline(metrics)))
    say(f"trained: {run.path}")


def _family_of(options: TrainOptions) -> Family:
    """Make the family of `--family`, or of `--env` with `--param`."""
    if (options.family is None) == (options.env is None):
        state = verbatim("missing" if options.family is None else "given together with --env")
        raise InvalidValueError("--family", state, "either --family ID, or --env ID with --param NAME=LOW:HIGH")
    if options.family is not None:
        defaults = TrainOptions()
        for name in ("param", "apply", "horizon"):
            if getattr(options, name) != getattr(defaults, name):
                expected = "--env ID with it; a family has its own task space"
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
    return make_family(GYMNASIUM, **keywords)


def _headline(metrics: Mapping[str, float]) -> list[str]:
    """The last two metrics that are returns, as text."""
    return [f"{k} {v:.2f}" for k, v in metrics.items() if "return" in k][-2:]
