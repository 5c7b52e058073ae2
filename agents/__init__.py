"""The built-in agents. Each is one file; importing this package registers them and imports none."""

if __name__ != "metarl.agents":
    raise ImportError("import these agents as metarl.agents: as a top-level 'agents' everything would load twice")

from metarl.registry import register_agent

register_agent("anil", "metarl.agents.anil:ANIL", kind="gradient")
register_agent("cavia", "metarl.agents.cavia:CAVIA", kind="gradient")
register_agent("e_maml", "metarl.agents.e_maml:EMAML", kind="gradient")
register_agent("fomaml", "metarl.agents.fomaml:FOMAML", kind="gradient")
register_agent("maml", "metarl.agents.maml:MAML", kind="gradient")
register_agent("maml_pp", "metarl.agents.maml_pp:MAMLPlusPlus", kind="gradient")
register_agent("meta_sgd", "metarl.agents.meta_sgd:MetaSGD", kind="gradient")
register_agent("oracle", "metarl.agents.oracle:Oracle", kind="baselines")
register_agent("pretrained", "metarl.agents.pretrained:Pretrained", kind="baselines")
register_agent("promp", "metarl.agents.promp:ProMP", kind="gradient")
register_agent("random", "metarl.agents.random:Random", kind="baselines")
register_agent("reptile", "metarl.agents.reptile:Reptile", kind="gradient")
register_agent("rl2", "metarl.agents.rl2:RL2", kind="memory")
register_agent("sb3", "metarl.agents.sb3:SB3", kind="Stable-Baselines3")
register_agent("sb3_pretrained", "metarl.agents.sb3:SB3Pretrained", kind="Stable-Baselines3")
register_agent("scratch", "metarl.agents.scratch:Scratch", kind="baselines")
register_agent("beb", "metarl.agents.tabular:BEB", kind="classical MDPs")
register_agent("epsilon_greedy_mdp", "metarl.agents.tabular:EpsilonGreedyMDP", kind="classical MDPs")
register_agent("greedy_mdp", "metarl.agents.tabular:GreedyMDP", kind="classical MDPs")
register_agent("opsrl", "metarl.agents.tabular:OPSRL", kind="classical MDPs")
register_agent("psrl", "metarl.agents.tabular:PSRL", kind="classical MDPs")
register_agent("ucrl2", "metarl.agents.ucrl2:UCRL2", kind="classical MDPs")
register_agent("thompson_sampling", "metarl.agents.bandits:ThompsonSampling", kind="classical bandits")
register_agent(
    "optimistic_thompson_sampling", "metarl.agents.bandits:OptimisticThompsonSampling", kind="classical bandits"
)
register_agent("ucb1", "metarl.agents.bandits:UCB1", kind="classical bandits")
register_agent("epsilon_greedy", "metarl.agents.bandits:EpsilonGreedy", kind="classical bandits")
register_agent("greedy", "metarl.agents.bandits:Greedy", kind="classical bandits")
register_agent("gittins", "metarl.agents.gittins:Gittins", kind="classical bandits")
