"""Running independent jobs: here, in processes of this machine, or on a Ray cluster."""

from benchmark.distributed.jobs import map_jobs
from benchmark.distributed.machine import (
    choose_device,
    engine_digest,
    environment,
    processor,
    steady,
    timed,
)

__all__ = [
    "choose_device",
    "engine_digest",
    "environment",
    "map_jobs",
    "processor",
    "steady",
    "timed",
]
