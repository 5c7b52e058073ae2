"""A model of beliefs: a recurrent encoder, decoders, and the replay of trials that trains them.

The belief half of VariBAD (Zintgraf et al. 2020, arXiv:1910.08348), whatever policy acts on the beliefs. An agent plays
with it and has it trained:

    self.model = BeliefModel(self.name, family, config, config.trial_episodes, rng, device)
    x, state = self.model.step(state, step)
    self.model.replay.add(self.model.kept(rollout))
    metrics = self.model.fit(trials.key)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from metarl.agent_base import AgentState, Rollout, Step
from metarl.config import Range
from metarl.devices import check_fits
from metarl.families.family import Family, Queries
from metarl.learning.adam import adam_step, load_net, net_tensors
from metarl.learning.inference.beliefs import Belief, RecurrentEncoder
from metarl.learning.inference.decoders import Decoded, StepDecoder, negative_elbo
from metarl.learning.inference.trial_replay import TrialReplay
from metarl.learning.trial_memory import TrialInputs, TrialMemory
from metarl.rng import Rng, fold_in, make_key

_PAIRS = 8  # opposite draws of z, over which what an agent believes is a mean


@dataclass(frozen=True)
class BeliefConfig:
    """Hyperparameters of the belief model; sizes and learning rate are those of the paper's GridNavi.

    The paper's encoder has a layer of its own for the observation, the action and the reward; ours is given them as
    they are.
    """

    hidden: Annotated[int, Range(1, 1024)] = 64
    """Units of the encoder's GRU."""
    latent: Annotated[int, Range(1, 1024)] = 5
    """Size of z."""
    decoder_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (32, 32)
    """Widths of the hidden layers of the decoders."""
    state_coef: Annotated[float, Range(0, 1e3)] = 0.0
    """Weight of the squared error of next observations, for families whose tasks differ in their dynamics. 0: z must
    explain rewards alone."""
    kl_coef: Annotated[float, Range(0, 1e3)] = 0.01
    """Weight of the KL of each belief to the belief before it."""
    model_learning_rate: Annotated[float, Range(0, 10)] = 1e-3
    """Learning rate of Adam for the encoder and the decoders."""
    model_updates: Annotated[int, Range(0, 1e6)] = 20
    """Gradient steps of the belief model per meta-update (the paper: 3, in meta-updates of 16 trials)."""
    model_batch_size: Annotated[int, Range(1, 1e6)] = 25
    """Trials in each of these steps."""
    elbo_terms: Annotated[int, Range(1, 1e6)] = 20
    """Steps of a trial whose lower bounds a gradient step computes, drawn at random (the paper: all in GridNavi, 50 in
    MuJoCo)."""
    decoded_steps: Annotated[int, Range(0, 1e9)] = 0
    """Steps of a trial that these bounds decode, drawn at random for each gradient step; their sum is scaled up to the
    whole trial. 0: all, as in the paper's GridNavi (MuJoCo: 50, not scaled)."""
    replay_trials: Annotated[int, Range(1, 1e9)] = 10_000
    """Latest trials that the belief model is trained on (the authors' GridNavi: 100,000)."""


class BeliefModel(nn.ModuleDict):
    """The modules `encoder`, `reward` and maybe `state`, and what trains them.

    Args:
        name: of the agent, for error messages.
        family: that is played.
        config: hyperparameters.
        trial_episodes: episodes of a trial.
        rng: draws of the initial weights.
        device: of all tensors.

    Raises:
        InvalidValueError: the replay does not fit into memory.
    """

    def __init__(
        self, name: str, family: Family, config: BeliefConfig, trial_episodes: int, rng: Rng, device: torch.device
    ) -> None:
        inputs = TrialInputs(family, name)
        obs = inputs.encode.size
        with torch.device("meta"):  # PyTorch's own initialisation would draw from its global generator
            encoder = RecurrentEncoder(inputs.size, config.hidden, config.latent, inputs.encode.image)
        encoder.to_empty(device="cpu")
        encoder.initialise(rng)
        features = 2 * obs + inputs.head.features
        modules = {"encoder": encoder, "reward": StepDecoder(config.latent, features, config.decoder_hidden, 1, rng)}
        if config.state_coef:
            modules["state"] = StepDecoder(config.latent, features - obs, config.decoder_hidden, obs, rng)
        super().__init__(modules)
        self.to(device)
        self.config, self.encoder, self.inputs, self.device = config, encoder, inputs, device
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.model_learning_rate)
        self.trial_memory = TrialMemory(inputs, encoder.memory)
        sizes = {"x": inputs.size, "step": features, "reward": 1, "valid": 1}
        steps = trial_episodes * family.horizon
        example = {name: torch.zeros(steps, 1, size, device=device) for name, size in sizes.items()}
        self.replay = TrialReplay(f"{name}.replay_trials", config.replay_trials, example, device)
        self.name, self.steps = name, steps

    def check_memory(self) -> None:
        """Refuse gradient steps that would not fit into memory, by an estimate from below."""
        config = self.config
        told, bounds = min(config.decoded_steps or self.steps, self.steps), min(config.elbo_terms, self.steps)
        each = 4 * told * bounds * sum(config.decoder_hidden)  # a hidden layer has a row for each pair of steps
        what = f"a gradient step on {bounds} bounds of {told} steps of a trial needs"
        check_fits(f"{self.name}.model_batch_size", config.model_batch_size, each, self.device, what)

    @property
    def features(self) -> int:
        """Features of a step for a policy: the observation's, and the mean and log-variance of z."""
        return self.inputs.encode.size + 2 * self.config.latent

    def step(self, state: AgentState, step: Step) -> tuple[Tensor, AgentState]:
        """One step of the encoder: what a policy is given, `[R, features]`, and the state."""
        h, state = self.trial_memory.step(state, step)
        return torch.cat([self.inputs.encode(step.obs[:, 0]), self.encoder.belief(h).features], -1).detach(), state

    def kept(self, rollout: Rollout) -> dict[str, Tensor]:
        """What the model is trained on, `[T, R, ...]`: its inputs, and what its decoders see and must tell.

        The rollout has whole trials, and `extras["final_obs"]`.
        """
        encode = self.inputs.encode
        parts = (encode(rollout.obs), self.inputs.head.encode(rollout.action), encode(rollout.extras["final_obs"]))
        return {
            "x": self.inputs.of(rollout),
            "step": torch.cat(parts, -1)[:, :, 0],
            "reward": rollout.reward,
            "valid": rollout.valid.float(),
        }

    def fit(self, key: int, rate: float = 1.0) -> dict[str, float]:
        """Gradient steps with a share `rate` of the learning rate; the metrics of the last one."""
        parts: dict[str, Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.config.model_learning_rate
        for update in range(self.config.model_updates):
            loss, parts = self.loss(self.replay.sample(self.config.model_batch_size, key, update), key, update)
            adam_step(self.optimizer, loss)
        names = {"error_0": "reward_error", "error_1": "state_error", "kl": "belief_kl"}
        return {names.get(name, name): float(value) for name, value in parts.items()}

    def loss(self, trials: Mapping[str, Tensor], key: int, update: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative lower bound of some trials from the replay, and its parts."""
        config, obs = self.config, self.inputs.encode.size
        steps, count = trials["valid"].shape[:2]
        rng = Rng(fold_in(make_key(key, "elbo", update), torch.arange(count)).to(self.device))
        terms = rng.uniform(steps)[0].argsort()[: config.elbo_terms].sort().values
        noise = rng.normal(len(terms), config.latent).transpose(0, 1)
        valid = trials["valid"][..., 0]
        step, reward, told = self._told(trials["step"], trials["reward"], valid, make_key(key, "decoded", update))
        step = self._scaled(step)
        decoded = [Decoded(self["reward"], step, reward, 1.0)]  # type: ignore[arg-type]
        if config.state_coef:
            decoded.append(Decoded(self["state"], step[..., :-obs], step[..., -obs:], config.state_coef))  # type: ignore[arg-type]
        return negative_elbo(self.encoder(trials["x"]), decoded, valid, noise, config.kl_coef, terms, told)

    def _told(self, step: Tensor, reward: Tensor, valid: Tensor, key: int) -> tuple[Tensor, Tensor, Tensor]:
        """The steps of trials that are decoded, their rewards, and how often each counts."""
        steps, count = len(valid), self.config.decoded_steps
        if not 0 < count < steps:
            return step, reward, valid
        chosen = Rng(torch.tensor([key])).uniform(steps)[0].argsort()[:count].sort().values.to(self.device)
        return step[chosen], reward[chosen], valid[chosen] * (steps / count)

    def _scaled(self, step: Tensor) -> Tensor:
        """What decoders are given of transitions `[..., features]`: pixels, before and after, are from 0 to 1."""
        if (image := self.inputs.encode.image) is None or image.largest == 1:
            return step
        obs = self.inputs.encode.size
        return torch.cat([step[..., :obs] / image.largest, step[..., obs:-obs], step[..., -obs:] / image.largest], -1)

    def belief_features(self, x: Tensor) -> Tensor:
        """The mean and log-variance of z in what a policy was given, `[T, R, 1, features]`: `[T, R, 2 latent]`."""
        obs = self.inputs.encode.size
        return x[:, :, 0, obs : obs + 2 * self.config.latent]

    @torch.no_grad()
    def believed_rewards(self, features: Tensor, queries: Queries) -> Tensor:
        """What the reward decoder tells of N transitions from beliefs, means over z: `[T, R, N]`.

        Args:
            features: mean and log-variance of z before each step, `[T, R, 2 latent]`.
            queries: the transitions.
        """
        encode, head = self.inputs.encode, self.inputs.head
        parts = (encode(queries.obs), head.encode(head.from_env(queries.action)), encode(queries.next_obs))
        x = self._scaled(torch.cat(parts, -1).unsqueeze(1).to(self.device))
        noise = Rng(torch.tensor([make_key("varibad", "belief")])).normal(_PAIRS, 1, self.config.latent)[0]
        noise = torch.cat([noise, -noise]).to(self.device)

        def decoded(belief: Tensor) -> Tensor:
            z = Belief(*belief.chunk(2, -1)).sample(noise)  # [samples, R, latent]
            rewards: Tensor = self["reward"](z, x)
            return rewards[..., 0].mean(0).T

        return torch.stack([decoded(belief) for belief in features])

    def tensors(self) -> dict[str, Tensor]:
        """The modules, Adam's moments and the replay, for checkpoints: "model.NAME" and "replay.NAME"."""
        return {f"model.{k}": v for k, v in net_tensors(self, self.optimizer).items()} | self.replay.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; others are left alone."""
        own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        load_net(self, self.optimizer, own)
        self.replay.load_tensors(tensors)
