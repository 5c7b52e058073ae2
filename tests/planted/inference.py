"""Bugs of beliefs, of replays and off-policy learning, and of models of the task."""

from __future__ import annotations

from planted.bug import Bug

BUGS = (
    Bug(
        "a trial that is lived again goes on after an episode's end",
        "metarl/learning/trial_memory.py",
        "state = observe(state, done, played.valid[t])",
        "state = observe(state, done, None)",
        "learning/test_trial_memory",
    ),
    Bug(
        "what is known at a step is what its own episode tells",
        "metarl/learning/off_policy/context_sac.py",
        """        held.append(features(state).expand(len(rollout.reward), -1, -1))
        state = agent.adapt(state, rollout)
""",
        """        state = agent.adapt(state, rollout)
        held.append(features(state).expand(len(rollout.reward), -1, -1))
""",
        "agents/test_contexts",
    ),
    Bug(
        "decoded steps do not stand for the whole trial",
        "metarl/learning/inference/belief_model.py",
        "valid[chosen] * (steps / count)",
        "valid[chosen]",
        "learning/test_inference",
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
        "((squared * told).sum(1) * weight)",
        "((squared * told * (torch.arange(len(x)) >= terms.view(-1, 1)).unsqueeze(-1)).sum(1) * weight)",
        "learning/test_inference",
    ),
    Bug(
        "decoders see the next episode's start as where a step led",
        "metarl/learning/inference/belief_model.py",
        'encode(rollout.extras["final_obs"])',
        "encode(torch.cat([rollout.obs[1:], rollout.last_obs.unsqueeze(0)]))",
        "agents/test_varibad",
    ),
    Bug(
        "a belief about a task from the context of another",
        "metarl/learning/off_policy/context_sac.py",
        "self.context.sample(places, ",
        "self.context.sample(places.roll(1), ",
        "agents/test_contexts",
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
        "the way to the next episode's start is taken for dynamics",
        "metarl/learning/model_based/transitions.py",
        "goes_on = ~(feedback.terminated | feedback.truncated)",
        "goes_on = ~feedback.terminated",
        "agents/test_model_based",
    ),
    Bug(
        "the meta-gradient of a model leaves the inner step out",
        "metarl/learning/model_based/models.py",
        "create = torch.is_grad_enabled()",
        "create = False",
        "learning/test_model_based",
    ),
    Bug(
        "a model's tasks share one gradient step",
        "metarl/learning/model_based/models.py",
        "p - self.sizes[name] * g for",
        "p - self.sizes[name] * g.mean(0) for",
        "learning/test_model_based",
    ),
    Bug(
        "the transitions before a trial's start count in the inner step",
        "metarl/learning/model_based/models.py",
        "(change + (reward + ends) * valid)",
        "(change + reward + ends)",
        "learning/test_model_based",
    ),
    Bug(
        "planned rewards after the end of the MDP count",
        "metarl/learning/model_based/planning.py",
        "total = total + lives * reward",
        "total = total + reward",
        "learning/test_model_based",
    ),
    Bug(
        "a plan with a return that is no number is the best",
        "metarl/learning/model_based/planning.py",
        "nan_to_num(-torch.inf,",
        "nan_to_num(torch.inf,",
        "learning/test_model_based",
    ),
    Bug(
        "a model predicts in standard deviations",
        "metarl/learning/model_based/models.py",
        "reward = out[..., size] / rate[at.reward] + mean[at.reward]",
        "reward = out[..., size] + mean[at.reward]",
        "learning/test_model_based",
    ),
)
