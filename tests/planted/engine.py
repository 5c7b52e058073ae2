"""Bugs of random numbers, rollouts and the contract between agents and trials."""

from __future__ import annotations

from planted.bug import Bug

BUGS = (
    Bug(
        "a fork of a generator loses its place",
        "metarl/rng.py",
        "return copy.copy(self)",
        "return Rng(self.keys, self.steps).seek(self._t)",
        "test_rng",
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
        "6 ends taken for starts",
        "metarl/agent_base.py",
        "return torch.cat([torch.ones_like(self.ended[:1]), self.ended[:-1]])",
        "return self.ended",
        "engine/test_rollout",
    ),
    Bug(
        "9 time feature not restarted",
        "metarl/agent_base.py",
        "return t - started.cummax(0).values",
        "return t - 0 * started",
        "learning/test_policy_gradient",
    ),
    Bug(
        "a rollout writes into what the last one left",
        "metarl/engine/torch_environments.py",
        "self.t = torch.zeros_like(self.t)",
        "self.t.zero_()",
        "engine/test_cuda_graphs",
    ),
    Bug(
        "a replay of other inputs",
        "metarl/engine/cuda_graphs.py",
        "outputs: Tree = graph(inputs)",
        "outputs: Tree = run(map_tensors(torch.zeros_like, inputs))",
        "engine/test_cuda_graphs",
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
        "adopting reseeds the global generators",
        "metarl/global_rng.py",
        "            np.random.set_state(kept[1])  # noqa: NPY002\n",
        "            pass\n",
        "families/test_any_gymnasium",
    ),
    Bug(
        "evaluation begins a schedule anew",
        "metarl/engine/rollout.py",
        "adaptation_step * _episodes_per_step(agent) if self.family.switches else 0",
        "0",
        "families/test_switching",
    ),
    Bug(
        "a row's other envs are not counted as they play",
        "metarl/engine/rollout.py",
        "notify(n)",
        "notify(spec.rows)",
        "cli/test_progress",
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
        "to_env is blamed for an axis that act forgot",
        "metarl/engine/rollout.py",
        "if len(found) == 2 + len(space):",
        "if found:",
        "contract/test_agent_contract",
    ),
)
