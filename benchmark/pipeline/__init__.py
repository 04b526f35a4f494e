"""Compress, evaluate and report: the only place where registry, training loop and store meet."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.pipeline.auditing import Audit, Draw, audit_all
    from benchmark.pipeline.challenging import Answer, Sender, challenge
    from benchmark.pipeline.compressing import Order, compress_all, plan_orders
    from benchmark.pipeline.evaluating import Evaluation, evaluate_all, evaluate_model
    from benchmark.pipeline.exporting import Export, Form, export, load_export
    from benchmark.pipeline.project import Project, Watch
    from benchmark.pipeline.reporting import report, results

__all__ = [
    "Answer",
    "Audit",
    "Draw",
    "Evaluation",
    "Export",
    "Form",
    "Order",
    "Project",
    "Sender",
    "Watch",
    "audit_all",
    "challenge",
    "compress_all",
    "evaluate_all",
    "evaluate_model",
    "export",
    "load_export",
    "plan_orders",
    "report",
    "results",
]

# Where each name lives. Loaded on first use: help and arguments do without torch.
_HOMES = {
    "auditing": ("Audit", "Draw", "audit_all"),
    "challenging": ("Answer", "Sender", "challenge"),
    "compressing": ("Order", "compress_all", "plan_orders"),
    "evaluating": ("Evaluation", "evaluate_all", "evaluate_model"),
    "exporting": ("Export", "Form", "export", "load_export"),
    "project": ("Project", "Watch"),
    "reporting": ("report", "results"),
}


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if not TYPE_CHECKING:  # which would take any name for one of the pipeline's

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
