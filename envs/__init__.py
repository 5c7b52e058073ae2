"""The built-in task families. Each is one file; importing this package registers them and imports none."""

if __name__ != "metarl.envs":
    raise ImportError("import these families as metarl.envs: as a top-level 'envs' everything would load twice")

from metarl.registry import register_family

register_family("metarl/PointNavigation-v0", "metarl.envs.point_navigation:PointNavigation", kind="navigation")
register_family("metarl/BernoulliBandit-v0", "metarl.envs.bernoulli_bandit:BernoulliBandit", kind="bandits")
register_family("metarl/TabularMDP-v0", "metarl.envs.tabular_mdp:TabularMDP", kind="MDPs and grids")
register_family("metarl/GridNavi-v0", "metarl.envs.grid_navi:GridNavi", kind="MDPs and grids")
register_family("metarl/DarkRoom-v0", "metarl.envs.dark_room:DarkRoom", kind="MDPs and grids")
register_family("metarl/DarkKeyToDoor-v0", "metarl.envs.dark_room:DarkKeyToDoor", kind="MDPs and grids")
register_family("metarl/GaussianBandit-v0", "metarl.envs.gaussian_bandit:GaussianBandit", kind="bandits")
register_family("metarl/DeceptiveBandit-v0", "metarl.envs.gaussian_bandit:DeceptiveBandit", kind="bandits")
register_family("metarl/SwitchingBandit-v0", "metarl.envs.switching_bandit:SwitchingBandit", kind="bandits")
register_family("metarl/CartPole-v0", "metarl.envs.cart_pole:CartPole", kind="control")
register_family("metarl/Pendulum-v0", "metarl.envs.pendulum:Pendulum", kind="control")
register_family("metarl/Acrobot-v0", "metarl.envs.acrobot:Acrobot", kind="control")
register_family("metarl/MountainCar-v0", "metarl.envs.mountain_car:MountainCar", kind="control")
register_family("metarl/MountainCarContinuous-v0", "metarl.envs.mountain_car:MountainCarContinuous", kind="control")
register_family("metarl/TMaze-v0", "metarl.envs.t_maze:TMaze", kind="MDPs and grids")
register_family("metarl/Sinusoid-v0", "metarl.envs.sinusoid:Sinusoid", kind="few-shot")
register_family("metarl/Digits-v0", "metarl.envs.digits:Digits", kind="few-shot", requires="digits")
register_family(
    "metarl/MetaWorldML1-v0",
    "metarl.envs.meta_world:MetaWorldML1",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MetaWorldML10-v0",
    "metarl.envs.meta_world:MetaWorldML10",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MetaWorldML45-v0",
    "metarl.envs.meta_world:MetaWorldML45",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MiniGrid-v0", "metarl.envs.mini_grid:MiniGrid", kind="Meta-World and MiniGrid", requires="minigrid"
)
register_family("metarl/HalfCheetahVel-v0", "metarl.envs.locomotion:HalfCheetahVel", kind="MuJoCo", requires="mujoco")
register_family("metarl/HalfCheetahDir-v0", "metarl.envs.locomotion:HalfCheetahDir", kind="MuJoCo", requires="mujoco")
register_family("metarl/SwimmerDir-v0", "metarl.envs.locomotion:SwimmerDir", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntDir-v0", "metarl.envs.ant:AntDir", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntVel-v0", "metarl.envs.ant:AntVel", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntGoal-v0", "metarl.envs.ant:AntGoal", kind="MuJoCo", requires="mujoco")
register_family("metarl/HumanoidDir-v0", "metarl.envs.humanoid:HumanoidDir", kind="MuJoCo", requires="mujoco")
register_family(
    "metarl/Walker2DRandParams-v0",
    "metarl.envs.rand_params:RandParams",
    kind="MuJoCo",
    requires="mujoco",
    body="walker2d",
)
register_family(
    "metarl/HopperRandParams-v0", "metarl.envs.rand_params:RandParams", kind="MuJoCo", requires="mujoco", body="hopper"
)
register_family("metarl/ReacherGoal-v0", "metarl.envs.reacher:ReacherGoal", kind="MuJoCo", requires="mujoco")
register_family("metarl/Gymnasium-v0", "metarl.adopt:gymnasium_family", kind="any environment")
register_family("metarl/Switching-v0", "metarl.switching:switching", kind="any environment")
