"""Paths of results files: a folder for each kind of experiment, and in it a folder for each study.

    experiments/results/bandits/n10-k5/rl2.json       row "rl2" of the study "bandit-n10-k5"
    experiments/results/robots/ant_dir/maml.json      row "maml" of the study "robots-ant_dir"
    experiments/results/speed/speed_cuda.json         "speed_cuda" of "speed", which has no studies

`experiments/results/README.md` lists the contents of each folder and the command that writes it.
"""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
FOLDERS = {"bandit": "bandits", "mdp": "mdps"}  # kinds of studies whose folder has another name


def study_folder(study: str, root: Path = RESULTS) -> Path:
    """Folder of the results of a study KIND-REST, or of a kind without studies."""
    kind, _, rest = study.partition("-")
    return root / FOLDERS.get(kind, kind) / rest


def results_file(study: str, row: str, root: Path = RESULTS) -> Path:
    """Path of the results file of one row of a study."""
    return study_folder(study, root) / f"{row}.json"
