"""Fixtures: one model directory for all tests."""

from pathlib import Path

import pytest
from frontend_world import write_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))
