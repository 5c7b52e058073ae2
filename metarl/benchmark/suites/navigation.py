"""2-D navigation: the protocol of the MAML paper, and every gradient-based method with dense and with sparse rewards.

`paper` is the protocol of Finn, Abbeel and Levine (2017, arXiv:1703.03400, section 5.3): 40 tasks x 20 episodes x 100
steps, 100 meta-updates, TRPO, 40 held-out goals. `paper-400` evaluates the same trainings on 400 goals. `dense` and
`sparse` compare the methods after 50 meta-updates on 20 tasks x 10 episodes; `sparse` rewards only close to goals on a
semicircle. Each method has the defaults of its agent but for what is written here.
"""

from __future__ import annotations

from metarl.benchmark.suite import Entry, Protocol, Study, Suite

_SEEDS = (0, 1, 2, 3, 4)
_DENSE, _SPARSE = "metarl/PointNavigation-v0", "metarl/PointNavigation-v0:semicircle100"
_DECAY = {"inner_lr_schedule": (1.0, 0.35, 0.175)}  # chosen on train goals: experiments/LOG.md
_HALVED = {"inner_lr_schedule": (1.0, 0.5, 0.25)}
_BATCH = {"meta_batch_size": 20, "episodes": 10}
_TRPO = _BATCH | {"fvp_stride": 5}
_STEPS2 = _TRPO | {"inner_steps": 2, "multi_step": True}


def _methods() -> dict[str, Entry]:
    """All methods that adapt by gradients, and what they are compared with."""
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
        "scratch": Entry("scratch", every_seed=True),
        "random": Entry("random"),
        "oracle": Entry("oracle"),
    }


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
        "dense": Study(_DENSE, _methods(), Protocol(k=3, tasks=40, episodes=20), _SEEDS),
        "sparse": Study(_SPARSE, _methods(), Protocol(k=3, tasks=40, episodes=20), _SEEDS),
    },
    "MAML by its paper's protocol, and fourteen gradient-based methods with dense and with sparse rewards",
)
