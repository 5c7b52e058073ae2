"""The built-in task families. Each family is one file. Importing this package registers all and imports none."""

if __name__ != "metarl.envs":
    raise ImportError("import these families as metarl.envs: as a top-level 'envs' everything would load twice")

from metarl.families.registry import register_family

register_family(
    "metarl/PointNavigation-v0", "metarl.envs.navigation.point_navigation:PointNavigation", kind="navigation"
)
register_family("metarl/BernoulliBandit-v0", "metarl.envs.bandits.bernoulli_bandit:BernoulliBandit", kind="bandits")
register_family("metarl/TabularMDP-v0", "metarl.envs.grids.tabular_mdp:TabularMDP", kind="MDPs and grids")
register_family("metarl/GridNavi-v0", "metarl.envs.grids.grid_navi:GridNavi", kind="MDPs and grids")
register_family("metarl/DarkRoom-v0", "metarl.envs.grids.dark_room:DarkRoom", kind="MDPs and grids")
register_family("metarl/DarkKeyToDoor-v0", "metarl.envs.grids.dark_room:DarkKeyToDoor", kind="MDPs and grids")
register_family(
    "metarl/DarkTreasureRooms-v0", "metarl.envs.grids.dark_treasure_rooms:DarkTreasureRooms", kind="MDPs and grids"
)
register_family("metarl/GaussianBandit-v0", "metarl.envs.bandits.gaussian_bandit:GaussianBandit", kind="bandits")
register_family("metarl/DeceptiveBandit-v0", "metarl.envs.bandits.gaussian_bandit:DeceptiveBandit", kind="bandits")
register_family("metarl/SwitchingBandit-v0", "metarl.envs.bandits.switching_bandit:SwitchingBandit", kind="bandits")
register_family("metarl/CartPole-v0", "metarl.envs.control.cart_pole:CartPole", kind="control")
register_family("metarl/Pendulum-v0", "metarl.envs.control.pendulum:Pendulum", kind="control")
register_family("metarl/Acrobot-v0", "metarl.envs.control.acrobot:Acrobot", kind="control")
register_family("metarl/MountainCar-v0", "metarl.envs.control.mountain_car:MountainCar", kind="control")
register_family(
    "metarl/MountainCarContinuous-v0", "metarl.envs.control.mountain_car:MountainCarContinuous", kind="control"
)
register_family("metarl/TMaze-v0", "metarl.envs.grids.t_maze:TMaze", kind="MDPs and grids")
register_family("metarl/Sinusoid-v0", "metarl.envs.few_shot.sinusoid:Sinusoid", kind="few-shot")
register_family("metarl/Digits-v0", "metarl.envs.few_shot.digits:Digits", kind="few-shot", requires="digits")
register_family(
    "metarl/MetaWorldML1-v0",
    "metarl.envs.packages.meta_world:MetaWorldML1",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MetaWorldML10-v0",
    "metarl.envs.packages.meta_world:MetaWorldML10",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MetaWorldML45-v0",
    "metarl.envs.packages.meta_world:MetaWorldML45",
    kind="Meta-World and MiniGrid",
    requires="metaworld",
)
register_family(
    "metarl/MiniGrid-v0", "metarl.envs.packages.mini_grid:MiniGrid", kind="Meta-World and MiniGrid", requires="minigrid"
)
register_family(
    "metarl/MiniGridAny-v0",
    "metarl.envs.packages.mini_grid:MiniGridAny",
    kind="Meta-World and MiniGrid",
    requires="minigrid",
)
register_family("metarl/Highway-v0", "metarl.envs.packages.highway:Highway", kind="driving", requires="driving")
register_family(
    "metarl/HalfCheetahVel-v0", "metarl.envs.mujoco.locomotion:HalfCheetahVel", kind="MuJoCo", requires="mujoco"
)
register_family(
    "metarl/HalfCheetahDir-v0", "metarl.envs.mujoco.locomotion:HalfCheetahDir", kind="MuJoCo", requires="mujoco"
)
register_family("metarl/SwimmerDir-v0", "metarl.envs.mujoco.locomotion:SwimmerDir", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntDir-v0", "metarl.envs.mujoco.ant:AntDir", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntVel-v0", "metarl.envs.mujoco.ant:AntVel", kind="MuJoCo", requires="mujoco")
register_family("metarl/AntGoal-v0", "metarl.envs.mujoco.ant:AntGoal", kind="MuJoCo", requires="mujoco")
register_family("metarl/HumanoidDir-v0", "metarl.envs.mujoco.humanoid:HumanoidDir", kind="MuJoCo", requires="mujoco")
register_family(
    "metarl/Walker2DRandParams-v0",
    "metarl.envs.mujoco.rand_params:RandParams",
    kind="MuJoCo",
    requires="mujoco",
    body="walker2d",
)
register_family(
    "metarl/HopperRandParams-v0",
    "metarl.envs.mujoco.rand_params:RandParams",
    kind="MuJoCo",
    requires="mujoco",
    body="hopper",
)
register_family("metarl/ReacherGoal-v0", "metarl.envs.mujoco.reacher:ReacherGoal", kind="MuJoCo", requires="mujoco")
register_family(
    "metarl/VancomycinDosing-v0", "metarl.envs.applications.vancomycin_dosing:VancomycinDosing", kind="applications"
)
register_family(
    "metarl/Recommendation-v0", "metarl.envs.applications.recommendation:Recommendation", kind="applications"
)
register_family("metarl/Gymnasium-v0", "metarl.families.legacy:gymnasium_family", kind="any environment")
register_family(
    "metarl/Switching-v0",
    "metarl.families.switching:switching",
    kind="any environment",
    family="metarl/PointNavigation-v0",
)
