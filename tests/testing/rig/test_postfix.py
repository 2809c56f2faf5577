"""What only the private Postfix has; what both MTAs share is in test_instance.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter.testing.rig import Postfix
from tests.testing.rig.wirefilter import WireFilter

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.mta

MESSAGE = b"Subject: hello\n\nhello\n"


def test_settings_go_before_the_rig_s_own(postfix: Callable[..., Postfix]) -> None:
    mta = postfix(
        settings={"myhostname": "other.example.test", "smtpd_banner": "$myhostname ready"}
    )
    with mta.client() as client:
        assert client.greeting == "220 other.example.test ready"


def test_client_can_pretend_another_address(postfix: Callable[..., Postfix]) -> None:
    with WireFilter() as recorder:
        with postfix(recorder.address).client() as client:
            client.helo()
            assert client.command("XCLIENT ADDR=192.0.2.1 NAME=mx.example.net").code == 220
            client.helo("mx.example.net")
        names = [data.partition(b"\0")[0] for data in recorder.data(b"C")]
    assert names == [b"localhost", b"mx.example.net"]


def test_message_of_20_mb_passes(postfix: Callable[..., Postfix]) -> None:
    mta = postfix()
    body = 280_000 * (70 * b"x" + b"\r\n")
    assert mta.send(b"Subject: big\r\n\r\n" + body).code == 250
    assert mta.delivered(timeout=30)[0].body == body


def test_many_errors_do_not_slow_down_or_close(postfix: Callable[..., Postfix]) -> None:
    with postfix().client() as client:
        assert {client.command("FOOBAR").code for _ in range(60)} == {500}
        assert client.command("NOOP").code == 250


def test_utf_8_address_passes(postfix: Callable[..., Postfix]) -> None:
    mta = postfix()
    assert (
        mta.send(MESSAGE, "jörg@example.com", ["zoë@example.org"], mail_args=["SMTPUTF8"]).code
        == 250
    )
    [message] = mta.delivered()
    assert (message.sender, message.recipients) == ("jörg@example.com", ("zoë@example.org",))


@pytest.mark.parametrize("recipient", ["root", "postmaster@mta.example.test"])
def test_mail_for_local_names_comes_to_the_sink(
    postfix: Callable[..., Postfix], recipient: str
) -> None:
    mta = postfix()
    assert mta.send(MESSAGE, recipients=[recipient]).code == 250
    assert mta.delivered()[0].recipients == (f"{recipient.partition('@')[0]}@mta.example.test",)


def test_deferred_mail_has_its_reason(postfix: Callable[..., Postfix]) -> None:
    mta = postfix(settings={"default_transport": "retry:4.2.1 closed for today", "relayhost": ""})
    mta.submit(MESSAGE)  # smtpd itself would refuse the recipient
    mta.logged("status=deferred")
    [waiting] = mta.queued(1)
    assert waiting.queue == "deferred"
    assert waiting.reason is not None
    assert "closed for today" in waiting.reason


def test_broken_setting_is_told_with_the_log(postfix: Callable[..., Postfix]) -> None:
    mta = postfix(settings={"smtpd_relay_restrictions": "permit, reject"})
    with pytest.raises(TimeoutError) as caught, mta.client(timeout=0.5):
        pass
    assert "fatal: " in caught.value.__notes__[0]


def test_unavailable_is_none_where_it_runs(postfix: Callable[..., Any]) -> None:
    del postfix
    assert Postfix.unavailable() is None
