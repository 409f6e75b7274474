"""Every test has its own cache; real data are used where they lie beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DAPS_CACHE", str(folder))
    return folder


@pytest.fixture
def real_data() -> Path:
    folder = Path(os.environ.get("DAPS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout (DAPS_DATA names their folder)")
    return folder
