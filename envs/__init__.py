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
register_family("metarl/CartPole-v0", "metarl.envs.cart_pole:CartPole")
register_family("metarl/Pendulum-v0", "metarl.envs.pendulum:Pendulum")
register_family("metarl/Acrobot-v0", "metarl.envs.acrobot:Acrobot")
register_family("metarl/MountainCar-v0", "metarl.envs.mountain_car:MountainCar")
register_family("metarl/MountainCarContinuous-v0", "metarl.envs.mountain_car:MountainCarContinuous")
register_family("metarl/TMaze-v0", "metarl.envs.t_maze:TMaze")
register_family("metarl/Sinusoid-v0", "metarl.envs.sinusoid:Sinusoid")
register_family("metarl/Digits-v0", "metarl.envs.digits:Digits", requires="digits")
register_family("metarl/Gymnasium-v0", "metarl.adopt:gymnasium_family")
register_family("metarl/MetaWorldML1-v0", "metarl.envs.meta_world:MetaWorldML1", requires="metaworld")
register_family("metarl/MetaWorldML10-v0", "metarl.envs.meta_world:MetaWorldML10", requires="metaworld")
register_family("metarl/MetaWorldML45-v0", "metarl.envs.meta_world:MetaWorldML45", requires="metaworld")
register_family("metarl/MiniGrid-v0", "metarl.envs.mini_grid:MiniGrid", requires="minigrid")
register_family("metarl/HalfCheetahVel-v0", "metarl.envs.locomotion:HalfCheetahVel", requires="mujoco")
register_family("metarl/HalfCheetahDir-v0", "metarl.envs.locomotion:HalfCheetahDir", requires="mujoco")
register_family("metarl/SwimmerDir-v0", "metarl.envs.locomotion:SwimmerDir", requires="mujoco")
register_family("metarl/AntDir-v0", "metarl.envs.ant:AntDir", requires="mujoco")
register_family("metarl/AntVel-v0", "metarl.envs.ant:AntVel", requires="mujoco")
register_family("metarl/AntGoal-v0", "metarl.envs.ant:AntGoal", requires="mujoco")
register_family("metarl/HumanoidDir-v0", "metarl.envs.humanoid:HumanoidDir", requires="mujoco")
register_family(
    "metarl/Walker2DRandParams-v0", "metarl.envs.rand_params:RandParams", requires="mujoco", body="walker2d"
)
register_family("metarl/HopperRandParams-v0", "metarl.envs.rand_params:RandParams", requires="mujoco", body="hopper")
register_family("metarl/ReacherGoal-v0", "metarl.envs.reacher:ReacherGoal", requires="mujoco")
register_family("metarl/Switching-v0", "metarl.switching:switching")
