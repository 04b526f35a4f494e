"""A new method that works, with its test and its page, as files to be changed."""

from benchmark.scaffolding.writing import Wish, is_clone, write_here, write_package

__all__ = ["Wish", "is_clone", "write_here", "write_package"]
