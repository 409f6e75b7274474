"""What every test stands on: one thread, no network, a cache of its own, the same examples."""

import os
import tempfile

_scratch = tempfile.TemporaryDirectory(prefix="daps-tests-", ignore_cleanup_errors=True)
os.environ.update(  # before the libraries that read these on import
    DAPS_CACHE=_scratch.name,
    HF_HOME=os.path.join(_scratch.name, "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    MPLBACKEND="Agg",
)

import hypothesis  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
hypothesis.settings.register_profile("daps", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("daps")


def pytest_unconfigure() -> None:
    """Remove the cache."""
    _scratch.cleanup()
