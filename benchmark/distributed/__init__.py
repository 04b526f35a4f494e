"""Running independent jobs: here, in processes of this machine, or on a Ray cluster."""

from benchmark.distributed.jobs import map_jobs
from benchmark.distributed.machine import (
    choose_device,
    engine_digest,
    environment,
    evaluation_environment,
    processor,
    steady,
    store_tuning,
    timed,
    tuning,
    tuning_path,
)
from benchmark.distributed.speed import measured_tuning

__all__ = [
    "choose_device",
    "engine_digest",
    "environment",
    "evaluation_environment",
    "map_jobs",
    "measured_tuning",
    "processor",
    "steady",
    "store_tuning",
    "timed",
    "tuning",
    "tuning_path",
]
