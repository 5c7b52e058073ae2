"""The contract test of a task family: one sentence for each violation.

    metarl check-family mine/PointGoal-v0

Checks run in stages. A stage runs only if the earlier stages found no violation, because violations cause others.
"""

from __future__ import annotations

import warnings

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
from metarl.contract.picture_checks import pictures
from metarl.contract.reference_checks import expected_rewards, posteriors, references
from metarl.devices import Device, resolve_device
from metarl.errors import FamilyWarning, InvalidValueError
from metarl.families.family import Family
from metarl.families.registry import make_family


def check_family(family: str | Family, *, tasks: int = 8, seed: int = 0, device: Device = "cpu") -> list[str]:
    """Play a family, and list its violations of the `Family` contract. An exception is a violation too.

    Args:
        family: an id, or a family; the registration of a family is not checked.
        tasks: number of tasks that are played side by side, at least 2.
        seed: the seed of the tasks, the actions and the environments.
        device: the device that steps the family. A torch family is also compared with the CPU, or with CUDA if there is
            one.

    Returns:
        One sentence for each violation: the family, the field, what was found, what was expected, the fix.

    Warns:
        FamilyWarning: the observation shows the task. This is no violation: goal-conditioned RL needs it.

    Raises:
        InvalidValueError: there is no such family, preset or device, or `tasks` is less than 2.
    """
    if tasks < 2:
        raise InvalidValueError("tasks", tasks, "at least 2")
    device_name = str(resolve_device(device))
    try:
        built = family if isinstance(family, Family) else make_family(family)
    except Exception as error:
        if isinstance(error, InvalidValueError) and error.field.partition(" ")[0] in ("family", "preset"):
            raise  # there is no such id
        return [crash_sentence(str(family), error, "that the family can be built")]
    subject = Subject(built, tasks, seed, device_name, registered=built is not family)
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
    (parameters, batch_equals_singles, devices_agree, references, expected_rewards, posteriors, pictures),
)
