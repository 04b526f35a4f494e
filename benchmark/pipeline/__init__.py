"""Compress, evaluate and report: the only place where registry, training loop and store meet."""

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
