"""The leaderboard as a static site: pages and figures from the frame of records alone."""

from benchmark.report.site import render
from benchmark.report.views import ProtocolPage

__all__ = ["ProtocolPage", "render"]
