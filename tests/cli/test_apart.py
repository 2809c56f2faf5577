from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError
from pmilter.cli.apart import do_apart

if TYPE_CHECKING:
    from collections.abc import Callable


# The runner's own threads do nothing that a child could wait for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("result", [None, 7, {"a": ["\u20ac", None]}, "x" * 1_000_000])
def test_result_comes_back(result: Any) -> None:
    assert do_apart("work", lambda: result, 10) == result


def test_work_is_done_in_another_process() -> None:
    assert do_apart("work", os.getpid, 10) != os.getpid()


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: fail(ConfigError("no such thing")), "^no such thing$"),
        (lambda: fail(OSError(13, "Permission denied", "/x")), "^/x: Permission denied$"),
        (lambda: 1 / 0, "^ZeroDivisionError: division by zero$"),
        (lambda: fail(SystemExit(0)), "^SystemExit: 0$"),
        (lambda: os._exit(0), "^work has ended its process with status 0$"),
        (lambda: os._exit(3), "^work has ended its process with status 3$"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "with signal SIGTERM$"),
    ],
)
def test_whatever_goes_wrong_is_told(work: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        do_apart("work", work, 10)


def test_work_that_hangs_is_given_up_and_ended() -> None:
    with pytest.raises(ConfigError, match=r"work has not come to an end within 0\.2 seconds$"):
        do_apart("work", threading.Event().wait, 0.2)
    with pytest.raises(ConfigError, match=r"within 0\.2 seconds; buy a clock$"):
        do_apart("work", threading.Event().wait, 0.2, "buy a clock")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_the_work_prints_does_not_come_between() -> None:
    program = """
import os
from pmilter.cli.apart import do_apart
print("before")
print(do_apart("work", lambda: print("within") or os.system("echo outside"), 10))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "before\n0\n"
    assert sorted(done.stderr.split()) == ["outside", "within"]
