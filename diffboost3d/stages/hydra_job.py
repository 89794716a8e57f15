"""The Hydra application that launcher plugins run: `python -m diffboost3d.stages.hydra_job --multirun job=FOLDER,FOLDER`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class JobConfig:
    """What the application is told: the folder of a job of a study."""

    job: str = MISSING


ConfigStore.instance().store(name="diffboost3d_job", node=JobConfig)


@hydra.main(version_base="1.3", config_path=None, config_name="diffboost3d_job")
def main(config: Any) -> None:
    """Run one job; what becomes of it is written in its folder."""
    from diffboost3d.stages.study_jobs import run_job

    run_job(Path(config.job))


if __name__ == "__main__":
    main()
