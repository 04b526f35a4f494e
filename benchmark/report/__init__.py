"""The leaderboard as a static site: pages and figures from the frame of records alone."""

from benchmark.report.methods import MethodPage
from benchmark.report.site import render
from benchmark.report.views import AttackColumn, ProtocolPage
from benchmark.report.wording import flag_words

__all__ = ["AttackColumn", "MethodPage", "ProtocolPage", "flag_words", "render"]
