"""The built-in task families. Each is one file; importing this package registers them and imports none."""

if __name__ != "metarl.envs":
    raise ImportError("import these families as metarl.envs: as a top-level 'envs' everything would load twice")

from metarl.registry import register_family

register_family("metarl/PointNavigation-v0", "metarl.envs.point_navigation:PointNavigation")
register_family("metarl/BernoulliBandit-v0", "metarl.envs.bernoulli_bandit:BernoulliBandit")
register_family("metarl/TabularMDP-v0", "metarl.envs.tabular_mdp:TabularMDP")
register_family("metarl/GridNavi-v0", "metarl.envs.grid_navi:GridNavi")
register_family("metarl/DarkRoom-v0", "metarl.envs.dark_room:DarkRoom")
register_family("metarl/DarkKeyToDoor-v0", "metarl.envs.dark_room:DarkKeyToDoor")
register_family("metarl/GaussianBandit-v0", "metarl.envs.gaussian_bandit:GaussianBandit")
register_family("metarl/DeceptiveBandit-v0", "metarl.envs.gaussian_bandit:DeceptiveBandit")
register_family("metarl/SwitchingBandit-v0", "metarl.envs.switching_bandit:SwitchingBandit")
