"""Vancomycin dosing: keep the trough of a drug in its therapeutic window in a patient whose kinetics are hidden.

The population model of Buelga et al. (2005, "Population pharmacokinetic analysis of vancomycin in patients with
hematological malignancies", Antimicrobial Agents and Chemotherapy 49(12), 4934-4941): one compartment, intermittent
infusion, first-order elimination. The clearance is 1.08 times that of creatinine, the volume of distribution .98 l per
kg, both log-normal over patients; the paper's coefficients of variation, 28.16 % and 37.15 %, are the standard
deviations of the logarithms. All patients have the weight, 64.7 kg, and the creatinine clearance, 89.4 ml/min, that the
paper's patients have on average. So a typical patient clears CL = 5.79 l/h from V = 63.4 l. Unlike in the paper, CL and
V are independent, and concentrations are measured without error: the reward would tell the true one anyway. The window
of troughs, 15 to 20 mg/l, is that of Rybak et al. (2009, American Journal of Health-System Pharmacy 66(1), 82-98) for
serious infections. The interval, the largest dose and the costs are ours.

Dynamics: an infusion of D mg in 1 h begins every tau = 8 h. With k = CL / V, the trough at the end of the interval is
c' = c e^(-k tau) + D / CL (1 - e^(-k)) e^(-k (tau - 1)). Observation: the trough over 15 mg/l, and the last dose over
the largest one, `[2]`. Action: the dose in mg, `[1]`, from 0 to 3,000, clipped. Reward: -max(15 - c', 2 (c' - 20), 0) /
15, with c' in mg/l: an excess costs twice as much as a lack. Start: no drug in the body. End: none before the horizon
of 12 doses. Task: `eta_clearance` and `eta_volume`, the logarithms of CL and V over those of the typical patient.
Version history: v0, first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from torch import Tensor

from metarl.families.distributions import Normal, TaskSpace, Uniform
from metarl.families.family import TorchFamily
from metarl.families.tasks import Tasks
from metarl.rng import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
CLEARANCE = 1.08 * 89.4 * 60 / 1000  # l/h of a typical patient
VOLUME = 0.98 * 64.7  # l
CLEARANCE_STD, VOLUME_STD = 0.2816, 0.3715  # of the logarithms over patients
INTERVAL, INFUSION = 8.0, 1.0  # h
MAX_DOSE = 3000.0  # mg
LOW, HIGH = 15.0, 20.0  # mg/l, the therapeutic window
EXCESS_COST = 2.0  # per mg/l above the window; a lack costs 1
TASK_SPACE: TaskSpace = {"eta_clearance": Normal(0.0, CLEARANCE_STD), "eta_volume": Normal(0.0, VOLUME_STD)}
OOD: Mapping[str, TaskSpace] = {"impaired": {"eta_clearance": Uniform(-1.4, -0.85)}}  # more than three deviations less
_POINTS = 2000  # of the floor's grid of concentrations
_PART = 256  # tasks computed together


class VancomycinDosing(TorchFamily):
    """Doses of a drug hold its concentration in a window; the patient's clearance and volume are hidden.

    The state is the trough in mg/l and the last dose in mg, `float32 [N, 2]`.
    """

    source = "Buelga et al. 2005, doi:10.1128/AAC.49.12.4934-4941.2005"
    observation_space = Box(0.0, np.inf, (2,), np.float32)
    action_space = Box(0.0, MAX_DOSE, (1,), np.float32)
    horizon = 12
    terminates = False
    task_space, ood = TASK_SPACE, OOD

    def reset(self, task: dict[str, Tensor], rng: Rng) -> Tensor:
        """No drug, and no dose before: `[N, 2]`."""
        return torch.zeros_like(torch.stack([task["eta_clearance"], task["eta_volume"]], -1))

    def observe(self, state: Tensor, task: dict[str, Tensor]) -> Tensor:
        """The trough over the window's lower end, and the last dose over the largest one."""
        return torch.stack([state[:, 0] / LOW, state[:, 1] / MAX_DOSE], -1)

    def step(self, state: Tensor, action: Tensor, task: dict[str, Tensor], rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Infuse a dose and wait for the end of the interval."""
        kept, gain = kinetics(task)
        dose = action[:, 0].clamp(0.0, MAX_DOSE)
        trough = kept * state[:, 0] + gain * dose
        cost = torch.maximum(LOW - trough, EXCESS_COST * (trough - HIGH)).clamp_min(0.0) / LOW
        return torch.stack([trough, dose], -1), -cost, torch.zeros_like(cost, dtype=torch.bool)

    def optimal_action(self, state: Tensor, task: dict[str, Tensor], t: Tensor) -> Tensor:
        """The dose that leads to the middle of the window, or the nearest one.

        Below the window, the highest concentration that can be reached is the best for this step and for all later
        ones. Once the window is reached it can be kept.
        """
        kept, gain = kinetics(task)
        return (((LOW + HIGH) / 2.0 - kept * state[:, 0]) / gain).clamp(0.0, MAX_DOSE).unsqueeze(-1)

    def references(self, tasks: Tasks) -> dict[str, Floats]:
        """The informed optimum in closed form; the floor from the distribution of troughs, to about 1e-5.

        After t largest doses the trough is gain MAX_DOSE (1 - kept^t) / (1 - kept), the highest that can be reached.
        """
        kept, gain = (x.numpy() for x in kinetics({k: v.double() for k, v in tasks.tensors().items()}))
        t = np.arange(1, self.horizon + 1)
        reach = (gain * MAX_DOSE / (1.0 - kept))[:, None] * (1.0 - kept[:, None] ** t)
        parts = [slice(i, i + _PART) for i in range(0, len(kept), _PART)]
        floor = [_random_return(kept[part], gain[part], self.horizon) for part in parts]
        return {
            "floor": np.concatenate(floor),
            "informed_optimum": -np.maximum(LOW - reach, 0.0).sum(1) / LOW,
        }

    def draw(self, axes: Axes, state: npt.NDArray[Any], task: dict[str, npt.NDArray[Any]]) -> None:
        """Draw the concentration during the last interval, the trough at its end, and the window (green)."""
        kept, gain = (float(x) for x in kinetics({k: torch.as_tensor(v).double() for k, v in task.items()}))
        trough, dose = (float(x) for x in state)
        start, rate = (trough - gain * dose) / kept, -math.log(kept) / INTERVAL
        hours = np.linspace(0.0, INTERVAL, 200)
        after = trough * np.exp(rate * (INTERVAL - hours))
        at_end = trough * math.exp(rate * (INTERVAL - INFUSION))
        during = start * np.exp(-rate * hours)
        during += (at_end - start * math.exp(-rate * INFUSION)) * np.expm1(-rate * hours) / math.expm1(-rate * INFUSION)
        axes.axhspan(LOW, HIGH, color="tab:green", alpha=0.25, linewidth=0)
        axes.plot(hours, np.where(hours < INFUSION, during, after), color="tab:blue", linewidth=2)
        axes.plot(INTERVAL, trough, "o", color="tab:blue", markersize=10)
        axes.set(xlim=(0.0, INTERVAL + 0.4), ylim=(0.0, max(50.0, 1.1 * at_end)), aspect="auto")


def kinetics(task: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The share of a trough that is left after an interval, and the trough from a dose of 1 mg, in mg/l: `[N]` each."""
    clearance = CLEARANCE * task["eta_clearance"].exp()
    rate = clearance / (VOLUME * task["eta_volume"].exp())  # 1/h
    per_mg = -torch.expm1(-INFUSION * rate) / (INFUSION * clearance)  # at the end of the infusion
    return (-INTERVAL * rate).exp(), per_mg * (-(INTERVAL - INFUSION) * rate).exp()


def _random_return(kept: Floats, gain: Floats, horizon: int) -> Floats:
    """The expected return of doses uniform on [0, MAX_DOSE], `[N]`, with `kept` and `gain` `[N]` from `kinetics`.

    A random dose adds a concentration uniform on [0, w]. With F_t the distribution function of trough t and P_t(x) its
    integral from 0 to x,

        F_t(x) = kept / w (P_{t-1}(x / kept) - P_{t-1}((x - w) / kept)),    P_0(x) = max(x, 0),

    E max(LOW - c, 0) = P_t(LOW) and E max(c - HIGH, 0) = E c - HIGH + P_t(HIGH).
    """
    width = gain * MAX_DOSE
    step = width / (1.0 - kept) / _POINTS  # the grid ends at the highest concentration
    place = np.arange(_POINTS + 1.0) / kept[:, None]  # in steps
    before = (np.arange(_POINTS + 1.0) - width[:, None] / step[:, None]) / kept[:, None]
    integral = np.broadcast_to(np.arange(_POINTS + 1.0), place.shape)  # P in steps
    mean, total = np.zeros_like(kept), np.zeros_like(kept)
    for _ in range(horizon):
        function = (kept * step / width)[:, None] * (_at(integral, place) - _at(integral, before))
        middle = 0.5 * (function[:, 1:] + function[:, :-1])
        integral = np.concatenate([np.zeros_like(middle[:, :1]), middle.cumsum(1)], 1)
        mean = kept * mean + width / 2.0
        lack, below = (step * _at(integral, (x / step)[:, None])[:, 0] for x in (LOW, HIGH))
        total -= (lack + EXCESS_COST * (mean - HIGH + below)) / LOW
    return total


def _at(integral: Floats, place: Floats) -> Floats:
    """Interpolate `[N, points]` at places in steps `[N, M]`; it is 0 before the grid and has the slope 1 behind it."""
    left = np.clip(np.floor(place), 0, _POINTS - 1).astype(np.int64)
    low, high = (np.take_along_axis(integral, left + i, 1) for i in (0, 1))
    inside = low + (high - low) * np.clip(place - left, 0.0, 1.0)
    return np.asarray(inside + np.maximum(place - _POINTS, 0.0))
