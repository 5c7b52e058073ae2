"""VariBAD: a belief about the task is inferred at every step, and the policy acts on the observation and the belief.

Zintgraf et al. (2020, arXiv:1910.08348). A recurrent encoder gives q(z | what was seen so far), a Gaussian over a
latent vector z. It is trained by the evidence lower bound at every step of whole trials: z must explain the rewards,
and maybe the next observations, of all steps, past and future (equation 8). The policy is trained by PPO on the
observation and the belief's mean and log-variance; its gradient does not flow into the encoder.

    metarl train varibad --family metarl/GridNavi-v0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from metarl.agent import (
    PPO,
    Agent,
    AgentState,
    Belief,
    Budget,
    Decoded,
    Family,
    Feedback,
    FeedForward,
    Queries,
    Range,
    RecurrentEncoder,
    Rng,
    Rollout,
    Step,
    StepDecoder,
    Tasks,
    TrialInputs,
    TrialMemory,
    TrialPPOConfig,
    TrialReplay,
    Trials,
    adam_step,
    fold_in,
    load_net,
    make_key,
    negative_elbo,
    net_tensors,
    sized,
)

_PAIRS = 8  # opposite draws of z, over which what an agent believes is a mean


@dataclass(frozen=True)
class VariBADConfig(TrialPPOConfig):
    """Hyperparameters of PPO and of the belief model; those of the paper's GridNavi but where they say otherwise."""

    learning_rate: Annotated[float, Range(0, 10)] = 7e-4
    """Learning rate of the policy's Adam."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of generalised advantage estimation."""
    policy_hidden: tuple[Annotated[int, Range(1, 1e9)], ...] = (32,)
    """Widths of the hidden layers of the policy and of the value."""
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
    replay_trials: Annotated[int, Range(1, 1e9)] = 10_000
    """Latest trials that the belief model is trained on."""


class VariBAD(Agent[VariBADConfig]):
    """A belief about the task, inferred at every step, and a policy trained by PPO that acts on it."""

    name = "varibad"
    Config = VariBADConfig
    is_recurrent = True

    def __init__(
        self, family: Family, config: VariBADConfig, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        config = sized(config, family.horizon)
        super().__init__(family, config, seed, device)
        inputs = TrialInputs(family, self.name)
        rng = Rng(torch.tensor([make_key("varibad", "init", seed)]))
        obs, steps = inputs.encode.size, config.trial_episodes * family.horizon
        encoder = RecurrentEncoder(inputs.size, config.hidden, config.latent)
        encoder.initialise(rng)
        features = 2 * obs + inputs.head.features
        reward = StepDecoder(config.latent, features, config.decoder_hidden, 1, rng)
        self.model = nn.ModuleDict({"encoder": encoder, "reward": reward})
        if config.state_coef:
            self.model["state"] = StepDecoder(config.latent, features - obs, config.decoder_hidden, obs, rng)
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.model_learning_rate)
        self.encoder, self.inputs, self.head = encoder, inputs, inputs.head
        self.trial_memory = TrialMemory(inputs, encoder.memory)
        sizes = {"x": inputs.size, "step": features, "reward": 1, "valid": 1}
        example = {name: torch.zeros(steps, 1, size, device=self.device) for name, size in sizes.items()}
        self.replay = TrialReplay("varibad.replay_trials", config.replay_trials, example, self.device)
        self.net = FeedForward(self.head, obs + 2 * config.latent, config.policy_hidden, rng).to(self.device)
        self.ppo = PPO(self.name, family, config, self.net)

    # --- acting ------------------------------------------------------------------------------------------------------

    def begin(self, rows: int, tasks: Tasks | None = None) -> AgentState:
        """The encoder's empty memory."""
        return self.trial_memory.begin(rows, self.device)

    def act(
        self, state: AgentState, step: Step, rng: Rng, deterministic: bool
    ) -> tuple[Tensor, dict[str, Tensor], AgentState]:
        """One step of the encoder, and an action on the observation and the belief."""
        h, state = self.trial_memory.step(state, step)
        x = torch.cat([self.inputs.encode(step.obs[:, 0]), self.encoder.belief(h).features], -1).detach()
        policy = self.net.distribution(x)
        action = policy.mode if deterministic else policy.sample(rng)
        extras = {"log_prob": policy.log_prob(action).unsqueeze(1), "x": x.unsqueeze(1)}
        return action.unsqueeze(1), extras, state

    def observe(self, state: AgentState, feedback: Feedback, active: Tensor | None) -> AgentState:
        """Keep the encoder's memory, and what the next step is given."""
        return self.trial_memory.observe(state, feedback, active)

    # --- what it believes --------------------------------------------------------------------------------------------

    def belief_features(self, rollout: Rollout) -> Tensor:
        """Mean and log-variance of z before each step, `[T, R, 2 latent]`, as the policy was given them."""
        return rollout.extras["x"][:, :, 0, self.inputs.encode.size :]

    @torch.no_grad()
    def believed_rewards(self, rollout: Rollout, queries: Queries) -> Tensor:
        """The decoder's rewards of N transitions before each step, a mean over z of the belief: `[T, R, N]`."""
        encode, head = self.inputs.encode, self.head
        parts = (encode(queries.obs), head.encode(head.from_env(queries.action)), encode(queries.next_obs))
        x = torch.cat(parts, -1).unsqueeze(1).to(self.device)
        noise = Rng(torch.tensor([make_key("varibad", "belief")])).normal(_PAIRS, 1, self.config.latent)[0]
        noise = torch.cat([noise, -noise]).to(self.device)

        def told(features: Tensor) -> Tensor:
            z = Belief(*features.chunk(2, -1)).sample(noise)  # [samples, R, latent]
            rewards: Tensor = self.model["reward"](z, x)
            return rewards[..., 0].mean(0).T

        return torch.stack([told(features) for features in self.belief_features(rollout)])

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def train_env_steps(self) -> int:
        """Whole trials."""
        return self.config.meta_batch_size * self.config.trial_episodes * self.family.horizon

    def check_iterations(self, iterations: int) -> None:
        """Refuse more iterations than `anneal_iterations`, after which the learning rate is 0."""
        self.ppo.check_iterations(iterations)

    def train_step(self, trials: Trials) -> dict[str, float]:
        """Play whole trials, PPO on them with the beliefs that they were played with, then train the belief model.

        Raises:
            InvalidValueError: the learning rate has fallen to 0.
        """
        self.check_iterations(self.ppo.updates + 1)
        budget = Budget(envs=1, episodes=self.config.trial_episodes)
        rollout, _ = trials.collect(self, self.begin(trials.rows), 0, budget, final_obs=True)
        x = rollout.extras["x"][:, :, 0]
        time = torch.linspace(0.0, 1.0, len(x), device=self.device).view(-1, 1, 1).expand(-1, x.shape[1], 1)
        metrics = self.ppo.update(rollout, {"x": x, "time": time}, trials.key)
        self.replay.add(self._kept(rollout))
        metrics |= self._train_model(trials.key)
        total = float((rollout.reward * rollout.valid).sum((0, 2)).double().mean())
        return {"trial_return": total, "episode_return": total / self.config.trial_episodes, **metrics}

    def _kept(self, rollout: Rollout) -> dict[str, Tensor]:
        """What the belief model is trained on, `[T, R, ...]`: its inputs, and what its decoders see and must tell."""
        encode = self.inputs.encode
        parts = (encode(rollout.obs), self.head.encode(rollout.action), encode(rollout.extras["final_obs"]))
        return {
            "x": self.inputs.of(rollout),
            "step": torch.cat(parts, -1)[:, :, 0],
            "reward": rollout.reward,
            "valid": rollout.valid.float(),
        }

    def _train_model(self, key: int) -> dict[str, float]:
        """Gradient steps of the encoder and the decoders; the metrics of the last one."""
        parts: dict[str, Tensor] = {}
        for update in range(self.config.model_updates):
            loss, parts = self.model_loss(self.replay.sample(self.config.model_batch_size, key, update), key, update)
            adam_step(self.optimizer, loss)
        names = {"error_0": "reward_error", "error_1": "state_error", "kl": "belief_kl"}
        return {names.get(name, name): float(value) for name, value in parts.items()}

    def model_loss(self, trials: dict[str, Tensor], key: int, update: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative lower bound of some trials from the replay, and its parts."""
        config, obs = self.config, self.inputs.encode.size
        steps, count = trials["valid"].shape[:2]
        rng = Rng(fold_in(make_key(key, "elbo", update), torch.arange(count)).to(self.device))
        terms = rng.uniform(steps)[0].argsort()[: config.elbo_terms].sort().values
        noise = rng.normal(len(terms), config.latent).transpose(0, 1)
        decoded = [Decoded(self.model["reward"], trials["step"], trials["reward"], 1.0)]  # type: ignore[arg-type]
        if config.state_coef:
            before, after = trials["step"][..., :-obs], trials["step"][..., -obs:]
            decoded.append(Decoded(self.model["state"], before, after, config.state_coef))  # type: ignore[arg-type]
        return negative_elbo(self.encoder(trials["x"]), decoded, trials["valid"][..., 0], noise, config.kl_coef, terms)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The networks, what PPO keeps, and the replay."""
        model = {f"model.{k}": v for k, v in net_tensors(self.model, self.optimizer).items()}
        policy = {f"net.{k}": v for k, v in self.net.state_dict().items()} | self.ppo.tensors()
        return model | policy | self.replay.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        load_net(self.model, self.optimizer, own)
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        self.ppo.load_tensors(tensors)
        self.replay.load_tensors(tensors)
