"""Where jobs run, and what each of them may take."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.errors import ContractError, lookup

if TYPE_CHECKING:
    import torch

Executor = Literal["auto", "serial", "processes", "ray"]
EXECUTORS: dict[str, str] = {
    "auto": "processes, or serial where one worker is enough",
    "serial": "this process, without limits",
    "processes": "processes of this machine",
    "ray": "a Ray cluster, whose machines share the project's folder",
}


@dataclass(frozen=True)
class Workers:
    """Where jobs run, and what each of them may take.

    Attributes:
        count: jobs at a time; 0 chooses: a core each, an accelerator each, or what a cluster has.
        executor: key of `EXECUTORS`.
        address: of a running Ray cluster, such as `auto`; empty starts one on this machine.
        minutes: a job that takes longer is lost; 0 sets no limit.
        gigabytes: a process that holds more is lost; 0 sets no limit.
        losses: how many times a job may be lost before the run gives up on it.

    Raises:
        UnknownName: no such executor.
        ContractError: a negative number, or an address without a cluster.
    """

    count: int = 0
    executor: Executor = "auto"
    address: str = ""
    minutes: float = 0.0
    gigabytes: float = 0.0
    losses: int = 2

    def __post_init__(self) -> None:
        """Refuses what means nothing."""
        lookup("executor", self.executor, EXECUTORS)
        if min(self.count, self.minutes, self.gigabytes, self.losses) < 0:
            raise ContractError(
                f"expected workers, minutes, gigabytes and losses of 0 or more, got {self}"
            )
        if self.address and self.executor != "ray":
            raise ContractError(
                f"expected an address with the executor ray alone, got {self.executor}"
            )

    def on(self, device: "torch.device") -> int:
        """Returns how many jobs run at a time on this machine."""
        if self.count or device.type == "cpu":
            return self.count or os.cpu_count() or 1
        import torch  # what needs no device does without it

        return max(1, torch.cuda.device_count()) if device.index is None else 1

    @property
    def limited(self) -> bool:
        """Whether a job may be ended from outside, which this process cannot do to itself."""
        return self.minutes > 0 or self.gigabytes > 0

    def here(self, device: "torch.device", jobs: int) -> bool:
        """Returns whether some jobs run in this process, one after the other."""
        single = min(self.on(device), jobs) <= 1
        return self.executor == "serial" or (
            self.executor == "auto" and single and not self.limited
        )
