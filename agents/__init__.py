"""The built-in agents. Each agent is one file. Importing this package registers all agents and imports none of them."""

if __name__ != "metarl.agents":
    raise ImportError("import these agents as metarl.agents: as a top-level 'agents' everything would load twice")

from metarl.families.registry import register_agent

register_agent("anil", "metarl.agents.gradient.anil:ANIL", kind="gradient")
register_agent("cavia", "metarl.agents.gradient.cavia:CAVIA", kind="gradient")
register_agent("e_maml", "metarl.agents.gradient.e_maml:EMAML", kind="gradient")
register_agent("first_explore", "metarl.agents.memory.first_explore:FirstExplore", kind="memory")
register_agent("fomaml", "metarl.agents.gradient.fomaml:FOMAML", kind="gradient")
register_agent("imaml", "metarl.agents.gradient.imaml:IMAML", kind="gradient")
register_agent("maml", "metarl.agents.gradient.maml:MAML", kind="gradient")
register_agent("maml_pp", "metarl.agents.gradient.maml_pp:MAMLPlusPlus", kind="gradient")
register_agent("meta_sgd", "metarl.agents.gradient.meta_sgd:MetaSGD", kind="gradient")
register_agent("multi_task", "metarl.agents.baselines.multi_task:MultiTask", kind="baselines")
register_agent("oracle", "metarl.agents.baselines.oracle:Oracle", kind="baselines")
register_agent("pretrained", "metarl.agents.baselines.pretrained:Pretrained", kind="baselines")
register_agent("promp", "metarl.agents.gradient.promp:ProMP", kind="gradient")
register_agent("random", "metarl.agents.baselines.random:Random", kind="baselines")
register_agent("reptile", "metarl.agents.gradient.reptile:Reptile", kind="gradient")
register_agent("rl2", "metarl.agents.memory.rl2:RL2", kind="memory")
register_agent("sb3", "metarl.agents.baselines.sb3:SB3", kind="Stable-Baselines3")
register_agent("sb3_pretrained", "metarl.agents.baselines.sb3:SB3Pretrained", kind="Stable-Baselines3")
register_agent("scratch", "metarl.agents.baselines.scratch:Scratch", kind="baselines")
register_agent("shared_trunk", "metarl.agents.strategies.shared_trunk:SharedTrunk", kind="strategies")
register_agent("task_conditioned", "metarl.agents.baselines.multi_task:TaskConditioned", kind="baselines")
register_agent("focal", "metarl.agents.inference.focal:FOCAL", kind="task inference")
register_agent("pearl", "metarl.agents.inference.pearl:PEARL", kind="task inference")
register_agent("prototypes", "metarl.agents.inference.prototypes:Prototypes", kind="task inference")
register_agent("varibad", "metarl.agents.inference.varibad:VariBAD", kind="task inference")
register_agent(
    "varibad_off_policy", "metarl.agents.inference.varibad_off_policy:OffPolicyVariBAD", kind="task inference"
)
register_agent("grbal", "metarl.agents.model_based.grbal:GrBAL", kind="model-based")
register_agent("rebal", "metarl.agents.model_based.rebal:ReBAL", kind="model-based")
register_agent("clustered", "metarl.agents.strategies.clustered:Clustered", kind="strategies")
register_agent("mixture", "metarl.agents.strategies.mixture:Mixture", kind="strategies")
register_agent("learned_selector", "metarl.agents.strategies.learned_selector:LearnedSelector", kind="strategies")
register_agent("selector", "metarl.agents.strategies.selector:Selector", kind="strategies")
register_agent("beb", "metarl.agents.classical.tabular:BEB", kind="classical MDPs")
register_agent("epsilon_greedy_mdp", "metarl.agents.classical.tabular:EpsilonGreedyMDP", kind="classical MDPs")
register_agent("greedy_mdp", "metarl.agents.classical.tabular:GreedyMDP", kind="classical MDPs")
register_agent("opsrl", "metarl.agents.classical.tabular:OPSRL", kind="classical MDPs")
register_agent("psrl", "metarl.agents.classical.tabular:PSRL", kind="classical MDPs")
register_agent("ucrl2", "metarl.agents.classical.ucrl2:UCRL2", kind="classical MDPs")
register_agent("thompson_sampling", "metarl.agents.classical.bandits:ThompsonSampling", kind="classical bandits")
register_agent(
    "gaussian_thompson_sampling",
    "metarl.agents.classical.bandits:GaussianThompsonSampling",
    kind="classical bandits",
)
register_agent(
    "optimistic_thompson_sampling",
    "metarl.agents.classical.bandits:OptimisticThompsonSampling",
    kind="classical bandits",
)
register_agent("ucb1", "metarl.agents.classical.bandits:UCB1", kind="classical bandits")
register_agent("epsilon_greedy", "metarl.agents.classical.bandits:EpsilonGreedy", kind="classical bandits")
register_agent("greedy", "metarl.agents.classical.bandits:Greedy", kind="classical bandits")
register_agent("gittins", "metarl.agents.classical.gittins:Gittins", kind="classical bandits")
