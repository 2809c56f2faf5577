from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import pytest

from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from pmilter import Milter
    from pmilter.testing.mta import Result

FOOTER = "\n-- \nExample Ltd, registered in Exampleton\n"


def sent(example: Milter, message: bytes, dialect: str = "postfix") -> Result:
    with Mta(example, dialect=dialect) as mta:
        result = mta.send(message)
    assert result.errors == []
    assert result.message is not None
    return result


def text(message: bytes | None) -> str:
    assert message is not None
    content: str = message_from_bytes(message, policy=policy.default).get_content()
    return content.replace("\r\n", "\n")


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
@pytest.mark.parametrize(
    ("header", "body", "shown"),
    [
        (b"", b"hello\n", "hello\n"),
        (b"Content-Type: text/plain; charset=utf-8\n", "grüße = 1\n".encode(), "grüße = 1\n"),
        (b"Content-Type: text/plain; charset=iso-8859-1\n", b"caf\xe9\n", "café\n"),
        (
            b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n",
            b"Z3LDvMOfZQo=\n",
            "grüße\n",
        ),
    ],
    ids=["bare", "utf-8", "latin-1", "base64"],
)
def test_plain_text_gets_the_footer(
    example: Milter, header: bytes, body: bytes, shown: str, dialect: str
) -> None:
    result = sent(example, b"Subject: hi\nMIME-Version: 1.0\n" + header + b"\n" + body, dialect)

    assert text(result.message) == shown + FOOTER
    assert result.message is not None
    assert result.message.startswith(b"Subject: hi\r\n")
    assert result.message.count(b"Content-Type:") == 1
    assert b"\n" not in result.message.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/html\n",
        b"Content-Type: multipart/alternative; boundary=x\n",
        b"Content-Type: text/plain; charset=x-nobody-knows\n",
        b"Content-Disposition: attachment\n",
        b"DKIM-Signature: v=1\n",
    ],
    ids=["html", "multipart", "charset", "attachment", "signed"],
)
def test_other_messages_are_left_alone(example: Milter, header: bytes) -> None:
    message = b"Subject: hi\n" + header + b"\nhello\n"

    assert sent(example, message).changes == []


def test_large_body_survives(example: Milter) -> None:
    body = b"a line of text\n" * 20_000

    assert text(sent(example, b"\n" + body).message) == body.decode() + FOOTER


def test_messages_on_one_connection_do_not_mix(example: Milter) -> None:
    with Mta(example) as mta:
        mta.send(b"\none\n")
        result = mta.send(b"\ntwo\n")

    assert text(result.message) == "two\n" + FOOTER
