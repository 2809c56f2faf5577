from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter.cli.app import load_app

if TYPE_CHECKING:
    from pmilter import Milter

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Milter:
    """The filter of the example that the test module is named after, loaded as ``pmilter run`` does."""
    name = request.path.stem.removeprefix("test_")
    return load_app(str(EXAMPLES / f"{name}.py"))
