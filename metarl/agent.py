"""All names that the author of an agent imports: the contract, its data, and the building blocks of agents.

    import metarl
    from metarl.agent import Agent, Budget, PolicyHead

Each name is documented in its own module; docs/reference/agents.md lists them.
"""

from __future__ import annotations

from metarl.agent_base import (
    Agent,
    AgentState,
    Budget,
    Feedback,
    Rollout,
    SimulatorState,
    Step,
    Trials,
    adapts_between_episodes,
    make_agent,
)
from metarl.config import Range
from metarl.errors import DivergedWarning, InvalidValueError, did_you_mean
from metarl.families.family import Family, Queries, TorchFamily
from metarl.families.tasks import Tasks
from metarl.global_rng import seeded
from metarl.learning.action_distributions import Categorical, Distribution, Gaussian, PolicyHead
from metarl.learning.adam import adam_step, adam_tensors, load_adam, load_net, net_tensors
from metarl.learning.encoders import ObservationEncoder, RunningNorm, TaskEncoder
from metarl.learning.gradient.implicit import ImplicitObjective, ProximalLoop
from metarl.learning.gradient.inner_loop import InnerLoop, warn_of_failed
from metarl.learning.gradient.meta_gradient import OuterLoss
from metarl.learning.gradient.outer_losses import ClippedLoss, SurrogateLoss, probability_ratio
from metarl.learning.gradient.outer_optimizers import AdamEpochs, OuterOptimizer, TrustRegion, TrustRegionConfig
from metarl.learning.gradient.policies import MLPPolicy
from metarl.learning.gradient.policy_gradient import Batch, prepare
from metarl.learning.gradient.step_sizes import FixedSizes, Schedule, SizePerParameter, SizePerTensorAndStep, StepSizes
from metarl.learning.images import ImageShape, make_seeing_memory
from metarl.learning.inference.belief_model import BeliefConfig, BeliefModel
from metarl.learning.inference.beliefs import Belief, RecurrentEncoder
from metarl.learning.inference.decoders import Decoded, StepDecoder, negative_elbo
from metarl.learning.inference.metric import Distance, EmbeddingSum, MeanEncoder, metric_loss
from metarl.learning.inference.products import Factors, ProductEncoder
from metarl.learning.inference.trial_replay import TrialReplay
from metarl.learning.memory import GRU, LSTM, Transformer, make_memory
from metarl.learning.model_based.models import GradientModel, Prediction, RecurrentModel, TaskModel
from metarl.learning.model_based.planning import PlanConfig, Planner
from metarl.learning.model_based.transitions import TransitionLayout
from metarl.learning.networks import FeedForward, HyperFeedForward, Hypernetwork, Params, init_mlp, mlp
from metarl.learning.off_policy.context_sac import ContextConfig, ContextInputs, ContextSAC, context_features
from metarl.learning.off_policy.sac import SAC, SACBatch, SACConfig, SquashedGaussian
from metarl.learning.off_policy.transitions import TransitionReplay
from metarl.learning.ppo import (
    PPO,
    AuxiliaryLoss,
    Given,
    Outputs,
    TrialBatch,
    clipped_surrogate,
    remaining,
    standardize_together,
)
from metarl.learning.ppo_config import PPOConfig, TrialPPOConfig, sized
from metarl.learning.returns import discounted_returns, gae, standardize
from metarl.learning.trial_memory import TrialInputs, TrialMemory
from metarl.rng import Rng, fold_in, make_key

__all__ = [
    "GRU",
    "LSTM",
    "PPO",
    "SAC",
    "AdamEpochs",
    "Agent",
    "AgentState",
    "AuxiliaryLoss",
    "Batch",
    "Belief",
    "BeliefConfig",
    "BeliefModel",
    "Budget",
    "Categorical",
    "ClippedLoss",
    "ContextConfig",
    "ContextInputs",
    "ContextSAC",
    "Decoded",
    "Distance",
    "Distribution",
    "DivergedWarning",
    "EmbeddingSum",
    "Factors",
    "Family",
    "FeedForward",
    "Feedback",
    "FixedSizes",
    "Gaussian",
    "Given",
    "GradientModel",
    "HyperFeedForward",
    "Hypernetwork",
    "ImageShape",
    "ImplicitObjective",
    "InnerLoop",
    "InvalidValueError",
    "MLPPolicy",
    "MeanEncoder",
    "ObservationEncoder",
    "OuterLoss",
    "OuterOptimizer",
    "Outputs",
    "PPOConfig",
    "Params",
    "PlanConfig",
    "Planner",
    "PolicyHead",
    "Prediction",
    "ProductEncoder",
    "ProximalLoop",
    "Queries",
    "Range",
    "RecurrentEncoder",
    "RecurrentModel",
    "Rng",
    "Rollout",
    "RunningNorm",
    "SACBatch",
    "SACConfig",
    "Schedule",
    "SimulatorState",
    "SizePerParameter",
    "SizePerTensorAndStep",
    "SquashedGaussian",
    "Step",
    "StepDecoder",
    "StepSizes",
    "SurrogateLoss",
    "TaskEncoder",
    "TaskModel",
    "Tasks",
    "TorchFamily",
    "Transformer",
    "TransitionLayout",
    "TransitionReplay",
    "TrialBatch",
    "TrialInputs",
    "TrialMemory",
    "TrialPPOConfig",
    "TrialReplay",
    "Trials",
    "TrustRegion",
    "TrustRegionConfig",
    "adam_step",
    "adam_tensors",
    "adapts_between_episodes",
    "clipped_surrogate",
    "context_features",
    "did_you_mean",
    "discounted_returns",
    "fold_in",
    "gae",
    "init_mlp",
    "load_adam",
    "load_net",
    "make_agent",
    "make_key",
    "make_memory",
    "make_seeing_memory",
    "metric_loss",
    "mlp",
    "negative_elbo",
    "net_tensors",
    "prepare",
    "probability_ratio",
    "remaining",
    "seeded",
    "sized",
    "standardize",
    "standardize_together",
    "warn_of_failed",
]
