"""The single checks of the agent contract, each a generator of sentences."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.agent_base import Agent, AgentState, Budget, Feedback, Rollout, Step, maps_actions
from metarl.contract.agent_probe import ROWS, AgentSubject, Held, differing, digests, holdings, named, watched
from metarl.contract.family_checks import hidden_randomness
from metarl.contract.family_probe import Subject
from metarl.global_rng import random_states, seeded
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint

Stage = tuple[Callable[[AgentSubject], Iterator[str]], ...]
UPDATES = 2  # meta-updates before training is looked at; one more shows whether it goes on
REPLAYED = 20  # steps of a rollout that are acted in again
TOLERANCE = 1e-3  # relative and absolute, between a batch and its singles
EXTREMES = (1e6, -1e6, 0.0)  # actions that a policy could take
SEEDS = (1, 2)  # of the global generators
DRAW_KEYED = "draw from the rng that act is given, or from Rng(torch.tensor([trials.key])) (metarl.agent)"
SEED_INIT = "build modules in a block `with metarl.agent.seeded(seed, self.device):`, or draw from metarl.agent.Rng"
RESTORE = "return it from tensors() and put it back in load_tensors()"
ALL_TENSORS = "all that training changes, so that a checkpoint restores it"
MAP_ACTIONS = (
    "keep a metarl.agent.PolicyHead as self.head, or return act's own actions from to_env if they are in the box"
)
FINITE = "a dict from names to finite numbers"


def config_returns(subject: AgentSubject) -> Iterator[str]:
    """The hyperparameters come back from a run's config.json."""
    given, fix = subject.config, "let every field be a number, text, bool, or a tuple or dict of them"
    try:
        values = json.loads(json.dumps(asdict(given)))
        again = type(given)(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        again = str(error)
    if again != given:
        yield subject.say("Config", f"{again} after a round trip through JSON", str(given), fix)


def interface(subject: AgentSubject) -> Iterator[str]:
    """Budget, states, actions and extras have their types and shapes, and actions fit the space."""
    agent = subject.make()
    budget: Any = agent.budget
    if not isinstance(budget, Budget):
        yield subject.say("budget", repr(budget), "a metarl.Budget", "return Budget(envs, steps or episodes)")
    if agent.is_recurrent and budget.envs != 1:
        yield subject.say("budget", repr(budget), "one environment, because is_recurrent is True", "set envs=1")
    if not maps_actions(agent):
        expected = f"a map of the policy's actions to {subject.family.action_space}"
        yield subject.say("to_env", "not implemented", expected, MAP_ACTIONS)
    for deterministic in (False, True):
        yield from _first_step(subject, agent, deterministic)
    trials = subject.trials()
    rollout, state = agent.interact(subject.begin(agent, trials), trials, 0)
    yield from _entries(subject, "adapt", "the state", state, (ROWS,))
    yield from _inside(subject, agent, rollout.action.flatten(0, 2))


def _first_step(subject: AgentSubject, agent: Agent, deterministic: bool) -> Iterator[str]:
    trials, width = subject.trials(), subject.width(agent)
    state = subject.begin(agent, trials)
    yield from _entries(subject, "begin", "the state", state, (ROWS,))
    step, rng = subject.opening(agent, trials, width)
    out: Any = agent.act(state, step, rng, deterministic)
    if not (isinstance(out, tuple) and len(out) == 3):
        found = f"returning {_described(out)}"
        yield subject.say("act", found, "three things", "return the actions, the extras (or {}) and the state")
    action, extras, state = out
    yield from _entries(subject, "act", "the actions", {"": action}, (ROWS, width))
    if not bool(action.isfinite().all()):
        yield subject.say("act", "returning actions that are not finite", "finite numbers", "look for a division by 0")
    yield from _entries(subject, "act", "the extras", extras, (ROWS, width))
    yield from _entries(subject, "act", "the state", state, (ROWS,))
    yield from _inside(subject, agent, action.flatten(0, 1))
    if agent.is_recurrent:
        state = agent.observe(state, feedback(action), None)
        yield from _entries(subject, "observe", "the state", state, (ROWS,))


def extreme_actions(subject: AgentSubject) -> Iterator[str]:
    """Whatever a policy may sample, `to_env` maps it into the box."""
    agent, trials = subject.learner, subject.trials()
    step, rng = subject.opening(agent, trials, 1)
    action = agent.act(subject.begin(agent, trials), step, rng, False)[0].flatten(0, 1)
    own_units = agent.to_env(action) is action  # the agent says that its actions are the environment's
    if isinstance(subject.family.action_space, spaces.Box) and not own_units:
        for extreme in EXTREMES:
            yield from _inside(subject, agent, torch.full_like(action, extreme))


def _entries(subject: AgentSubject, method: str, what: str, found: Any, axes: tuple[int, ...]) -> Iterator[str]:
    """`found` is a dict of tensors that have the leading axes."""
    letters = "[R, E, ...]" if len(axes) == 2 else "[R, ...]"
    expected, fix = (
        f"tensors {letters}, here R, E = {ROWS}, {axes[-1]}",
        "give every row, and every environment, its own entry",
    )
    expected = expected if len(axes) == 2 else f"tensors {letters}, here R = {ROWS}"
    if not isinstance(found, dict):
        yield subject.say(method, f"returning {what} as {_described(found)}", f"a dict of {expected}", "return a dict")
    for key, value in found.items():
        if not isinstance(value, Tensor) or tuple(value.shape[: len(axes)]) != axes:
            entry = f"{what}[{key!r}]" if key else what
            yield subject.say(method, f"returning {entry} as {_described(value)}", expected, fix)


def _inside(subject: AgentSubject, agent: Agent, action: Tensor) -> Iterator[str]:
    """What the environments are given for actions `[N, ...]` lies in their space."""
    sent, space = agent.to_env(action), subject.family.action_space
    shape, discrete = (len(action), *(space.shape or ())), isinstance(space, spaces.Discrete)
    expected = f"{'int64' if discrete else 'float32'} {list(shape)}"
    wrong = not isinstance(sent, Tensor) or tuple(sent.shape) != shape or sent.is_floating_point() == discrete
    if wrong or sent.dtype == torch.float64:
        fix = "return what the environment takes (metarl.agent.PolicyHead)"
        yield subject.say("to_env", f"returning {_described(sent)}", expected, fix)
    low: Any = torch.as_tensor(0 if isinstance(space, spaces.Discrete) else space.low)  # type: ignore[attr-defined]
    high: Any = torch.as_tensor(space.n - 1 if isinstance(space, spaces.Discrete) else space.high)  # type: ignore[attr-defined]
    outside = ~((sent >= low.to(sent.device)) & (sent <= high.to(sent.device)))  # NaN is outside
    if bool(outside.any()):
        fix = "map or clip actions into the space there (metarl.agent.PolicyHead.to_env)"
        yield subject.say("to_env", f"returning {sent[outside][0].item():g}", f"numbers inside {space}", fix)


def _described(thing: Any) -> str:
    """A tensor's type and shape, or another thing's type."""
    return f"{thing.dtype} {list(thing.shape)}" if isinstance(thing, Tensor) else type(thing).__name__


def keyed_family(subject: AgentSubject) -> Iterator[str]:
    """The family plays the same again with equal keys, or nothing can be said of an agent in it."""
    probe = Subject(subject.family, ROWS, subject.seed, subject.device, registered=False)
    try:
        yield from probe.run(hidden_randomness)
    finally:
        probe.pool.close()


def keyed_draws(subject: AgentSubject) -> Iterator[str]:
    """Nothing is drawn from a global generator, or from anything but the seed and the keys."""
    moved: list[tuple[str, list[str]]] = []
    one, two = ([*_life(subject, seed, moved)] for seed in SEEDS)
    for method, names in moved:
        fix = SEED_INIT if method == "__init__" else DRAW_KEYED
        yield subject.say(method, f"moving the global generator of {named(names)}", "it left alone", fix)
    for (method, a), (_, b) in zip(one, two, strict=True):
        if names := differing(a, b):
            expected = "the same bits, whatever the state of global generators, the clock and the machine"
            fix = SEED_INIT if method == "__init__" else DRAW_KEYED
            yield subject.say(method, f"giving another {names[0]} when it is repeated", expected, fix)


def _life(subject: AgentSubject, seed: int, moved: list[tuple[str, list[str]]]) -> Iterator[tuple[str, Held]]:
    """What agents do while the global generators are seeded in some way, by the method that shows in it.

    Methods that move these generators, and whose, are added to `moved`.
    """
    with seeded(seed, torch.device(subject.device)):
        before = random_states()
        agent, learner = subject.make(), subject.make()
        if names := differing(before, random_states()):
            moved.append(("__init__", names))
        yield "__init__", digests(agent.tensors())
        with watched(agent, random_states) as found:
            yield "act", subject.play(agent)
        moved += found
        if learner.learns:
            with watched(learner, random_states) as found:
                subject.metrics += subject.train(learner, 0, subject.updates)
            moved += found
            subject.trained = (*subject.trained, learner)
            subject.trained_tensors = digests(learner.tensors())
            yield "train_step", subject.trained_tensors


def metrics(subject: AgentSubject) -> Iterator[str]:
    """Metrics are numbers by name."""
    for told in subject.metrics:
        if not isinstance(told, dict):
            yield subject.say("train_step", f"returning {_described(told)}", FINITE, "return a dict")
        for name, value in told.items():
            if not (isinstance(name, str) and isinstance(value, (int, float))):
                yield subject.say("train_step", f"returning {name!r}: {value!r}", FINITE, "return floats (.item())")


def finite_metrics(subject: AgentSubject) -> Iterator[str]:
    """Metrics are finite."""
    for told in subject.metrics:
        for name, value in told.items():
            if not math.isfinite(value):
                fix = "look for a mean of nothing, a division by 0 or an overflow"
                yield subject.say("train_step", f"returning {name!r}: {value!r}", FINITE, fix)


def restored(subject: AgentSubject) -> Iterator[str]:
    """What training changes is what a checkpoint restores, and a resumed training equals an unbroken one."""
    if not subject.trained:
        return
    agent, twin = subject.trained
    held, saved, new = holdings(agent), agent.tensors(), subject.make()
    unlike = set(differing(held, holdings(twin)))  # clocks and the like
    changed = [name for name in differing(holdings(new), held) if name not in unlike]
    yield from _constant_names(subject, new.tensors(), saved)
    before = digests(saved)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "checkpoint", agent, subject.updates)
        load_checkpoint(Path(folder) / "checkpoint", new)
    if wrong := differing(digests(new.tensors()), before):
        fix = "copy every tensor that tensors() returns back to where it came from"
        yield subject.say("load_tensors", f"leaving {named(wrong)} as it was", "the inverse of tensors()", fix)
    after = holdings(new)
    lost = [name for name in changed if after.get(name) != held.get(name)]
    if subject.play(new) != subject.play(agent):
        yield subject.say("tensors()", f"{_without(lost)}: a loaded agent plays otherwise", ALL_TENSORS, RESTORE)
    for one in (new, agent):
        subject.train(one, subject.updates, 1)
    resumed, unbroken = holdings(new), holdings(agent)
    still = [name for name in lost if resumed.get(name) != unbroken.get(name)]
    if differing(digests(new.tensors()), digests(agent.tensors())):
        found = f"{_without(still or lost)}: a resumed training goes on otherwise"
        yield subject.say("tensors()", found, ALL_TENSORS, RESTORE)
    if still:
        yield subject.say("tensors()", _without(still), ALL_TENSORS, f"{RESTORE}, or do not keep it")


def _without(names: list[str]) -> str:
    return f"without {named(names) if names else 'something'}, which training changes"


def _constant_names(subject: AgentSubject, new: Any, trained: Any) -> Iterator[str]:
    """`tensors()` names the same tensors before training and after, of the same shapes."""
    for found in (new, trained):
        if not found or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
            yield subject.say("tensors()", f"{_described(found)} of {len(found)}", "a dict of tensors by name", RESTORE)
    kinds = [{k: (tuple(v.shape), str(v.dtype)) for k, v in found.items()} for found in (new, trained)]
    if wrong := differing(*kinds):
        fix = "return zeros for what is not there before the first update (metarl.agent.net_tensors does)"
        found = f"with other names or shapes after training ({named(wrong)})"
        yield subject.say("tensors()", found, "the same tensors before and after", fix)


def batch_equals_singles(subject: AgentSubject) -> Iterator[str]:
    """What a row does, given what it sees, does not depend on the rows beside it."""
    agent, trials = subject.learner, subject.trials()
    tape, _ = trials.collect(agent, subject.begin(agent, trials), 0, agent.budget)
    everyone = tuple(range(ROWS))
    whole = list(_replay(subject, agent, tape, everyone))
    for which in ((2, 0, 1), (1,)):
        for (method, expected), (_, found) in zip(whole, _replay(subject, agent, tape, which), strict=True):
            if wrong := [k for k, v in found.items() if not _close(v, expected[k][list(which)])]:
                fix = "let no row's numbers depend on another's (no mean over rows, no batch normalisation)"
                told = f"giving other {named(wrong)} in rows {list(which)} than in rows {list(everyone)}"
                yield subject.say(method, told, "a batch to equal its singles, in any order", fix)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _replay(
    subject: AgentSubject, agent: Agent, tape: Rollout, which: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Numbers `[R', ...]` of some of a rollout's rows, which see what they saw, by the method that gave them."""
    rows, trials = list(which), subject.trials(which)
    state = subject.begin(agent, trials)
    yield "begin", _numbers(state)
    step, rng = subject.opening(agent, trials, tape.reward.shape[2])
    action, extras, acted = agent.act(agent.fork(state), step, rng, False)
    yield "act", {"actions": action, **extras, **_numbers(acted)}
    if agent.privileged:
        return
    for t in range(min(len(tape.reward), REPLAYED) if agent.is_recurrent else 0):
        action, extras, state = agent.act(state, Step(tape.obs[t, rows], None), rng.seek(t), False)
        given = Feedback(*(x[t, rows] for x in (tape.action, tape.reward, tape.terminated, tape.truncated)))
        state = agent.observe(state, given, tape.valid[t, rows])
        yield "observe", {"actions": action, **extras, **_numbers(state)}
    if type(agent).adapt is not Agent.adapt:
        yield "adapt", _numbers(agent.adapt(state, tape.rows(torch.tensor(rows, device=agent.device))))
    elif not getattr(subject.family, "on_host", False):  # whose physics double what rounding differs by
        yield "interact", _numbers(agent.interact(state, trials, 0)[1])


def _numbers(state: AgentState) -> dict[str, Tensor]:
    """Copies of what is measured in a state; whole numbers may count the rows."""
    return {name: values.clone() for name, values in state.items() if values.is_floating_point()}


def ended_rows(subject: AgentSubject) -> Iterator[str]:
    """A row that is not active keeps its state."""
    agent, trials = subject.learner, subject.trials()
    if not (agent.is_recurrent and subject.family.terminates):
        return
    step, rng = subject.opening(agent, trials, 1)
    action, _, state = agent.act(subject.begin(agent, trials), step, rng, False)
    kept = {name: values[1].clone() for name, values in state.items()}
    active = torch.ones(ROWS, 1, dtype=torch.bool, device=action.device)
    active[1] = False
    after = agent.observe(state, feedback(action), active)
    if wrong := [name for name in kept if name in after and not torch.equal(after[name][1], kept[name])]:
        found = f"changing {named(wrong)} of a row that is not active"
        yield subject.say("observe", found, "its state as it was", "use torch.where with active, where it is not None")


def forked(subject: AgentSubject) -> Iterator[str]:
    """A fork is safe from what happens to the original, and is of the rows that were asked for."""
    agent, trials = subject.make(), subject.trials()
    state = subject.begin(agent, trials)
    kept = agent.fork(state)
    values = {name: v.clone() for name, v in kept.items()}
    for dead in (state, agent.interact(state, trials, 0)[1]):
        for v in dead.values():
            with suppress(RuntimeError):  # an expanded tensor cannot be written
                v.fill_(3)
    if wrong := [name for name, v in kept.items() if not torch.equal(v, values[name])]:
        yield subject.say("fork", f"sharing {named(wrong)} with the original", "a copy", "clone every tensor")
    part = agent.fork(kept, torch.tensor([1], device=agent.device))
    if wrong := [name for name, v in part.items() if not torch.equal(v, values[name][1:2])]:
        yield subject.say("fork", f"giving {named(wrong)} of other rows", "the rows asked for", "index it with rows")


def untouched(subject: AgentSubject) -> Iterator[str]:
    """Playing, scoring and adapting train nothing."""
    agent = subject.make()
    before, first = digests(agent.tensors()), subject.play(agent)
    trained = digests(agent.tensors()) != before or subject.play(agent) != first
    if agent.learns and not trained:
        subject.train(agent, 0, subject.updates)
        trained = digests(agent.tensors()) != subject.trained_tensors
    if trained:
        method, names = _trainer(subject)
        fix = "let it change nothing of the agent, and keep what a trial changes in the state"
        found = f"changing {named(names)} in evaluation, so that what follows is another"
        yield subject.say(method, found, "an agent that train_step alone changes", fix)


def _trainer(subject: AgentSubject) -> tuple[str, list[str]]:
    """The first method that changes the agent while it plays, and what it changes."""
    agent = subject.make()

    def look() -> Held:
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # nothing is read back then
        return {} if capturing else holdings(agent)

    with watched(agent, look) as found:
        subject.play(agent)
    return found[0] if found else ("act", ["something"])


def feedback(action: Tensor) -> Feedback:
    """What an agent with a memory is told after a step that paid 1, actions `[R, E, ...]`."""
    paid = torch.ones(action.shape[:2], device=action.device)
    return Feedback(action, paid, paid < 0, paid < 0)


def documented(subject: AgentSubject) -> Iterator[str]:
    """The class has a docstring of its own."""
    if not (subject.cls.__dict__.get("__doc__") or "").strip():
        yield subject.say("the docstring", "missing", "a line that metarl list shows", "say what the agent is")
