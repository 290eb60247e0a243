"""Replays use the real servers of `tests/cluster`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "cluster"))
