"""What only the private Sendmail has; what both MTAs share is in test_instance.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pmilter
from pmilter.testing.rig import Sendmail
from tests.testing.rig.wirefilter import WireFilter

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.mta

MESSAGE = b"Subject: hello\n\nhello\n"

AS_NOBODY = """
from pmilter.testing.rig import Sendmail
with Sendmail() as mta:
    assert mta.send(b"Subject: one\\n\\n\\n").code == 250
    print(*mta.delivered()[0].header("Subject"))
    mta.submit(b"Subject: two\\n\\n\\n")
    print(*mta.delivered()[0].header("Subject"))
"""


def test_mc_lines_go_before_the_rig_s_own(sendmail: Callable[..., Sendmail]) -> None:
    mta = sendmail(mc="define(`confSMTP_LOGIN_MSG', `$j ready')dnl\n")
    with mta.client() as client:
        assert client.greeting == "220 mta.example.test ESMTP ready"


def test_macros_can_be_asked_for_in_mc(sendmail: Callable[..., Sendmail]) -> None:
    with WireFilter() as recorder:
        mta = sendmail(
            recorder.address, mc="define(`confMILTER_MACROS_HELO', ``j, {client_addr}'')dnl"
        )
        mta.send(MESSAGE)
        assert b"Hj\0mta.example.test\0{client_addr}\x00127.0.0.1\0" in recorder.data(b"D")


@pytest.mark.parametrize("recipient", ["root", "postmaster@mta.example.test"])
def test_mail_for_local_names_comes_to_the_sink(
    sendmail: Callable[..., Sendmail], recipient: str
) -> None:
    mta = sendmail()
    assert mta.send(MESSAGE, recipients=[recipient]).code == 250
    assert mta.delivered()[0].recipients == (f"{recipient.partition('@')[0]}@mta.example.test",)


def test_message_of_20_mb_passes(sendmail: Callable[..., Sendmail]) -> None:
    mta = sendmail()
    body = 280_000 * (70 * b"x" + b"\r\n")
    assert mta.send(b"Subject: big\r\n\r\n" + body).code == 250
    assert mta.delivered(timeout=30)[0].body == body


def test_deferred_mail_has_its_reason(sendmail: Callable[..., Sendmail], unused: str) -> None:
    mta = sendmail(unused)
    mta.submit(MESSAGE)
    [waiting] = mta.queued(1)
    assert waiting.queue == "clientqueue"
    assert waiting.reason is not None
    assert waiting.reason.startswith("Deferred")


def test_no_name_is_looked_up_outside(sendmail: Callable[..., Sendmail]) -> None:
    with WireFilter() as recorder:
        mta = sendmail(recorder.address)
        mta.send(
            MESSAGE, "a@surely.not.a.name.example.net", helo="mx.surely.not.a.name.example.net"
        )
        assert mta.delivered()[0].sender == "a@surely.not.a.name.example.net"
        assert recorder.data(b"C")[0].startswith(b"localhost\x004")


def python_as_nobody(interpreter: str, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter, "-B", "-c", program],
        user="nobody",
        group="nogroup",
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": str(Path(pmilter.__file__).parents[1]), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become another user; without root all tests show it"
)
def test_it_needs_no_root(sendmail: Callable[..., Sendmail]) -> None:
    del sendmail
    for interpreter in [sys.executable, "/usr/bin/python3"]:
        try:
            if python_as_nobody(interpreter, "import pmilter.testing.rig").returncode == 0:
                break
        except OSError:
            continue
    else:
        pytest.skip("user nobody cannot read any Python or this checkout")
    done = python_as_nobody(interpreter, AS_NOBODY)
    assert (done.stderr, done.stdout) == ("", "one\ntwo\n")


def test_missing_installation_tells_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PMILTER_SENDMAIL", str(tmp_path))
    assert "tools/install-mtas.sh" in (Sendmail.unavailable() or "")
