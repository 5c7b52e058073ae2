"""The checks of the family contract. Each check yields one sentence for each violation."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from metarl.contract.family_probe import (
    Subject,
    Tape,
    culprit,
    difference,
    leaves,
    where,
)
from metarl.engine.pool import EnvironmentPool
from metarl.errors import MetaRLError
from metarl.families.distributions import Normal
from metarl.families.family import check_family_fields
from metarl.families.gym_family import GymFamily, task_dict
from metarl.families.registry import make_family
from metarl.families.tasks import Tasks, content_hash
from metarl.global_rng import random_states
from metarl.learning.action_distributions import PolicyHead
from metarl.learning.encoders import ObservationEncoder
from metarl.rng import Rng

PARAMETER_ROUNDS = 4  # batches of pairs of rollouts that show whether a parameter has an effect
SPACES = ("observation_space", "action_space")
BATCH_TOLERANCE, DEVICE_TOLERANCE = 1e-5, 1e-4  # both relative and absolute
DRAW_KEYED = "draw from rng (torch) or self.np_random (Gymnasium), and let reset restore what an episode changes"
FOLLOW_FAMILY = "do not override tasks_at, held_out and make_tasks of Family"


def declarations(subject: Subject) -> Iterator[str]:
    """The family declares its fields."""
    check_family_fields(subject.family)
    yield from ()


def returned(subject: Subject) -> Iterator[str]:
    """A Gymnasium environment returns what it declares."""
    if isinstance(subject.family, GymFamily):
        subject.checked_episode()
    yield from ()


def usable_spaces(subject: Subject) -> Iterator[str]:
    """Agents support the spaces."""
    subject.pool.get(subject.count)  # raises if the class has neither form
    for field, user in zip(SPACES, (ObservationEncoder, PolicyHead), strict=True):
        try:
            user(getattr(subject.family, field), subject.name)
        except MetaRLError as error:
            yield f"{subject.name}: {field} cannot be used: {error}; to fix it, flatten or encode it."


def constant_spaces(subject: Subject) -> Iterator[str]:
    """Environments of different tasks have the family's spaces."""
    for row, task in enumerate([] if subject.torch else subject.tasks()):
        with closing(subject.family.make_env(task)) as env:
            env.reset(seed=subject.seed)
            spaces_found = [getattr(env, field) for field in SPACES]
        for field, found in zip(SPACES, spaces_found, strict=True):
            if found != (expected := getattr(subject.family, field)):
                fix = "pad or rescale it, so that the space is the same for all tasks"
                yield subject.say(f"{field} for train task {row}", found, f"{expected}, the family's", fix)
                return


def state_tensors(subject: Subject) -> Iterator[str]:
    """The state of a torch family consists of tensors [N, ...]."""
    if subject.torch:
        state = subject.family.reset(subject.tasks().tensors(subject.device), Rng(subject.keys().to(subject.device)))
        for path, leaf in leaves(state, "state").items():
            if not isinstance(leaf, Tensor) or leaf.shape[:1] != (subject.count,):
                found = f"{type(leaf).__name__} {list(getattr(leaf, 'shape', []))}"
                expected = f"Tensor [{subject.count}, ...], an entry for every environment"
                yield subject.say(f"{path} from reset", found, expected, "return tensors in a dict or tuple")


def interface(subject: Subject) -> Iterator[str]:
    """Observations, rewards and endings agree with the declarations, under random and optimal actions."""
    keys, found = subject.keys(), list[str]()
    for actions in (subject.actions(keys, subject.steps), None)[: 1 + subject.optimal]:
        if not found:
            tape = subject.play(subject.tasks(), keys, actions)
            found = [*_numbers(subject, tape), *_endings(subject, tape)]
    yield from found


def _numbers(subject: Subject, tape: Tape) -> Iterator[str]:
    space, obs = subject.family.observation_space, torch.cat([tape.observation, tape.final_obs])
    real = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if obs.is_floating_point() != real:
        expected = "torch.float32" if real else "torch.int64"
        yield subject.say("dtype of the observation", obs.dtype, expected, f"return it .to({expected})")
    for name, values in (("observation", tape.observation), ("reward", tape.reward)):
        if not values.isfinite().all():
            fix = "look for a division by zero, a root or logarithm of a negative number, or an overflow"
            yield subject.say(f"the {name}", where(values, ~values.isfinite()), "finite numbers", fix)
            return
    low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (space.start, space.start + space.n - 1)
    outside = (obs < torch.as_tensor(low).to(obs.dtype)) | (obs > torch.as_tensor(high).to(obs.dtype))
    if outside.any():
        fix = "widen observation_space or clip the observation"
        yield subject.say("the observation", f"{obs[outside][0].item():g}", f"numbers inside {space}", fix)


def _endings(subject: Subject, tape: Tape) -> Iterator[str]:
    family, time = subject.family, torch.zeros_like(tape.truncated[0], dtype=torch.int64)
    if not family.terminates and tape.terminated.any():
        found = f"False, but terminated is {where(tape.terminated, tape.terminated)}"
        yield subject.say("terminates", found, "True where an episode can end early", "declare terminates = True")
        return
    for terminated, truncated in zip(tape.terminated, tape.truncated, strict=True):
        time, ended = time + 1, terminated | truncated
        wrong = (truncated & (time != family.horizon)) | (~ended & (time >= family.horizon))
        if wrong.any():
            found = str(int(time[wrong][0]))
            fix = f"declare horizon={found} or remove the environment's own time limit"
            yield subject.say("length of a truncated episode", found, f"the horizon, {family.horizon}", fix)
            return
        time = torch.where(ended, 0, time)


def task_sets(subject: Subject) -> Iterator[str]:
    """A task is fixed by its number, split and seed, and splits are disjoint."""
    family, seed, n = subject.family, subject.seed, 256
    again = make_family(family.id) if subject.registered else family
    train, test = family.tasks("train", n, seed), again.tasks("test", n, seed)
    if (again.tasks("train", n, seed).hash, family.tasks("train", 1, seed, 3).hash) != (train.hash, train[3].hash):
        yield subject.say("tasks('train', ...)", "other tasks when drawn again", "the same tasks", FOLLOW_FAMILY)
    if not family.finite:
        if shared := len(np.intersect1d(content_hash(train.values), content_hash(test.values))):
            yield subject.say("splits", f"sharing {shared} of {n} tasks of train and test", "disjoint", FOLLOW_FAMILY)
        for tasks, expected in ((train, False), (test, True)):
            if wrong := int((family.held_out(tasks) != expected).sum()):
                found = f"{not expected} for {wrong} of {n} {tasks.split} tasks"
                yield subject.say("held_out", found, f"{expected} for all of them", FOLLOW_FAMILY)
    for split in family.ood:
        tasks = again.tasks(split, n, seed)
        inside = [d.contains(tasks.values[k]).reshape(n, -1).all(1) for k, d in family.task_space.items()]
        if drawable := int((np.all(inside, axis=0) & ~family.held_out(replace(tasks, split="custom"))).sum()):
            fix = "move its range out of task_space, or draw it from the test side (metarl.families.tasks.on_side)"
            found = f"a split where a train draw could produce {drawable} of {n} tasks"
            yield subject.say(f"ood[{split!r}]", found, "tasks that train cannot draw", fix)


def task_data(subject: Subject) -> Iterator[str]:
    """Tasks survive JSON and npz, and values outside the task space are refused."""
    family = subject.family
    for split in family.splits:
        tasks = family.tasks(split, subject.count, subject.seed)
        for kind in [kind for kind in ("JSON", "npz") if not _survives(tasks, kind)]:
            fix = "let every value be a float32 array [N, *shape]"
            yield subject.say(f"tasks({split!r})", f"other tasks after a round trip through {kind}", "the same", fix)
    good = subject.tasks(1).values
    family.make_tasks(**good)
    for name, dist in family.task_space.items():
        bad = np.inf if isinstance(dist, Normal) else 1e30
        try:
            family.make_tasks(**{**good, name: np.full_like(good[name], bad)})
        except MetaRLError:
            continue
        yield subject.say("make_tasks", f"taking {name} = {bad:g}", f"only {dist.describe()}", FOLLOW_FAMILY)


def _survives(tasks: Tasks, kind: str) -> bool:
    """Whether tasks are the same after a round trip."""
    try:
        if kind == "JSON":
            return Tasks.from_dict(json.loads(json.dumps(tasks.to_dict()))).to_dict() == tasks.to_dict()
        with tempfile.TemporaryDirectory() as folder:
            tasks.save(Path(folder) / "tasks.npz")
            return Tasks.load(Path(folder) / "tasks.npz").to_dict() == tasks.to_dict()
    except MetaRLError:  # the file is refused
        return False


def hidden_randomness(subject: Subject) -> Iterator[str]:
    """Rollouts with equal keys have equal bits, and do not change global random states."""
    subject.pool.close()  # each rollout has new environments
    before, first, after = random_states(), subject.rollout(), random_states()
    changed = [name for name in before if before[name] != after[name]]
    for name in changed:
        yield subject.say(f"the global random state of {name}", "changed by a rollout", "no change", DRAW_KEYED)
    subject.pool.close()
    if not changed:
        yield from subject.compare("a rollout with equal keys", first, subject.rollout(), DRAW_KEYED)


def pure_functions(subject: Subject) -> Iterator[str]:
    """The functions of a torch family do not modify their arguments."""
    rng, arguments = Rng(subject.keys().to(subject.device)), {"task": subject.tasks().tensors(subject.device)}
    plan = subject.actions(subject.keys(), min(subject.steps, 20)).to(subject.device)
    for t, action in enumerate(plan if subject.torch else ()):
        arguments["action"] = action
        for function, names in (("reset", "task"), ("observe", "state task"), ("step", "state action task"))[t > 0 :]:
            before, draws = leaves(copy.deepcopy(arguments)), [] if function == "observe" else [rng.seek(t)]
            result = getattr(subject.family, function)(*[arguments[name] for name in names.split()], *draws)
            after = leaves(arguments)
            for path, old in before.items():
                if path not in after or not torch.equal(old.nan_to_num(), after[path].nan_to_num()):
                    fix = f"let {function} compute a new tensor (x = x + y instead of x += y)"
                    yield subject.say(path, f"modified in place by {function}", "to keep its value", fix)
                    return
            if function != "observe":
                arguments["state"] = result if function == "reset" else result[0]


def no_host_reads(subject: Subject) -> Iterator[str]:
    """Torch functions read no value back to Python, and stay on the task's device (fake tensors show it)."""
    if not subject.torch or subject.family.on_host:
        return
    family, values = copy.deepcopy(subject.family), subject.tasks().values
    n, shape = subject.count, family.action_space.shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        task = {k: torch.empty(v.shape, device="meta") for k, v in values.items()}
        rng = Rng(torch.empty(n, dtype=torch.int64, device="meta"))
        action = torch.empty(n, *shape, dtype=torch.float32 if shape else torch.int64, device="meta")
        try:
            state = family.reset(task, rng)
            for t in range(2):
                family.observe(state, task)
                state = family.step(state, action, task, rng.seek(t))[0]
        except Exception as error:
            found = f"reading a tensor's value on the host ({type(error).__name__}: {str(error)[:80]!r})"
            fix = "use torch.where and gather instead of if, .item(), float(), .numpy() and boolean indexing"
            if "same device" in str(error):
                found, fix = "mixing devices", "create tensors with device=action.device, and move constants there"
            yield subject.say(
                culprit(error) or subject.owner, found, "tensor operations that a GPU runs without waiting", fix
            )


def reset_keeps_task(subject: Subject) -> Iterator[str]:
    """A Gymnasium environment keeps its task through the first and the second reset."""
    for task in subject.tasks() if not subject.torch and subject.family.apply == "attrs" else ():
        with closing(subject.family.make_env(task)) as env:
            for number in (1, 2):
                env.reset(seed=subject.seed)
                expected = subject.family.task_at(task_dict(task), number - 1)
                for name, value in expected.items():
                    found = getattr(env.unwrapped, name)
                    if np.shape(found) != np.shape(value) or not np.allclose(found, value, rtol=1e-5):
                        fix = "do not draw or change it in the environment's reset"
                        yield subject.say(f"{name} after reset number {number}", found, f"{value}, the task's", fix)
                        return


def no_trace(subject: Subject) -> Iterator[str]:
    """A rollout does not depend on the tasks and episodes that its environments played before."""
    fix = "let reset and the setting of a task overwrite all values that depend on them"
    once = subject.rollout()
    subject.pool.get(subject.count).begin(subject.tasks(), subject.keys(), subject.steps)
    found = subject.compare("a task that was set and reset twice", once, subject.rollout(), fix)
    subject.rollout(start=subject.count)
    yield from found or subject.compare("a task set after another one", once, subject.rollout(), fix)


def parameters(subject: Subject) -> Iterator[str]:
    """A change of one task parameter alone changes a rollout."""
    for name in subject.family.task_space:
        if not _has_effect(subject, name):
            found = f"without effect on {PARAMETER_ROUNDS * subject.wide} pairs of rollouts that differ only in it"
            expected, fix = "another observation, reward or ending in one of them", "use it in reset, observe or step"
            if not subject.torch:
                fix = "make sure that `apply` sets it and reset keeps it, try more tasks (tasks=64)"
            yield subject.say(f"task parameter {name!r}", found, expected, f"{fix}, or remove it from task_space")


def _has_effect(subject: Subject, name: str) -> bool:
    n, compared = subject.wide, False
    for i in range(PARAMETER_ROUNDS):
        tasks, others, keys = subject.tasks(n, 2 * i * n), subject.tasks(n, (2 * i + 1) * n), subject.keys(n, i)
        if np.array_equal(tasks.values[name], others.values[name]):
            continue  # a choice of one value cannot change
        compared = True
        changed = replace(tasks, values={**tasks.values, name: np.array(others.values[name])})
        for actions in (subject.actions(keys, subject.steps), None)[: 1 + subject.optimal]:
            tape = subject.play(tasks, keys, actions)
            if difference(tape, subject.play(changed, keys, tape.action)):
                return True
    return not compared


def batch_equals_singles(subject: Subject) -> Iterator[str]:
    """An environment of a batch gives the same rollout as that environment alone."""
    tasks, keys, batch, found = subject.tasks(), subject.keys(), subject.rollout(), list[str]()
    fix = "let no environment's numbers depend on another's (no mean over environments, no len(state))"
    for row in range(subject.count):
        column = slice(row, row + 1)
        alone = subject.play(tasks[row], keys[column], batch.action[:, column])
        batched, what = (
            Tape(*(x[:, column] for x in batch)),
            f"train task {row} alone and in a batch of {subject.count}",
        )
        found = found or subject.compare(what, alone, batched, fix, BATCH_TOLERANCE)
    yield from found


def devices_agree(subject: Subject) -> Iterator[str]:
    """The CPU and CUDA, if CUDA is available, give the same rollout."""
    other = "cpu" if subject.device.startswith("cuda") else "cuda"
    if torch.cuda.is_available() and subject.torch:
        what, fix = f"a rollout on {subject.device} and on {other}", "let no result depend on the device"
        other_tape = subject.rollout(pool=EnvironmentPool(subject.family, other))
        yield from subject.compare(what, subject.rollout(), other_tape, fix, DEVICE_TOLERANCE)
