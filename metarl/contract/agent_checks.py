"""The checks of the agent contract. Each check yields one sentence for each violation."""

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
from metarl.contract.agent_probe import ROWS, AgentSubject, Holdings, differing, digests, holdings, named, watched
from metarl.contract.family_checks import hidden_randomness
from metarl.contract.family_probe import Subject
from metarl.global_rng import random_states, seeded
from metarl.runs.checkpoints import load_checkpoint, save_checkpoint

Stage = tuple[Callable[[AgentSubject], Iterator[str]], ...]
UPDATES = 2  # meta-updates before a trained agent is checked; one more tests resuming
REPLAYED = 20  # steps of a rollout that are replayed at most
TOLERANCE = 1e-3  # relative and absolute, between a batch and its single rows
EXTREMES = (1e6, -1e6, 0.0)  # actions that a policy could take
SEEDS = (1, 2)  # seeds of the global generators
DRAW_KEYED = "draw from the argument rng of act, or from Rng(torch.tensor([trials.key])) (metarl.agent)"
SEED_INIT = "build modules in a block `with metarl.agent.seeded(seed, self.device):`, or draw from metarl.agent.Rng"
RESTORE = "return it from tensors() and put it back in load_tensors()"
ALL_TENSORS = "all that training changes, so that a checkpoint restores it"
MAP_ACTIONS = (
    "keep a metarl.agent.PolicyHead as self.head, or return act's own actions from to_env if they are in the box"
)
FINITE = "a dict from names to finite numbers"


def config_returns(subject: AgentSubject) -> Iterator[str]:
    """Hyperparameters survive a round trip through config.json."""
    config, fix = subject.config, "let every field be a number, text, bool, or a tuple or dict of them"
    try:
        values = json.loads(json.dumps(asdict(config)))
        again = type(config)(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        again = str(error)
    if again != config:
        yield subject.say("Config", f"{again} after a round trip through JSON", str(config), fix)


def interface(subject: AgentSubject) -> Iterator[str]:
    """Budget, states, actions and extras have the right types and shapes, and actions fit the space."""
    agent = subject.make()
    budget: object = agent.budget
    if not isinstance(budget, Budget):
        yield subject.say("budget", repr(budget), "a metarl.Budget", "return Budget(envs, steps or episodes)")
    elif agent.is_recurrent and budget.envs != 1:
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
        yield subject.say("act", found, "a tuple of three", "return the actions, the extras (or {}) and the state")
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
    """`to_env` maps every action that a policy can sample into the box."""
    agent, trials = subject.learner, subject.trials()
    step, rng = subject.opening(agent, trials, 1)
    action = agent.act(subject.begin(agent, trials), step, rng, False)[0].flatten(0, 1)
    own_units = agent.to_env(action) is action  # the agent's actions are already in the environment's units
    if isinstance(subject.family.action_space, spaces.Box) and not own_units:
        for extreme in EXTREMES:
            yield from _inside(subject, agent, torch.full_like(action, extreme))


def _entries(subject: AgentSubject, method: str, what: str, values: object, axes: tuple[int, ...]) -> Iterator[str]:
    """Check that `values` is a dict of tensors with the leading axes `axes`."""
    letters = "[R, E, ...]" if len(axes) == 2 else "[R, ...]"
    expected, fix = (
        f"tensors {letters}, here R, E = {ROWS}, {axes[-1]}",
        "give every row and every environment an entry of its own",
    )
    expected = expected if len(axes) == 2 else f"tensors {letters}, here R = {ROWS}"
    if not isinstance(values, dict):
        yield subject.say(method, f"returning {what} as {_described(values)}", f"a dict of {expected}", "return a dict")
        return
    for key, value in values.items():
        if not isinstance(value, Tensor) or tuple(value.shape[: len(axes)]) != axes:
            entry = f"{what}[{key!r}]" if key else what
            yield subject.say(method, f"returning {entry} as {_described(value)}", expected, fix)


def _inside(subject: AgentSubject, agent: Agent, action: Tensor) -> Iterator[str]:
    """Check that `to_env` maps actions `[N, ...]` into the action space."""
    sent, space = agent.to_env(action), subject.family.action_space
    shape, discrete = (len(action), *(space.shape or ())), isinstance(space, spaces.Discrete)
    expected = f"{'int64' if discrete else 'float32'} {list(shape)}"
    if isinstance(sent, Tensor) and tuple(sent.shape) != shape and action.dim() != len(shape):
        axes = ", ".join(map(str, ["R, E", *shape[1:]]))
        found = f"returning actions of shape [{', '.join(map(str, ['R, E', *action.shape[1:]]))}]"
        yield subject.say("act", found, f"[{axes}], because the action space is {space}", "keep all of its axes")
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


def _described(value: object) -> str:
    """Type and shape of a tensor, or the type of another value."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def keyed_family(subject: AgentSubject) -> Iterator[str]:
    """The family repeats its rollouts with equal keys; without that, an agent cannot be checked."""
    probe = Subject(subject.family, ROWS, subject.seed, subject.device, registered=False)
    try:
        yield from probe.run(hidden_randomness)
    finally:
        probe.pool.close()


def keyed_draws(subject: AgentSubject) -> Iterator[str]:
    """All draws come from the seed and the keys, and none from a global generator."""
    moved: list[tuple[str, list[str]]] = []
    one, two = ([*_lifetime(subject, seed, moved)] for seed in SEEDS)
    for method, names in moved:
        fix = SEED_INIT if method == "__init__" else DRAW_KEYED
        yield subject.say(method, f"moving the global generator of {named(names)}", "it left alone", fix)
    for (method, a), (_, b) in zip(one, two, strict=True):
        if names := differing(a, b):
            expected = "the same bits for any state of global generators, clock and machine"
            fix = SEED_INIT if method == "__init__" else DRAW_KEYED
            yield subject.say(method, f"giving another {names[0]} when it is repeated", expected, fix)


def _lifetime(subject: AgentSubject, seed: int, moved: list[tuple[str, list[str]]]) -> Iterator[tuple[str, Holdings]]:
    """Build, play and train agents under global generators with one seed; yields the digests that each method decides.

    Adds to `moved` the methods that change global generators, and the names of the generators.
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
    """Metrics are a dict from names to numbers."""
    for row in subject.metrics:
        if not isinstance(row, dict):
            yield subject.say("train_step", f"returning {_described(row)}", FINITE, "return a dict")
            return
        for name, value in row.items():
            if not (isinstance(name, str) and isinstance(value, (int, float))):
                yield subject.say("train_step", f"returning {name!r}: {value!r}", FINITE, "return floats (.item())")


def finite_metrics(subject: AgentSubject) -> Iterator[str]:
    """Metrics are finite."""
    for row in subject.metrics:
        for name, value in row.items():
            if not math.isfinite(value):
                fix = "look for a mean of nothing, a division by 0 or an overflow"
                yield subject.say("train_step", f"returning {name!r}: {value!r}", FINITE, fix)


def restored(subject: AgentSubject) -> Iterator[str]:
    """A checkpoint restores all that training changes, and a resumed training equals an uninterrupted one."""
    if not subject.trained:
        return
    agent, twin = subject.trained
    held, saved, new = holdings(agent), agent.tensors(), subject.make()
    unkeyed = set(differing(held, holdings(twin)))  # for example clocks
    changed = [name for name in differing(holdings(new), held) if name not in unkeyed]
    yield from _constant_names(subject, new.tensors(), saved)
    before = digests(saved)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "checkpoint", agent, subject.updates)
        load_checkpoint(Path(folder) / "checkpoint", new)
    if wrong := differing(digests(new.tensors()), before):
        fix = "copy every tensor of tensors() back to its place"
        yield subject.say("load_tensors", f"not restoring {named(wrong)}", "the inverse of tensors()", fix)
    after = holdings(new)
    lost = [name for name in changed if after.get(name) != held.get(name)]
    if subject.play(new) != subject.play(agent):
        yield subject.say("tensors()", f"{_without(lost)}: a loaded agent plays differently", ALL_TENSORS, RESTORE)
    for one in (new, agent):
        subject.train(one, subject.updates, 1)
    resumed, unbroken = holdings(new), holdings(agent)
    differ = [name for name in lost if resumed.get(name) != unbroken.get(name)]
    if differing(digests(new.tensors()), digests(agent.tensors())):
        found = f"{_without(differ or lost)}: a resumed training differs"
        yield subject.say("tensors()", found, ALL_TENSORS, RESTORE)
    if differ:
        yield subject.say("tensors()", _without(differ), ALL_TENSORS, f"{RESTORE}, or do not keep it")


def _without(names: list[str]) -> str:
    return f"without {named(names) if names else 'something'}, which training changes"


def _constant_names(subject: AgentSubject, new: dict[str, Tensor], trained: dict[str, Tensor]) -> Iterator[str]:
    """Check that `tensors()` has the same names and shapes before and after training."""
    for tensors in (new, trained):
        if not tensors or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
            found = f"{_described(tensors)} of {len(tensors)}"
            yield subject.say("tensors()", found, "a dict of tensors by name", RESTORE)
    kinds = [{k: (tuple(v.shape), str(v.dtype)) for k, v in tensors.items()} for tensors in (new, trained)]
    if wrong := differing(*kinds):
        fix = "return zeros for a tensor that the first update makes (metarl.agent.net_tensors does)"
        change = f"with other names or shapes after training ({named(wrong)})"
        yield subject.say("tensors()", change, "the same tensors before and after", fix)


def batch_equals_singles(subject: AgentSubject) -> Iterator[str]:
    """A row's actions and states do not depend on the other rows of a batch."""
    agent, trials = subject.learner, subject.trials()
    tape, _ = trials.collect(agent, subject.begin(agent, trials), 0, agent.budget)
    everyone = tuple(range(ROWS))
    whole = list(_replay(subject, agent, tape, everyone))
    for which in ((2, 0, 1), (1,)):
        for (method, expected), (_, found) in zip(whole, _replay(subject, agent, tape, which), strict=True):
            if wrong := [k for k, v in found.items() if not _close(v, expected[k][list(which)])]:
                fix = "let no row's numbers depend on another's (no mean over rows, no batch normalisation)"
                difference = f"giving other {named(wrong)} in rows {list(which)} than in rows {list(everyone)}"
                yield subject.say(method, difference, "a batch to equal its singles, in any order", fix)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _replay(
    subject: AgentSubject, agent: Agent, tape: Rollout, which: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Replay some rows of a rollout with the recorded feedback; yields each method and its numbers `[R', ...]`."""
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
        reported = Feedback(*(x[t, rows] for x in (tape.action, tape.reward, tape.terminated, tape.truncated)))
        state = agent.observe(state, reported, tape.valid[t, rows])
        yield "observe", {"actions": action, **extras, **_numbers(state)}
    if type(agent).adapt is not Agent.adapt:
        yield "adapt", _numbers(agent.adapt(state, tape.rows(torch.tensor(rows, device=agent.device))))
    elif not getattr(subject.family, "on_host", False):  # physics on the host amplify rounding differences
        yield "interact", _numbers(agent.interact(state, trials, 0)[1])


def _numbers(state: AgentState) -> dict[str, Tensor]:
    """Copy the floating-point entries of a state; integers are left out, because they may count rows."""
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
    """A fork is a copy of the right rows, and shares no memory with the original."""
    agent, trials = subject.make(), subject.trials()
    state = subject.begin(agent, trials)
    kept = agent.fork(state)
    values = {name: v.clone() for name, v in kept.items()}
    for original in (state, agent.interact(state, trials, 0)[1]):
        for v in original.values():
            with suppress(RuntimeError):  # an expanded tensor cannot be written to
                v.fill_(3)
    if wrong := [name for name, v in kept.items() if not torch.equal(v, values[name])]:
        yield subject.say("fork", f"sharing {named(wrong)} with the original", "a copy", "clone every tensor")
    part = agent.fork(kept, torch.tensor([1], device=agent.device))
    if wrong := [name for name, v in part.items() if not torch.equal(v, values[name][1:2])]:
        yield subject.say("fork", f"giving {named(wrong)} of other rows", "the requested rows", "index it with rows")


def untouched(subject: AgentSubject) -> Iterator[str]:
    """Acting and adapting do not train the agent."""
    agent = subject.make()
    before, first = digests(agent.tensors()), subject.play(agent)
    trained = digests(agent.tensors()) != before or subject.play(agent) != first
    if agent.learns and not trained:
        subject.train(agent, 0, subject.updates)
        trained = digests(agent.tensors()) != subject.trained_tensors
    if trained:
        method, names = _trainer(subject)
        fix = "let it change no attribute of the agent, and keep what a trial changes in the state"
        found = f"changing {named(names)} in evaluation"
        yield subject.say(method, found, "that only train_step changes the agent", fix)


def _trainer(subject: AgentSubject) -> tuple[str, list[str]]:
    """Find the first method that changes the agent while it plays, and the names of what it changes."""
    agent = subject.make()

    def look() -> Holdings:
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()  # a capture allows no reads
        return {} if capturing else holdings(agent)

    with watched(agent, look) as found:
        subject.play(agent)
    return found[0] if found else ("act", ["something"])


def feedback(action: Tensor) -> Feedback:
    """Make the feedback of a step with reward 1 and no ending; actions `[R, E, ...]`."""
    reward = torch.ones(action.shape[:2], device=action.device)
    return Feedback(action, reward, reward < 0, reward < 0)
