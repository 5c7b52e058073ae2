"""Plant a bug for each pitfall of the field, one at a time, in a copy of the code, and see a test fail.

    python tests/plant_bugs.py              # all of them
    python tests/plant_bugs.py lvc time     # those whose name contains a word
    python tests/plant_bugs.py --sample 6   # six, which the hash of the commit chooses

One runs on each core. Exit code 1 if any bug survives. The pitfalls are numbered as in docs/pitfalls.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Bug(NamedTuple):
    """One planted bug."""

    name: str
    file: str
    old: str
    new: str
    test: str


BUGS = (
    Bug(
        "the oracle policy is given another row's task in training",
        "agents/baselines/multi_task.py",
        'self._given(rollout, state["given"])',
        'self._given(rollout, state["given"].roll(1, 0))',
        "agents/test_multi_task",
    ),
    Bug(
        "KL to the fixed prior in place of the belief before",
        "metarl/learning/inference/beliefs.py",
        "(torch.cat([torch.zeros_like(v[:1]), v[:-1]]) for v in self)",
        "(torch.zeros_like(v) for v in self)",
        "learning/test_inference",
    ),
    Bug(
        "the decoder sees the future alone",
        "metarl/learning/inference/decoders.py",
        "((squared * valid).sum(1) * weight)",
        "((squared * valid * (torch.arange(len(x)) >= terms.view(-1, 1)).unsqueeze(-1)).sum(1) * weight)",
        "learning/test_inference",
    ),
    Bug(
        "the policy's gradient flows into the encoder",
        "agents/inference/varibad.py",
        "self.ppo = PPO(self.name, family, config, self.net)",
        "self.net.encoder = self.model.encoder; self.ppo = PPO(self.name, family, config, self.net)",
        "agents/test_varibad",
    ),
    Bug(
        "the belief is not reset between episodes' trials",
        "metarl/learning/trial_memory.py",
        "**self.memory.begin(rows, device)}",
        "**{k: torch.ones_like(v) for k, v in self.memory.begin(rows, device).items()}}",
        "agents/test_varibad",
    ),
    Bug(
        "decoders see the next episode's start as where a step led",
        "metarl/learning/inference/belief_model.py",
        'encode(rollout.extras["final_obs"])',
        "encode(torch.cat([rollout.obs[1:], rollout.last_obs.unsqueeze(0)]))",
        "agents/test_varibad",
    ),
    Bug(
        "the exact posterior is not reset between trials",
        "metarl/families/family.py",
        "possible & (agrees | ~seen.valid[t].unsqueeze(1))",
        "possible & (agrees | ~seen.valid[t].unsqueeze(1)).all(0)",
        "envs/test_posteriors",
    ),
    Bug(
        "the exact posterior knows what the step before which it is compared pays",
        "envs/bandits/bernoulli_bandit.py",
        "(counts.cumsum(0) - counts for counts in (pulled, paid))",
        "(counts.cumsum(0) for counts in (pulled, paid))",
        "envs/test_posteriors",
    ),
    Bug(
        "beliefs are compared one step late",
        "metarl/evaluation/belief.py",
        "agent.believed_rewards(r, queries) for r in rollouts])",
        "agent.believed_rewards(r, queries) for r in rollouts]).roll(1, 0)",
        "evaluation/test_belief",
    ),
    Bug(
        "the exact posterior forgets a trial's earlier episodes",
        "metarl/evaluation/belief.py",
        "exact = family.posterior(",
        "exact = (lambda h: torch.cat([family.posterior(History(*(v[t : t + family.horizon] for v in h)))"
        " for t in range(0, len(h.valid), family.horizon)]))(",
        "evaluation/test_belief",
    ),
    Bug(
        "a belief about a task from the context of another",
        "metarl/learning/off_policy/context_sac.py",
        "self.context.sample(places, ",
        "self.context.sample(places.roll(1), ",
        "agents/test_contexts",
    ),
    Bug(
        "the critics' gradient flows into FOCAL's encoder",
        "agents/inference/focal.py",
        "z[: len(places)].detach()",
        "z[: len(places)]",
        "agents/test_focal",
    ),
    Bug(
        "a task's embedding is not reset between trials",
        "agents/inference/focal.py",
        "none = torch.zeros(rows, self.config.latent, device=self.device)",
        "none = torch.ones(rows, self.config.latent, device=self.device)",
        "agents/test_focal",
    ),
    Bug(
        "a context sees the dense reward",
        "metarl/learning/off_policy/context_sac.py",
        "self.context.add(places, kept, valid)",
        'self.context.add(places, kept | {"reward": self._learning_reward(rollout)}, valid)',
        "agents/test_contexts",
    ),
    Bug(
        "contexts of one task are pushed apart",
        "metarl/learning/inference/metric.py",
        "torch.where(same, 0.0, 1.0 / (d + _FAR))",
        "torch.where(itself, 0.0, 1.0 / (d + _FAR))",
        "learning/test_metric",
    ),
    Bug(
        "the posterior is not reset between trials",
        "agents/inference/pearl.py",
        "none = torch.zeros(rows, self.config.latent, device=self.device)",
        "none = torch.ones(rows, self.config.latent, device=self.device)",
        "agents/test_pearl",
    ),
    Bug(
        "off-policy values stop at every episode's end",
        "agents/inference/varibad_off_policy.py",
        "terminated=~follows[valid],",
        "terminated=(torch.arange(1, len(x) + 1) % self.family.horizon == 0).unsqueeze(1).expand_as(valid)[valid],",
        "agents/test_varibad_off_policy",
    ),
    Bug(
        "a transition leads to the belief that it began with",
        "agents/inference/varibad_off_policy.py",
        "next_x=torch.cat([x[1:], x[:1]])[valid],",
        "next_x=x[valid],",
        "agents/test_varibad_off_policy",
    ),
    Bug(
        "z is drawn anew at every step",
        "agents/inference/pearl.py",
        "Rng(fold_in(rng.keys, _Z)).normal(self.config.latent)",
        "rng.normal(self.config.latent)",
        "agents/test_pearl",
    ),
    Bug(
        "the targets are not updated",
        "metarl/learning/off_policy/sac.py",
        "torch._foreach_lerp_(list(targets), list(sources), rate)",
        "pass",
        "learning/test_off_policy",
    ),
    Bug(
        "the larger of the two critics",
        "metarl/learning/off_policy/sac.py",
        "return q.amin(0) - temperature * log_prob",
        "return q.amax(0) - temperature * log_prob",
        "learning/test_off_policy",
    ),
    Bug(
        "a squashed action's density without the slope of tanh",
        "metarl/learning/off_policy/sac.py",
        "self.before.log_prob(u) - log_slope.sum(-1)",
        "self.before.log_prob(u)",
        "learning/test_off_policy",
    ),
    Bug(
        "transitions of a task that made room are still drawn",
        "metarl/learning/off_policy/transitions.py",
        "self.added[places] = 0",
        "pass",
        "learning/test_off_policy",
    ),
    Bug(
        "a prototype holds the image that it is compared with",
        "agents/inference/prototypes.py",
        "example.cumsum(0) - example, label.cumsum(0) - label",
        "example.cumsum(0), label.cumsum(0)",
        "agents/test_prototypes",
    ),
    Bug(
        "1 evaluator takes one step whatever k",
        "metarl/evaluation/playing.py",
        "in adaptation(agent, trials, grid[-1]):",
        "in adaptation(agent, trials, min(1, grid[-1])):",
        "evaluation/test_evaluate",
    ),
    Bug(
        "2 scores the episodes it adapts on",
        "metarl/engine/rollout.py",
        "make_key(purpose, _KEY_WORD[deterministic])",
        "make_key(_KEY_WORD[deterministic])",
        "evaluation/test_evaluate",
    ),
    Bug(
        "the deterministic mode draws by its new name",
        "metarl/engine/rollout.py",
        'True: "mean"}',
        'True: "deterministic"}',
        "evaluation/test_evaluate",
    ),
    Bug(
        "2 deterministic actions are sampled",
        "agents/gradient/maml.py",
        "policy.mode if deterministic else",
        "",
        "agents/test_maml",
    ),
    Bug(
        "3 LVC without its ratio",
        "metarl/learning/gradient/policy_gradient.py",
        "(log_ratio.exp() * batch.advantage",
        "(log_prob * batch.advantage",
        "learning/test_policy_gradient",
    ),
    Bug(
        "3 DiCE without earlier actions",
        "metarl/learning/gradient/policy_gradient.py",
        "so_far = history(log_ratio * (batch.weight > 0), batch.time, discount)",
        "so_far = log_ratio",
        "learning/test_policy_gradient",
    ),
    Bug(
        "3 DiCE joins episodes",
        "metarl/learning/gradient/policy_gradient.py",
        "within = (lag >= 0) & (lag <= time.transpose(1, 2).unsqueeze(-1))",
        "within = (lag >= 0) & (time.transpose(1, 2).unsqueeze(-1) >= 0)",
        "learning/test_policy_gradient",
    ),
    Bug(
        "3 DiCE without the baseline's share",
        "metarl/learning/gradient/policy_gradient.py",
        "gained = grown * (batch.advantage + batch.value)",
        "gained = grown * batch.advantage",
        "learning/test_policy_gradient",
    ),
    Bug(
        "3 line search of another loss",
        "metarl/learning/gradient/meta_gradient.py",
        "inner_step(self.inner, params, batch, alpha, log_prob)",
        "inner_step(self.inner, params, batch, alpha)",
        "learning/test_meta_gradient",
    ),
    Bug(
        "intervals that forget the seeds",
        "metarl/evaluation/intervals.py",
        "return seed_parts(scores.mean(1)) + task_parts(scores, kept)",
        "return task_parts(scores, kept)",
        "evaluation/test_intervals",
    ),
    Bug(
        "4 second-order terms dropped",
        "metarl/learning/gradient/meta_gradient.py",
        "        if self.inner.first_order:\n            return u",
        "        if True:\n            return u",
        "learning/test_meta_gradient",
    ),
    Bug(
        "4 Jacobians in the wrong order",
        "metarl/learning/gradient/meta_gradient.py",
        "alpha, grads = self.alphas[j], self.grads[j]\n        alpha_grads",
        "alpha, grads = self.alphas[j], self.grads[len(self.grads) - 1 - j]\n        alpha_grads",
        "learning/test_meta_gradient",
    ),
    Bug(
        "4 step sizes without a gradient",
        "metarl/learning/gradient/meta_gradient.py",
        "_add(out, _vjp(lambda m: self.inner.step_sizes(m, j), self.meta, alpha_grads))",
        "pass",
        "learning/test_meta_gradient",
    ),
    Bug(
        "4 step sizes missing in the metric",
        "metarl/learning/gradient/meta_gradient.py",
        "out[k] = u[k] - alpha_tangent[k] * grads[k].detach()",
        "out[k] = u[k]",
        "learning/test_meta_gradient",
    ),
    Bug(
        "4 sub-batch in the meta-gradient",
        "metarl/learning/gradient/meta_gradient.py",
        "pre = [b.rows(part) for b in self.pre]",
        "pre = [b.rows(part).thinned(self.stride, self.inner.whole_episodes) for b in self.pre]",
        "learning/test_meta_gradient",
    ),
    Bug(
        "5 parameters leak between tasks",
        "metarl/learning/gradient/meta_gradient.py",
        "params[k] - a * g for",
        "params[k] - a * g.mean(0, keepdim=True) for",
        "agents/test_maml",
    ),
    Bug(
        "5 evaluation trains theta",
        "agents/gradient/maml.py",
        "        if trials is not None:\n            warn",
        "        self.theta = {k: v[0] for k, v in params.items()}\n        if trials is not None:\n            warn",
        "agents/test_maml",
    ),
    Bug(
        "6 ends taken for starts",
        "metarl/agent_base.py",
        "return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])",
        "return self.ended",
        "engine/test_rollout",
    ),
    Bug(
        "7 variance instead of deviation",
        "metarl/learning/returns.py",
        ".sum((0, 2), keepdim=True) / count).sqrt()",
        ".sum((0, 2), keepdim=True) / count)",
        "learning/test_returns",
    ),
    Bug(
        "7 advantages of all tasks together",
        "metarl/learning/returns.py",
        "return mean, ((centred * centred).sum((0, 2), keepdim=True) / count).sqrt() + eps",
        "return mean, ((centred * centred).sum() / weight.sum()).sqrt() + eps",
        "learning/test_policy_gradient",
    ),
    Bug(
        "8 log-probabilities averaged",
        "metarl/learning/action_distributions.py",
        "return -0.5 * (z * z).sum(-1) - (self.log_std + 0.5 * _LOG_2PI).sum(-1)",
        "return -0.5 * (z * z).mean(-1) - (self.log_std + 0.5 * _LOG_2PI).mean(-1)",
        "learning/test_networks",
    ),
    Bug(
        "9 time feature not restarted",
        "metarl/agent_base.py",
        "return t - started.cummax(0).values",
        "return t - 0 * started",
        "learning/test_policy_gradient",
    ),
    Bug(
        "9 padding in the baseline's fit",
        "metarl/learning/returns.py",
        "(phi * weight.unsqueeze(-1))",
        "(phi)",
        "learning/test_returns",
    ),
    Bug(
        "10 test tasks drawn in training",
        "metarl/families/family.py",
        'return None if self.finite or has_few_tasks(self._space(split)) else _SIDES.get(split, _SIDES["test"])',
        "return None",
        "families/test_tasks",
    ),
    Bug(
        "10 train tasks accepted",
        "metarl/evaluation/evaluate.py",
        "allow_train_tasks or bool(held_out.all())",
        "True",
        "evaluation/test_evaluate",
    ),
    Bug(
        "11 memory's inputs cleared at episode ends",
        "metarl/learning/trial_memory.py",
        "torch.cat([first, given[:-1]])",
        "torch.cat([first, given[:-1] * ~rollout.ended[:-1]])",
        "agents/test_rl2",
    ),
    Bug(
        "11 reward not fed back",
        "metarl/learning/trial_memory.py",
        "reward.unsqueeze(-1), ended",
        "0 * reward.unsqueeze(-1), ended",
        "agents/test_rl2",
    ),
    Bug(
        "11 end flag dropped",
        "metarl/learning/trial_memory.py",
        "ended.unsqueeze(-1).float()], -1)",
        "0.0 * ended.unsqueeze(-1).float()], -1)",
        "agents/test_rl2",
    ),
    Bug(
        "12 returns stop at episode ends",
        "metarl/learning/ppo.py",
        '"trial_end": trial_end}',
        '"trial_end": rollout.ended[:, :, 0]}',
        "learning/test_ppo",
    ),
    Bug(
        "12 returns leak past the trial",
        "metarl/learning/ppo.py",
        "trial_end = valid & ~torch.cat([valid[1:], torch.zeros_like(valid[:1])])",
        "trial_end = torch.zeros_like(valid)",
        "learning/test_ppo",
    ),
    Bug(
        "13 cut episodes not bootstrapped",
        "metarl/learning/gradient/policy_gradient.py",
        "gae_lambda, last_value=last_value)",
        "gae_lambda)",
        "learning/test_policy_gradient",
    ),
    Bug(
        "13 bootstrap through an end",
        "metarl/learning/returns.py",
        "carry, out = discount * (~ended).to(reward.dtype), []",
        "carry, out = discount * torch.ones_like(reward), []",
        "learning/test_returns",
    ),
    Bug(
        "14 inserted step pays",
        "metarl/interop/facades.py",
        "reward[inserted], terminated[inserted], truncated[inserted] = 0.0, False, False",
        "pass",
        "interop/test_facades",
    ),
    Bug(
        "15 KL of the initial policy",
        "metarl/learning/gradient/meta_gradient.py",
        "policy = self.inner.policy(params, batch.x)\n                    loss",
        "policy = self.inner.policy(self.inner.start(meta, len(batch.x)), batch.x)\n                    loss",
        "learning/test_meta_gradient",
    ),
    Bug(
        "15 failed line search keeps the step",
        "metarl/learning/gradient/trust_region.py",
        "            return candidate, metrics | accepted\n    return theta, metrics",
        "            return candidate, metrics | accepted\n    return candidate, metrics",
        "agents/test_maml",
    ),
    Bug(
        "memory reset at episode ends",
        "metarl/learning/trial_memory.py",
        'new = {k.removeprefix("new."): v for k, v in state.items() if k.startswith("new.")}',
        "over = feedback.terminated | feedback.truncated; "
        'new = {k[4:]: v * ~over for k, v in state.items() if k.startswith("new.")}',
        "agents/test_rl2",
    ),
    Bug(
        "prior off by one",
        "envs/bandits/bernoulli_bandit.py",
        "(s + 1) / (s + f + 2)",
        "(s + 1) / (s + f + 1)",
        "envs/test_contract",
    ),
    Bug(
        "prior off by one in Thompson sampling",
        "agents/classical/bandits.py",
        "self.config.prior_a + paid",
        "1.0 + self.config.prior_a + paid",
        "agents/test_bandits",
    ),
    Bug(
        "prior off by one in the Gittins index",
        "agents/classical/gittins.py",
        "p = (s + 1) / (s + f + 2)  # [s, f]",
        "p = (s + 2) / (s + f + 3)  # [s, f]",
        "agents/test_bandits",
    ),
    Bug(
        "prior off by one in the tabular posterior",
        "agents/classical/tabular.py",
        "rng.dirichlet(1.0 + state",
        "rng.dirichlet(2.0 + state",
        "agents/test_tabular",
    ),
    Bug(
        "GRU without its reset gate's gradient",
        "metarl/learning/gru.py",
        "torch.mul(e, r, out=f[:, :, 0]).neg_().add_(e)",
        "f[:, :, 0] = 0",
        "learning/test_memory",
    ),
    Bug(
        "GRU's gradient lost between blocks of steps",
        "metarl/learning/gru.py",
        "d[-1].add_(carry)",
        "pass",
        "learning/test_memory",
    ),
    Bug(
        "CUDA's GRU without what a step passes on",
        "metarl/learning/gru.py",
        "carry = torch.addmm(d_before, d_a, w_h)",
        "carry = d_a @ w_h",
        "learning/test_memory",
    ),
    Bug(
        "rewards predicted from the next step's action",
        "agents/memory/rl2_network.py",
        "self.head.encode(trials.action))",
        "self.head.encode(trials.action.roll(-1, 0)))",
        "agents/test_rl2",
    ),
    Bug(
        "tasks drawn ahead for the iteration before",
        "metarl/runs/train.py",
        "following = ahead.submit(draw, iteration + 1)",
        "following = ahead.submit(draw, iteration)",
        "runs/test_run",
    ),
    Bug(
        "a rollout writes into what the last one left",
        "metarl/engine/torch_environments.py",
        "self.t = torch.zeros_like(self.t)",
        "self.t.zero_()",
        "engine/test_cuda_graphs",
    ),
    Bug(
        "the entropy bonus falls with the rate whatever is asked",
        "metarl/learning/ppo.py",
        "(1.0 - left) / config.entropy_anneal",
        "(1.0 - left)",
        "learning/test_ppo",
    ),
    Bug(
        "results of a stranger import what they name",
        "metarl/benchmark/rows.py",
        "with without_imports(str(folder / RESULTS)):",
        "if True:",
        "benchmark/test_cells",
    ),
    Bug(
        "a training whose weights were changed counts as done",
        "metarl/benchmark/cells.py",
        '!= found["tensors_sha256"]',
        '== ""',
        "benchmark/test_refusals",
    ),
    Bug(
        "results that somebody edited are replaced",
        "metarl/benchmark/jobs.py",
        "    refuse_changed(path)\n    path.parent",
        "    path.parent",
        "benchmark/test_refusals",
    ),
    Bug(
        "Ctrl-C interrupts the imports of a benchmark's workers",
        "metarl/benchmark/crew.py",
        "signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, ())",
        "benchmark/test_interrupts",
    ),
    Bug(
        "a resumed run begins anew",
        "metarl/benchmark/cells.py",
        "if new and entry.begins_with:",
        "if entry.begins_with:",
        "benchmark/test_cells",
    ),
    Bug(
        "a replay of other inputs",
        "metarl/engine/cuda_graphs.py",
        "outputs: Tree = graph(inputs)",
        "outputs: Tree = run(map_tensors(torch.zeros_like, inputs))",
        "engine/test_cuda_graphs",
    ),
    Bug(
        "transformer sees the future",
        "metarl/learning/memory.py",
        "mask, is_causal=mask is None)",
        "mask)",
        "learning/test_memory",
    ),
    Bug(
        "resumed parameters in another order",
        "agents/gradient/maml.py",
        "        for k, v in self.theta.items():\n            v.copy_(tensors[k])",
        "        self.theta = {k: v.to(self.device) for k, v in tensors.items() if k in self.theta}",
        "agents/test_maml",
    ),
    Bug(
        "ANIL adapts the body",
        "agents/gradient/anil.py",
        "FixedSizes(self.schedule, self.policy.last_layer)",
        "FixedSizes(self.schedule)",
        "agents/test_gradient_variants",
    ),
    Bug(
        "CAVIA adapts the network",
        "agents/gradient/cavia.py",
        '("context",)',
        '("context", "b0")',
        "agents/test_gradient_variants",
    ),
    Bug(
        "multi-step weight on the wrong step",
        "agents/gradient/maml_pp.py",
        "[0.0, *[share] * (steps - 1), 1.0 - (steps - 1) * share]",
        "[0.0, 1.0 - (steps - 1) * share, *[share] * (steps - 1)]",
        "agents/test_gradient_variants",
    ),
    Bug(
        "E-MAML credits the adapted actions",
        "agents/gradient/e_maml.py",
        "        if last:\n            return self.post_loss",
        "        if not last:\n            return self.post_loss",
        "agents/test_gradient_variants",
    ),
    Bug(
        "ProMP without its clip",
        "metarl/learning/gradient/outer_losses.py",
        "torch.minimum(ratio * batch.advantage, inside * batch.advantage)",
        "(ratio * batch.advantage)",
        "agents/test_gradient_variants",
    ),
    Bug(
        "Adam's moments kept after a failed step",
        "metarl/learning/gradient/outer_optimizers.py",
        "self.load_tensors(moments)",
        "pass",
        "agents/test_gradient_variants",
    ),
    Bug(
        "Reptile moves to the sum",
        "agents/gradient/reptile.py",
        "v.mean(0) - self.theta[k]",
        "v.sum(0) - self.theta[k]",
        "agents/test_gradient_variants",
    ),
    Bug(
        "failed inner step kept",
        "metarl/learning/gradient/inner_loop.py",
        "return {k: torch.where(finite.view(-1, *[1] * (v.dim() - 1)), v, params[k]) for k, v in new.items()}, finite",
        "return new, finite",
        "agents/test_maml",
    ),
    Bug(
        "failed tasks teach",
        "agents/gradient/maml.py",
        "self.meta_update([b.rows(finite) for b in pre], post.rows(finite))",
        "self.meta_update(pre, post)",
        "agents/test_maml",
    ),
    Bug(
        "a seed as task draws another layout",
        "metarl/families/gym_family.py",
        "            seed = int(*task.values())\n",
        "            pass\n",
        "families/test_any_gymnasium",
    ),
    Bug(
        "derived attributes stay behind",
        "metarl/families/attributes.py",
        "(env).items():\n            setattr(env, name, value)\n",
        "(env).items():\n            pass\n",
        "families/test_any_gymnasium",
    ),
    Bug(
        "pixels are not scaled",
        "metarl/families/building.py",
        "dtype=np.float32) / scale, seen)",
        "dtype=np.float32), seen)",
        "families/test_any_gymnasium",
    ),
    Bug(
        "processes share one key",
        "metarl/engine/workers.py",
        "keys[share].cpu().numpy()",
        "keys[:1].expand(share.stop - share.start).cpu().numpy()",
        "families/test_any_gymnasium",
    ),
    Bug(
        "a worker that hangs in C outlives its parent",
        "metarl/engine/workers.py",
        "if _LIBC is not None and self.in_main_thread:",
        "if False:",
        "engine/test_misbehaviour",
    ),
    Bug(
        "an exception's constructor is called again",
        "metarl/engine/workers.py",
        "cls.__new__(cls, *arguments)",
        "cls(*arguments)",
        "engine/test_misbehaviour",
    ),
    Bug(
        "what step returns is not looked at",
        "metarl/families/returned.py",
        "            self._check(check_step, out)\n",
        "            pass\n",
        "engine/test_misbehaviour",
    ),
    Bug(
        "adopted tasks in another order",
        "metarl/families/legacy.py",
        "out[key], at = _unflatten(row[at : at + size], part), at + size",
        "out[key], at = _unflatten(row[:size], part), at + size",
        "families/test_any_gymnasium",
    ),
    Bug(
        "adopting reseeds the global generators",
        "metarl/global_rng.py",
        "            np.random.set_state(kept[1])  # noqa: NPY002\n",
        "            pass\n",
        "families/test_any_gymnasium",
    ),
    Bug(
        "a switch comes an episode late",
        "metarl/families/switching.py",
        "return (episode // self.every) % self.phases",
        "return ((episode - 1) // self.every) % self.phases",
        "families/test_switching",
    ),
    Bug(
        "the signal is told too long",
        "metarl/families/switching.py",
        '(state["episode"] % self.every == 0)',
        '(state["episode"] % self.every < 2)',
        "families/test_switching",
    ),
    Bug(
        "test schedules hold train tasks",
        "metarl/families/switching.py",
        "flat = self.inner.tasks_at(split,",
        'flat = self.inner.tasks_at("train",',
        "families/test_switching",
    ),
    Bug(
        "a baseline that interpolates",
        "metarl/learning/returns.py",
        ">= phi.shape[-1]\n",
        ">= 0\n",
        "learning/test_returns",
    ),
    Bug(
        "velocity by the time step",
        "envs/mujoco/mujoco_core.py",
        "float(self.model.opt.timestep) * robot.frame_skip",
        "float(self.model.opt.timestep)",
        "envs/test_mujoco",
    ),
    Bug(
        "evaluation begins a schedule anew",
        "metarl/engine/rollout.py",
        "adaptation_step * _episodes_per_step(agent) if self.family.switches else 0",
        "0",
        "families/test_switching",
    ),
    Bug(
        "fractions as seeds",
        "metarl/families/gym_family.py",
        "not (isinstance(dist, Integers) or whole)",
        "False",
        "families/test_any_gymnasium",
    ),
    Bug(
        "the memory is told expected rewards",
        "metarl/learning/trial_memory.py",
        "self.after(rollout.action, rollout.reward, rollout.ended)",
        "self.after(rollout.action, rollout.expected_reward, rollout.ended)",
        "agents/test_rl2",
    ),
    Bug(
        "expected rewards are not learned from",
        "metarl/learning/ppo.py",
        "rollout.expected_reward if self.config.expected_rewards else rollout.reward",
        "rollout.reward",
        "learning/test_ppo",
    ),
    Bug(
        "the value sees another trial's task",
        "metarl/learning/ppo.py",
        "self.net.values({k: v[:, rows] for k, v in given.items()})",
        "self.net.values({k: v[:, rows.flip(0)] for k, v in given.items()})",
        "learning/test_ppo",
    ),
    Bug(
        "another trial's task is inferred",
        "agents/memory/rl2.py",
        "self.encode_task(tasks, self.device).unsqueeze(0)",
        "self.encode_task(tasks, self.device).flip(0).unsqueeze(0)",
        "agents/test_rl2",
    ),
    Bug(
        "PPO clips losses as well as gains",
        "metarl/learning/ppo.py",
        "torch.minimum(ratio * advantage, ",
        "torch.minimum(ratio.clamp(1 - clip, 1 + clip) * advantage, ",
        "learning/test_ppo",
    ),
    Bug(
        "an auxiliary loss without its weight",
        "metarl/learning/ppo.py",
        "loss + extra.coef * error",
        "loss + error",
        "learning/test_ppo",
    ),
    Bug(
        "rewards are scaled by the last batch's returns alone",
        "metarl/learning/ppo.py",
        "self.return_moments += torch.stack(",
        "self.return_moments = torch.stack(",
        "learning/test_ppo",
    ),
    Bug(
        "PPO deals the same minibatches in every epoch",
        "metarl/learning/ppo.py",
        'make_key(key, "minibatch", epoch)',
        'make_key(key, "minibatch")',
        "learning/test_ppo",
    ),
    Bug(
        "a family reports another reward than it pays",
        "envs/grids/tabular_mdp.py",
        '{"expected_reward": mean}',
        '{"expected_reward": task["reward"].mean((1, 2))}',
        "contract/test_family_contract",
    ),
    Bug(
        "steps to the first k that reaches 90 %",
        "metarl/evaluation/intervals.py",
        "len(reached) - int(np.logical_and.accumulate(reached[::-1]).sum())",
        "int(reached.argmax())",
        "report/test_page",
    ),
    Bug(
        "the gap's seeds are drawn twice",
        "metarl/evaluation/statistics.py",
        "seed_parts(a.mean(1) - b.mean(1))",
        "seed_parts(a.mean(1)) + seed_parts(b.mean(1))",
        "report/test_page",
    ),
    Bug(
        "a line leads from step 0 on a logarithmic axis",
        "metarl/report/figures/curves.py",
        "for part in [x > 0, x <= 0] if gap else",
        "for part in",
        "report/test_figures",
    ),
    Bug(
        "two of many agents look the same",
        "metarl/report/entries.py",
        "MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]",
        "MARKERS[i % len(MARKERS)]",
        "report/test_figures",
    ),
    Bug(
        "steps from scratch are interpolated in steps",
        "metarl/evaluation/yardstick.py",
        "math.exp(math.log(steps[i - 1]) + share * math.log(steps[i] / steps[i - 1]))",
        "float(steps[i - 1] + share * (steps[i] - steps[i - 1]))",
        "evaluation/test_yardstick",
    ),
    Bug(
        "learning from scratch is compared on tasks that it did not play",
        "metarl/evaluation/yardstick.py",
        "results.per_task(mode)[:, :tasks]",
        "results.per_task(mode)",
        "report/test_yardstick",
    ),
    Bug(
        "tasks of another seed count as the same",
        "metarl/evaluation/yardstick.py",
        "drawn[0] != drawn[1] or ",
        "",
        "evaluation/test_yardstick",
    ),
    Bug(
        "a name highlights another agent",
        "metarl/report/figures/curves.py",
        "mark_agent(artist, entry.number)",
        "mark_agent(artist, 0)",
        "report/test_reading",
    ),
    Bug(
        "a wide interval sets the scale",
        "metarl/report/figures/limits.py",
        "3 * float(np.median(highs - lows))",
        "3 * float(np.max(highs - lows))",
        "report/test_reading",
    ),
    Bug(
        "figures stay white in the dark",
        "metarl/report/figures/style.py",
        're.sub(r"#[0-9a-f]{6}", _themed, style[0])',
        "style[0]",
        "report/test_page",
    ),
    Bug(
        "the page's policy refuses its own script",
        "metarl/report/markup.py",
        "hashlib.sha256(SCRIPT.encode())",
        "hashlib.sha256(SCRIPT.strip().encode())",
        "report/test_page",
    ),
    Bug(
        "a table's file has the numbers of another k",
        "metarl/report/entries.py",
        "return self.rows[self.mode][-1]",
        "return self.rows[self.mode][0]",
        "report/test_tables",
    ),
    Bug(
        "a task's returns stand at another task's parameter",
        "metarl/report/figures/comparison.py",
        "np.array([scores[part].mean() for part in parts])",
        "np.array([np.sort(scores)[part].mean() for part in parts])",
        "report/test_figures",
    ),
    Bug(
        "results keep the values of other tasks",
        "metarl/evaluation/results.py",
        'whole_axes = axes == _SCORES or name.startswith("task_values.")',
        "whole_axes = axes == _SCORES",
        "evaluation/test_evaluate",
    ),
    Bug(
        "residuals that lose their orthogonality",
        "metarl/learning/gradient/trust_region.py",
        "        r = r - earlier.T @ (earlier @ r)\n",
        "",
        "agents/test_maml",
    ),
    Bug(
        "an adaptation step rounded up",
        "agents/gradient/maml.py",
        "steps=self.config.eval_steps // envs",
        "steps=-(-self.config.eval_steps // envs)",
        "agents/test_maml",
    ),
    Bug(
        "intervals of as many seeds as there could be",
        "metarl/evaluation/intervals.py",
        "stdtrit(part.freedom,",
        "stdtrit(1e9,",
        "evaluation/test_intervals",
    ),
    Bug(
        "the seeds of two agents are not pooled",
        "metarl/evaluation/comparison.py",
        "return pooled([*seed_parts(first.mean(1)), *seed_parts(second.mean(1))])",
        "return [*seed_parts(first.mean(1)), *seed_parts(second.mean(1))]",
        "evaluation/test_comparison",
    ),
    Bug(
        "the worst tasks are those with the worst single scores",
        "metarl/evaluation/statistics.py",
        "np.sort(scores.mean(0), 0)",
        "np.sort(scores.min(0), 0)",
        "evaluation/test_statistics",
    ),
    Bug(
        "a run that ties with a threshold does not reach it",
        "metarl/evaluation/statistics.py",
        "scores[..., None] >= taus",
        "scores[..., None] > taus",
        "evaluation/test_statistics",
    ),
    Bug(
        "scores that are no numbers are loaded",
        "metarl/evaluation/results.py",
        "            found.check_numbers()\n",
        "",
        "evaluation/test_statistics",
    ),
    Bug(
        "a network whose biases overflow is taken as finite",
        "metarl/learning/gradient/inner_loop.py",
        ' * largest + params[f"b{i}"].abs().max()',
        " * largest",
        "agents/test_maml",
    ),
    Bug(
        "validation draws alike at every iteration",
        "metarl/runs/validation.py",
        '"validate", done)',
        '"validate", 0)',
        "runs/test_validation",
    ),
    Bug(
        "a resumed run keeps validations of later iterations",
        "metarl/runs/curves.py",
        "lines_before(run / FILE, end + 1,",
        "lines_before(run / FILE, end + 99,",
        "runs/test_validation",
    ),
    Bug(
        "the best checkpoint is the last of equals",
        "metarl/runs/validation.py",
        "all(returns[-1] > line.returns[-1] for",
        "all(returns[-1] >= line.returns[-1] for",
        "runs/test_validation",
    ),
    Bug(
        "the best checkpoint without adaptation",
        "metarl/runs/validation.py",
        "all(returns[-1] > line.returns[-1] for",
        "all(returns[0] > line.returns[0] for",
        "runs/test_validation",
    ),
    Bug(
        "environment steps begin at 0 after a kill",
        "metarl/runs/run.py",
        'env_steps = self._saved("env_steps")',
        "env_steps = 0",
        "runs/test_validation",
    ),
    Bug(
        "validation changes the agent's budget for good",
        "metarl/runs/validation.py",
        "        agent.config = config\n",
        "        pass\n",
        "runs/test_validation",
    ),
    Bug(
        "a session goes on with the draws of the last adaptation step",
        "metarl/interop/session.py",
        "environment_keys(self.keys, self.adaptation_steps, 1,",
        "environment_keys(self.keys, 0, 1,",
        "interop/test_session",
    ),
    Bug(
        "an adaptation step begins within an episode",
        "metarl/interop/session.py",
        "self._steps, self._time, self._is_collecting = [], 0, False",
        "self._steps, self._time = [], 0",
        "interop/test_session",
    ),
    Bug(
        "several seeds continue a run with other settings",
        "metarl/runs/run_config.py",
        "if found.get(name) != plain.get(name):",
        "if found.get(name) is None:",
        "cli/test_seeds",
    ),
    Bug(
        "a stop in the last iteration forgets its validation",
        "metarl/runs/recording.py",
        "self.done >= self.total and not self._is_validation_due()",
        "self.done >= self.total",
        "runs/test_validation",
    ),
    Bug(
        "an extended run forgets what it was",
        "metarl/runs/run.py",
        '"before": [*self.config.get("before", []), before]',
        '"before": [*self.config.get("before", []), now]',
        "runs/test_run",
    ),
    Bug(
        "a library's line is named",
        "metarl/contract/family_probe.py",
        "own = [place for place in places if place.package == home]",
        "own = places",
        "families/test_user_environments",
    ),
    Bug(
        "a visible goal is not reported",
        "metarl/contract/notes.py",
        "np.any([constant.numpy(), *linear.values()], axis=0)",
        "np.any([*linear.values()], axis=0)",
        "families/test_user_environments",
    ),
    Bug(
        "a parameter without effect trains",
        "metarl/contract/notes.py",
        "not self.differs and watched is not None and watched.ignores(name)",
        "False",
        "families/test_user_environments",
    ),
    Bug(
        "a temporary file's name can be foreseen",
        "metarl/files.py",
        'f".metarl-{secrets.token_hex(8)}.part"',
        'f".{path.name}.part"',
        "test_files",
    ),
    Bug(
        "a link in a temporary file's place is followed",
        "metarl/files.py",
        "os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL",
        "os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC",
        "test_files",
    ),
    Bug(
        "arrays of another evaluation are taken",
        "metarl/evaluation/results.py",
        'if digest_arrays(arrays) != head["arrays_sha256"]:',
        "if not head:",
        "test_files",
    ),
    Bug(
        "tasks' addresses are not hashed",
        "metarl/families/tasks.py",
        'digest_arrays({"index": self.index} | _prefixed(self.values))',
        "digest_arrays(_prefixed(self.values))",
        "test_files",
    ),
    Bug(
        "a failed training removes what was there before",
        "metarl/runs/directory.py",
        "path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)",
        "__import__('shutil').rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)",
        "runs/test_safety",
    ),
    Bug(
        "a run's file imports a module",
        "metarl/named.py",
        "sys.modules.get(module)",
        "__import__(module)",
        "runs/test_safety",
    ),
    Bug(
        "who loses the race for a run removes the winner's lock",
        "metarl/runs/run.py",
        "if self._locked:  # otherwise the lock belongs to another process",
        "if self._made.paths:",
        "runs/test_safety",
    ),
    Bug(
        "workers keep the lock of a killed training",
        "metarl/lock.py",
        "after_in_child=_forget",
        "after_in_parent=lambda: None",
        "runs/test_safety",
    ),
    Bug(
        "agents are not trained on after loading",
        "metarl/contract/agent_checks.py",
        "    for one in (new, agent):\n",
        "    for one in ():\n",
        "contract/test_agent_contract",
    ),
    Bug(
        "counters that training changes are not looked for",
        "metarl/contract/agent_checks.py",
        "    if differ:\n",
        "    if False:\n",
        "contract/test_agent_contract",
    ),
    Bug(
        "agents from outside are trained unchecked",
        "metarl/cli/training.py",
        "if not is_built_in(type(agents[0])):",
        "if False:",
        "contract/test_agent_contract",
    ),
    Bug(
        "a row's other envs are not counted as they play",
        "metarl/engine/rollout.py",
        "notify(n)",
        "notify(spec.rows)",
        "cli/test_progress",
    ),
    Bug(
        "time left without what the present iteration has taken",
        "metarl/cli/progress.py",
        "max(each, now - last.time) * rest - (now - last.time)",
        "each * rest",
        "cli/test_progress",
    ),
    Bug(
        "a benchmark takes a run that was made with other settings",
        "metarl/benchmark/cells.py",
        "        if run.config[what] != value:",
        "        if False:",
        "benchmark/test_cells",
    ),
    Bug(
        "the probability of improvement counts no draws",
        "metarl/evaluation/comparison.py",
        "+ 0.5 * (a == b)",
        "+ 0.0 * (a == b)",
        "evaluation/test_comparison",
    ),
    Bug(
        "the renderer is chosen after what may import MuJoCo",
        "metarl/cli/main.py",
        'if "watch" in arguments:',
        "if not arguments:",
        "report/test_films",
    ),
    Bug(
        "actions of a box that nothing maps are played as they are",
        "metarl/agent_base.py",
        "if not maps_actions(self):",
        "if False:",
        "contract/test_agent_contract",
    ),
    Bug(
        "an observe that is never called is not reported",
        "metarl/engine/rollout.py",
        "    check_observe(agent)\n",
        "",
        "contract/test_agent_contract",
    ),
    Bug(
        "a trial's memory is given what is not known yet",
        "metarl/learning/trial_memory.py",
        "torch.cat([first, given[:-1]])",
        "given",
        "learning/test_trial_memory",
    ),
    Bug(
        "a checkpoint without the optimizer's moments",
        "metarl/learning/adam.py",
        "return parameters | adam_tensors(optimizer, dict(net.named_parameters()))",
        "return parameters",
        "learning/test_trial_memory",
    ),
    Bug(
        "a missing docstring hides what else is wrong",
        "metarl/contract/agent_contract.py",
        "return [*found, *undocumented]",
        "return undocumented or found",
        "contract/test_agent_contract",
    ),
    Bug(
        "a learning agent without a number of tasks is clean",
        "metarl/contract/agent_contract.py",
        'and not hasattr(config, "meta_batch_size"):',
        "and config is None:",
        "contract/test_agent_contract",
    ),
    Bug(
        "a built-in base class is blamed for the user's part",
        "metarl/contract/family_probe.py",
        "if not place.is_built_in] or (places if built_in else [])",
        "if place]",
        "contract/test_agent_contract",
    ),
    Bug(
        "to_env is blamed for an axis that act forgot",
        "metarl/engine/rollout.py",
        "if len(found) == 2 + len(space):",
        "if found:",
        "contract/test_agent_contract",
    ),
    Bug(
        "a picture of floats is taken",
        "metarl/contract/picture_checks.py",
        "picture.dtype == np.uint8 and ",
        "",
        "contract/test_family_contract",
    ),
    Bug(
        "a loaded file finds no module beside it",
        "metarl/named.py",
        "[] if folder in sys.path else [folder]",
        "[]",
        "test_named",
    ),
)


def copied(target: Path) -> Path:
    """A copy of the repository without what is no code."""
    everywhere = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "results")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return everywhere(folder, names) | ({"build", "runs"} if Path(folder) == ROOT else set())

    return Path(shutil.copytree(ROOT, target, symlinks=True, ignore=left_out))


def survives(bug: Bug) -> bool:
    """Plant it in a copy and run one test file: do all tests still pass?"""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder) / "copy")
        target = copy / bug.file
        text = target.read_text()
        if text.count(bug.old) != 1:
            raise SystemExit(f"{bug.name}: {bug.file} holds {bug.old!r} {text.count(bug.old)} times, expected once")
        target.write_text(text.replace(bug.old, bug.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(copy), "TMPDIR": folder, "PYTEST_DEBUG_TEMPROOT": folder}
        done = subprocess.run(
            [*command, f"tests/{bug.test}.py"], cwd=copy, env=environment, capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise SystemExit(f"{bug.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def sample(count: int) -> list[Bug]:
    """Other bugs for another commit, the same for the same one."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return random.Random(commit.strip()).sample(BUGS, min(count, len(BUGS)))


def main() -> None:
    """Plant them, one on each core."""
    parser = argparse.ArgumentParser(description="Plant bugs in copies of the code and see tests fail.")
    parser.add_argument("words", nargs="*", help="plant the bugs whose name contains one of these; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="plant N, which the hash of the commit chooses")
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if not options.words or any(w in bug.name for w in options.words)]
    chosen = sample(options.sample) if options.sample else chosen
    alive = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for bug, survived in zip(chosen, pool.map(survives, chosen), strict=True):
            alive += survived
            print(f"{'SURVIVED' if survived else 'caught'}  {bug.name}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} planted bugs caught")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
