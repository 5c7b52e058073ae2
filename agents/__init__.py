"""The built-in agents. Each is one file; importing this package registers them and imports none."""

if __name__ != "metarl.agents":
    raise ImportError("import these agents as metarl.agents: as a top-level 'agents' everything would load twice")

from metarl.registry import register_agent

register_agent("anil", "metarl.agents.anil:ANIL")
register_agent("cavia", "metarl.agents.cavia:CAVIA")
register_agent("e_maml", "metarl.agents.e_maml:EMAML")
register_agent("fomaml", "metarl.agents.fomaml:FOMAML")
register_agent("maml", "metarl.agents.maml:MAML")
register_agent("maml_pp", "metarl.agents.maml_pp:MAMLPlusPlus")
register_agent("meta_sgd", "metarl.agents.meta_sgd:MetaSGD")
register_agent("oracle", "metarl.agents.oracle:Oracle")
register_agent("pretrained", "metarl.agents.pretrained:Pretrained")
register_agent("promp", "metarl.agents.promp:ProMP")
register_agent("random", "metarl.agents.random:Random")
register_agent("reptile", "metarl.agents.reptile:Reptile")
register_agent("rl2", "metarl.agents.rl2:RL2")
register_agent("scratch", "metarl.agents.scratch:Scratch")
register_agent("beb", "metarl.agents.tabular:BEB")
register_agent("epsilon_greedy_mdp", "metarl.agents.tabular:EpsilonGreedyMDP")
register_agent("greedy_mdp", "metarl.agents.tabular:GreedyMDP")
register_agent("opsrl", "metarl.agents.tabular:OPSRL")
register_agent("psrl", "metarl.agents.tabular:PSRL")
register_agent("ucrl2", "metarl.agents.ucrl2:UCRL2")
register_agent("thompson_sampling", "metarl.agents.bandits:ThompsonSampling")
register_agent("optimistic_thompson_sampling", "metarl.agents.bandits:OptimisticThompsonSampling")
register_agent("ucb1", "metarl.agents.bandits:UCB1")
register_agent("epsilon_greedy", "metarl.agents.bandits:EpsilonGreedy")
register_agent("greedy", "metarl.agents.bandits:Greedy")
register_agent("gittins", "metarl.agents.gittins:Gittins")
