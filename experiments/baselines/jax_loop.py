"""RL2 on bandits in JAX: playing and PPO's epochs are one compiled function, as in PureJaxRL.

Lu et al. (2022), Discovered Policy Optimisation, arXiv:2210.05639: the training step is a function of arrays, its loops
are scans. The network, the inputs, the batch and PPO's settings are those of metarl's rl2, and its gradient steps are
those of `bandit_loop`. JAX is no dependency of metarl: importing this raises ImportError where it is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from baselines.bandit_loop import GRUPolicy
from metarl.agents.memory.rl2 import RL2Config

Arrays = dict[str, jax.Array]  # by name


class State(NamedTuple):
    """What an update changes."""

    params: Arrays
    first: Arrays  # Adam's moments of the gradient
    second: Arrays
    count: jax.Array  # gradient steps made
    key: jax.Array


def parameters(net: GRUPolicy) -> Arrays:
    """A network's parameters, matrices as `[in, out]`."""
    cell, heads = net.cell, {"policy": net.policy, "value": net.value}
    named = {"w_i": cell.weight_ih, "w_h": cell.weight_hh, "b_i": cell.bias_ih, "b_h": cell.bias_hh}
    named |= {f"{part}_{name}": getattr(head, part) for name, head in heads.items() for part in ("weight", "bias")}
    return {name: jnp.array(p.detach().cpu().numpy().T) for name, p in named.items()}


def begin(params: Arrays, seed: int = 0) -> State:
    """Before the first update."""
    zeros = {name: jnp.zeros_like(p) for name, p in params.items()}
    return State(params, zeros, zeros, jnp.zeros((), jnp.int32), jax.random.key(seed))


def cell(params: Arrays, h: jax.Array, gates: jax.Array) -> jax.Array:
    """One step of `torch.nn.GRUCell` from `h` `[R, H]`; `gates` `[R, 3 H]` is the input's share of r, z and n."""
    i_r, i_z, i_n = jnp.split(gates, 3, -1)
    h_r, h_z, h_n = jnp.split(h @ params["w_h"] + params["b_h"], 3, -1)
    r, z = jax.nn.sigmoid(i_r + h_r), jax.nn.sigmoid(i_z + h_z)
    n = jnp.tanh(i_n + r * h_n)
    return n + z * (h - n)


def heads(params: Arrays, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The arms' log-probabilities `[..., k]` and the value `[...]`."""
    log_probs = jax.nn.log_softmax(h @ params["weight_policy"] + params["bias_policy"])
    return log_probs, (h @ params["weight_value"] + params["bias_value"])[..., 0]


def unroll(params: Arrays, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`heads` at every step of trials `[T, R, k + 2]`."""

    def step(h: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = cell(params, h, gates)
        return h, h

    h = jnp.zeros((x.shape[1], len(params["w_h"])))
    return heads(params, jax.lax.scan(step, h, x @ params["w_i"] + params["b_i"])[1])


def taken(log_probs: jax.Array, action: jax.Array) -> jax.Array:
    """The log-probabilities of actions."""
    return jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]


def play(params: Arrays, key: jax.Array, trials: int, pulls: int) -> Arrays:
    """Trials on new arms: see `bandit_loop.play`."""
    k = len(params["bias_policy"])
    key, arms_key = jax.random.split(key)
    arms = jax.random.uniform(arms_key, (trials, k))

    def pull(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Arrays]:
        h, x = carry
        h = cell(params, h, x @ params["w_i"] + params["b_i"])
        log_probs, value = heads(params, h)
        pick, pay = jax.random.split(key)
        action = jax.random.categorical(pick, log_probs)
        one_hot = jax.nn.one_hot(action, k)
        reward = (jax.random.uniform(pay, (trials,)) < (one_hot * arms).sum(-1)).astype(jnp.float32)
        seen = {"x": x, "action": action, "log_prob": taken(log_probs, action), "value": value, "reward": reward}
        return (h, jnp.concatenate([one_hot, reward[:, None], jnp.ones((trials, 1))], -1)), seen

    start = jnp.zeros((trials, len(params["w_h"]))), jnp.zeros((trials, k + 2)).at[:, -1].set(1.0)
    return jax.lax.scan(pull, start, jax.random.split(key, pulls))[1]


def advantages(reward: jax.Array, value: jax.Array, cfg: RL2Config) -> jax.Array:
    """GAE (Schulman et al. 2016, arXiv:1506.02438, equation 16) of trials `[T, R]` that end with the last step."""

    def back(carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]) -> Any:
        advantage, following = carry
        r, v = now
        advantage = r + cfg.discount * following - v + cfg.discount * cfg.gae_lambda * advantage
        return (advantage, v), advantage

    zeros = jnp.zeros_like(reward[0])
    return jax.lax.scan(back, (zeros, zeros), (reward, value), reverse=True)[1]


def loss(params: Arrays, part: Arrays, cfg: RL2Config) -> jax.Array:
    """PPO's, on a minibatch of trials `[T, B, ...]`."""
    log_probs, value = unroll(params, part["x"])
    ratio = jnp.exp(taken(log_probs, part["action"]) - part["log_prob"])
    clipped = jnp.clip(ratio, 1.0 - cfg.clip, 1.0 + cfg.clip)
    surrogate = jnp.minimum(ratio * part["advantage"], clipped * part["advantage"]).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    return -surrogate + cfg.value_coef * jnp.square(value - part["target"]).mean() - cfg.entropy_coef * entropy


def adam(state: State, gradient: Arrays, cfg: RL2Config) -> State:
    """One step of Adam (Kingma and Ba 2015, arXiv:1412.6980) with the gradient scaled down to its largest norm."""
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in gradient.values()))
    gradient = {name: g * jnp.minimum(1.0, cfg.max_grad_norm / (norm + 1e-6)) for name, g in gradient.items()}
    count = state.count + 1
    first = {name: 0.9 * state.first[name] + 0.1 * g for name, g in gradient.items()}
    second = {name: 0.999 * state.second[name] + 0.001 * g * g for name, g in gradient.items()}
    rate, scale = cfg.learning_rate / (1.0 - 0.9**count), 1.0 - 0.999**count
    params = {
        name: p - rate * first[name] / (jnp.sqrt(second[name] / scale) + 1e-5) for name, p in state.params.items()
    }
    return State(params, first, second, count, state.key)


def learn(state: State, data: Arrays, cfg: RL2Config) -> State:
    """PPO's epochs on whole trials."""
    advantage = advantages(data["reward"], data["value"], cfg)
    scaled = (advantage - advantage.mean()) / jnp.maximum(advantage.std(), 1e-8)
    whole = {name: data[name] for name in ("x", "action", "log_prob")}
    whole |= {"advantage": scaled, "target": advantage + data["value"]}
    rows = advantage.shape[1]

    def step(state: State, chosen: jax.Array) -> tuple[State, None]:
        part = {name: v[:, chosen] for name, v in whole.items()}
        return adam(state, jax.grad(loss)(state.params, part, cfg), cfg), None

    def epoch(state: State, key: jax.Array) -> tuple[State, None]:
        order = jax.random.permutation(key, rows).reshape(cfg.minibatches, -1)
        return jax.lax.scan(step, state, order)

    key, epochs_key = jax.random.split(state.key)
    return jax.lax.scan(epoch, state._replace(key=key), jax.random.split(epochs_key, cfg.epochs))[0]


def make_update(cfg: RL2Config) -> Callable[[State], tuple[State, jax.Array]]:
    """The compiled training step: the state after it, and the mean reward of a pull."""

    def update(state: State) -> tuple[State, jax.Array]:
        key, play_key = jax.random.split(state.key)
        data = play(state.params, play_key, cfg.meta_batch_size, cfg.trial_episodes)
        return learn(state._replace(key=key), data, cfg), data["reward"].mean()

    return jax.jit(update)


def trainer(net: GRUPolicy, cfg: RL2Config, device: str, threads: int) -> Callable[[], float]:
    """One update at each call, from a network's parameters; returns the mean reward of a pull.

    Args:
        net: where training begins.
        cfg: settings.
        device: "cpu" or "cuda".
        threads: of XLA on a CPU; the first trainer of a process decides.

    Raises:
        RuntimeError: JAX finds no such device.
    """
    os.environ.setdefault("PJRT_NPROC", str(threads))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or no GPU memory is left for the other sides
    state, update = jax.device_put(begin(parameters(net)), jax.devices(device)[0]), make_update(cfg)

    def work() -> float:
        nonlocal state
        state, reward = update(state)
        return float(jax.block_until_ready((state, reward))[1])

    return work
