"""The dumps behind a real Postfix and a real Sendmail, as their originals in Perl are used."""

from __future__ import annotations

import pytest

from pmilter.cli.app import load_app
from pmilter.testing.rig import Postfix, Sendmail
from tests.examples.conftest import EXAMPLES

pytestmark = pytest.mark.mta

MESSAGE = b"From: Ann <a@example.com>\nSubject: hello\n\nhello\n"


@pytest.fixture(params=["postfix", "sendmail"])
def mta_kind(request: pytest.FixtureRequest) -> type[Postfix | Sendmail]:
    request.getfixturevalue(request.param)  # knows what to do where it is not installed
    return Postfix if request.param == "postfix" else Sendmail


def printed(
    mta_kind: type[Postfix | Sendmail], name: str, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Send a message through an MTA with an example behind it, and return what that printed to its very end."""
    with mta_kind(load_app(str(EXAMPLES / f"{name}.py"))) as mta:
        assert mta.send(MESSAGE, "a@example.com", ["b@example.org"]).code == 250
        [delivered] = mta.delivered()
    assert delivered.body == b"hello\r\n"
    return capsys.readouterr().out.splitlines()


def test_protocol_dump_prints_the_whole_session(
    mta_kind: type[Postfix | Sendmail], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split(": ", 1)[1] for line in printed(mta_kind, "protocol_dump", capsys)]

    stages = [line.partition(":")[0] for line in lines]
    assert list(dict.fromkeys(stages)) == [
        "negotiate", "connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom", "close",
    ]  # fmt: skip
    assert "helo: client.example.com" in lines
    assert "envrcpt: <b@example.org>" in lines
    assert "header: Subject hello" in lines
    assert "body: (7 bytes)" in lines


def test_symbol_dump_prints_the_macros_of_each_stage(
    mta_kind: type[Postfix | Sendmail], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(mta_kind, "symbol_dump", capsys)

    stages = [line.partition("] ")[2] for line in lines if line.startswith("[")]
    assert stages == ["connect", "helo", "envfrom", "envrcpt", "data", "eom"]
    assert "  {client_addr} = 127.0.0.1" in lines
    assert "  {mail_addr} = a@example.com" in lines
    assert "  {rcpt_addr} = b@example.org" in lines
    assert any(line.startswith("  {i} = ") for line in lines)
