"""`python -m benchmark.cli` is `robustprune`."""

from benchmark.cli import main

main()
