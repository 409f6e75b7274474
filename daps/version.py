"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("daps-torch")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0+unknown"
