"""Tapedeck keeps the place of every listener in every playlist."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tapedeck")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
