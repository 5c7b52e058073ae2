"""The built-in agents. Each is one file; importing this package registers them and imports none."""

if __name__ != "metarl.agents":
    raise ImportError("import these agents as metarl.agents: as a top-level 'agents' everything would load twice")

from metarl.registry import register_agent

register_agent("maml", "metarl.agents.maml:MAML")
register_agent("oracle", "metarl.agents.oracle:Oracle")
register_agent("random", "metarl.agents.random:Random")
register_agent("rl2", "metarl.agents.rl2:RL2")
