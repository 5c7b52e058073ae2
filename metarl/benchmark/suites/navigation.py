"""2-D navigation: the protocol of the MAML paper, and every gradient-based method with dense and with sparse rewards.

`paper` is the protocol of Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3): 40 tasks x 20 episodes x 100
steps, 100 meta-updates, TRPO, 40 held-out goals. `paper-400` evaluates the same trainings on 400 goals. `dense` and
`sparse` compare the methods after 50 meta-updates on 20 tasks x 10 episodes; `sparse` rewards only close to goals on a
semicircle. `dense-k8` has eight steps of `maml`, without and with a pull towards the initial parameters. Each method
has the defaults of its agent but for what is written here. The rows -tuned fine-tune with another step size, chosen on
train goals (of `shared_trunk` on dense ones), because nothing in pre-training makes the default fit
(experiments/LOG.md). `multi_task` and `task_conditioned` are policies that do not adapt, trained on as many environment
steps as the methods.

The studies -ppo and -sac are the yardstick: Stable-Baselines3 learns 10 of the held-out goals from scratch, with 1, 10
and 100 times the 12,000 environment steps of three adaptation steps (SAC, which is slower, with 1 and 10 times). Its
settings were chosen on two train goals.

`semicircle-n3` is the sparse point robot of Rakelly et al. (2019, arXiv:1903.08254) with the 100 steps and the three
episodes of Zintgraf et al. (2020, arXiv:1910.08348), for agents that live through a trial.
"""

from __future__ import annotations

from typing import Any

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_SEEDS = (0, 1, 2, 3, 4)
_DENSE, _SPARSE = "metarl/PointNavigation-v0", "metarl/PointNavigation-v0:semicircle100"
_DECAY = {"inner_lr_schedule": (1.0, 0.35, 0.175)}  # chosen on train goals: experiments/LOG.md
_HALVED = {"inner_lr_schedule": (1.0, 0.5, 0.25)}
_BATCH = {"meta_batch_size": 20, "episodes": 10}
_TRPO = _BATCH | {"fvp_stride": 5}
_STEPS2 = _TRPO | {"inner_steps": 2, "multi_step": True}


# from scratch: an adaptation step is as long as one of the methods, 4,000 environment steps
_PPO = {"steps": 4000, "num_envs": 20, "algorithm_kwargs": {"n_steps": 100, "batch_size": 500, "learning_rate": 1e-3}}
_SAC_KWARGS = {"gradient_steps": 2, "learning_rate": 3e-3, "policy_kwargs": {"net_arch": [64, 64]}}
_SAC = {"algorithm": "SAC", "steps": 4000, "num_envs": 20, "algorithm_kwargs": {"learning_starts": 200} | _SAC_KWARGS}


def _from_scratch(family: str, algorithm: str, settings: dict[str, Any], k: tuple[int, ...]) -> Study:
    """A Stable-Baselines3 algorithm in each task, whose initial parameters the seed decides."""
    protocol = Protocol(k=(0, *k), tasks=10, episodes=20)
    return Study(family, {algorithm: Entry("sb3", settings)}, protocol, (0,))


def _tuned(trained: str, size: float) -> Entry:
    """The trained agents of an entry, which adapt with another step size."""
    return Entry(trained, runs_of=trained, evaluated_with={"inner_lr": size})


def _methods(fine_tuning: float) -> dict[str, Entry]:
    """All methods that adapt by gradients, and what they are compared with; the step size of `pretrained-tuned`."""
    return {
        "naive": Entry("maml", _TRPO, 50),
        "lvc": Entry("maml", _TRPO | {"estimator": "lvc"}, 50),
        "dice": Entry("maml", _TRPO | {"estimator": "dice"}, 50),
        "loaded-dice": Entry("maml", _TRPO | {"estimator": "loaded_dice"}, 50),
        "fomaml": Entry("fomaml", _TRPO, 50),
        "e-maml": Entry("e_maml", _TRPO, 50),
        "anil": Entry("anil", _TRPO, 50),
        "meta-sgd": Entry("meta_sgd", _TRPO, 50),
        "cavia": Entry("cavia", _TRPO, 50),
        "promp": Entry("promp", _BATCH, 50),
        "maml-pp": Entry("maml_pp", _BATCH | {"schedule_iterations": 50}, 50),
        "reptile": Entry("reptile", _BATCH, 50),
        "pretrained": Entry("pretrained", _TRPO, 50),
        "pretrained-tuned": _tuned("pretrained", fine_tuning),
        "multi_task": Entry("multi_task", iterations=100),
        "task_conditioned": Entry("task_conditioned", iterations=100),
        "scratch": Entry("scratch", every_seed=True),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
        "imaml": Entry("imaml", _TRPO, 50),
        "shared_trunk": Entry("shared_trunk", _TRPO, 50),
        "shared_trunk-tuned": _tuned("shared_trunk", 0.1),
    }


_TRIALS = {"trial_episodes": 3, "meta_batch_size": 64, "normalize_rewards": True, "gae_lambda": 0.95}
_TRIALS |= {"entropy_coef": 0.005, "learning_rate": 1e-3}
_EXPLORING = {"entropy_coef": 0.02, "entropy_anneal": 0.5}  # or a seed searches a part alone (experiments/LOG.md)
_BELIEF = {"policy_hidden": (64, 64), "kl_coef": 0.1, "normalize_features": True, "anneal_iterations": 400}


def _semicircle() -> Study:
    """Agents that find the goal in the first episode and go straight to it in the second and third."""
    entries = {
        "rl2": Entry("rl2", _TRIALS | {"hidden": 64, "anneal_iterations": 600}, 600),
        "varibad": Entry("varibad", _TRIALS | _BELIEF, 400),
        "varibad-exploring": Entry("varibad", _TRIALS | _BELIEF | _EXPLORING, 400),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }
    return Study(_SPARSE, entries, Protocol(k=(3,), tasks=400, episodes=1, modes=("sampled",)), checkpoint_every=50)


suite = Suite(
    "navigation",
    {
        "paper": Study(
            _DENSE,
            {
                "maml": Entry("maml", iterations=100),
                "maml-stride5": Entry("maml", {"fvp_stride": 5}, 100),
                "maml-decay": Entry("maml", runs_of="maml", evaluated_with=_DECAY),
                "steps2": Entry("maml", _STEPS2, 100, evaluated_with=_HALVED),
            },
            Protocol(k=3, tasks=40, episodes=20),
            _SEEDS,
        ),
        "paper-400": Study(
            _DENSE,
            {
                "maml-decay": Entry("maml", runs_of="paper/maml", evaluated_with=_DECAY),
                "steps2": Entry("maml", runs_of="paper/steps2", evaluated_with=_HALVED),
            },
            Protocol(k=3, tasks=400, episodes=20),
            _SEEDS,
        ),
        "dense": Study(_DENSE, _methods(fine_tuning=0.25), Protocol(k=3, tasks=40, episodes=20), _SEEDS),
        "dense-k8": Study(
            _DENSE,
            {
                "naive": Entry("maml", runs_of="dense/naive"),
                "naive-l2": Entry("maml", runs_of="dense/naive", evaluated_with={"inner_l2": 0.3}),
            },
            Protocol(k=8, tasks=40, episodes=20),
            _SEEDS,
        ),
        "sparse": Study(_SPARSE, _methods(fine_tuning=0.1), Protocol(k=3, tasks=40, episodes=20), _SEEDS),
        "semicircle-n3": _semicircle(),
        "dense-ppo": _from_scratch(_DENSE, "ppo", _PPO, (1, 3, 10, 30, 100, 300)),
        "dense-sac": _from_scratch(_DENSE, "sac", _SAC, (1, 3, 10, 30)),
        "sparse-ppo": _from_scratch(_SPARSE, "ppo", _PPO, (1, 3, 10, 30, 100, 300)),
        "sparse-sac": _from_scratch(_SPARSE, "sac", _SAC, (1, 3, 10, 30)),
    },
    "MAML by its paper's protocol, the gradient-based methods with dense and with sparse rewards, RL2 and VariBAD",
)
