"""The contract test of a task family: one clear sentence per violation.

    metarl check-family mine/PointGoal-v0

Checks come in stages; a stage runs only when those before it found nothing, because it would find the consequences.
"""

from __future__ import annotations

import warnings

from metarl.agent_base import Device, resolve_device
from metarl.contract.family_checks import (
    batch_equals_singles,
    constant_spaces,
    declarations,
    devices_agree,
    hidden_randomness,
    interface,
    no_host_reads,
    no_trace,
    parameters,
    pure_functions,
    reset_keeps_task,
    returned,
    state_tensors,
    task_data,
    task_sets,
    usable_spaces,
)
from metarl.contract.family_probe import (
    Subject,
    crash_sentence,
)
from metarl.contract.notes import visible_tasks
from metarl.contract.reference_checks import expected_rewards, references
from metarl.errors import FamilyWarning, InvalidValueError
from metarl.families.family import Family
from metarl.families.registry import make_family


def check_family(family: str | Family, *, tasks: int = 8, seed: int = 0, device: Device = "cpu") -> list[str]:
    """Play a family, and say where it breaks the contract of `Family`; what its functions raise is a sentence too.

    Args:
        family: an id, or a family (whose registration is then not looked at).
        tasks: how many are played side by side, at least 2.
        seed: of the tasks, the actions and the environments.
        device: where the family is stepped; a torch family is also compared with the CPU, or with CUDA if there is one.

    Returns:
        One sentence per violation: the family, the field, what was found, what was expected, the fix.

    Warns:
        FamilyWarning: the observation shows the task, which is no violation: it may be meant (goal-conditioned RL).

    Raises:
        InvalidValueError: no such family, preset or device, or fewer than two tasks.
    """
    if tasks < 2:
        raise InvalidValueError("tasks", tasks, "at least 2")
    where = str(resolve_device(device))
    try:
        built = family if isinstance(family, Family) else make_family(family)
    except Exception as error:
        if isinstance(error, InvalidValueError) and error.field.partition(" ")[0] in ("family", "preset"):
            raise  # no such id: nothing to check
        return [crash_sentence(str(family), error, "that the family can be built")]
    subject = Subject(built, tasks, seed, where, registered=built is not family)
    try:
        for stage in STAGES:
            if found := [sentence for check in stage for sentence in subject.run(check)]:
                return found
        for note in visible_tasks(subject):
            warnings.warn(note, FamilyWarning, stacklevel=2)
    finally:
        subject.pool.close()
    return []


STAGES = (
    (declarations,),
    (returned,),
    (usable_spaces,),
    (constant_spaces, state_tensors),
    (interface, task_sets, task_data),
    (hidden_randomness, pure_functions, no_host_reads),
    (reset_keeps_task, no_trace),
    (parameters, batch_equals_singles, devices_agree, references, expected_rewards),
)
