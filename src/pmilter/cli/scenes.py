"""The four messages of ``pmilter demo``: who sends what to whom."""

from __future__ import annotations

from typing import Final, NamedTuple


class Client(NamedTuple):
    """An SMTP client."""

    name: str
    address: str


class Scene(NamedTuple):
    """One message on an SMTP session of its own."""

    title: str
    story: str
    """What the sample filter will make of it, for people."""
    client: Client
    sender: str
    recipients: tuple[str, ...]
    message: bytes
    """Header and body, with LF line ends."""


_OFFICE: Final = Client("desk7.example.org", "192.0.2.17")
_OUTSIDE: Final = Client("mail.example.com", "203.0.113.9")

_DATE: Final = b"Date: Mon, 06 Jul 2026 09:00:00 +0000\n"

CLEAN: Final = Scene(
    "A clean message",
    "Ann writes to Bob from the office network: there is nothing to change.",
    _OFFICE,
    "ann@example.org",
    ("bob@example.org",),
    b"From: Ann <ann@example.org>\nTo: Bob <bob@example.org>\nSubject: Lunch?\n"
    + _DATE
    + b"Message-ID: <1@desk7.example.org>\n\nAt noon, the usual place?\n",
)

TAGGED: Final = Scene(
    "A message that is marked",
    "A customer writes from outside: the subject says so afterwards, and a header field tells from where.",
    _OUTSIDE,
    "eve@example.com",
    ("bob@example.org",),
    b"From: Eve <eve@example.com>\nTo: Bob <bob@example.org>\nSubject: Your offer\n"
    + _DATE
    + b"Message-ID: <2@mail.example.com>\n\nDear Bob,\nthe price is fine with us.\n",
)

REFUSED_RECIPIENT: Final = Scene(
    "A recipient that is refused",
    "Ann writes to Bob and to Carol, who has left: Bob gets the message, and Ann is told about Carol.",
    _OFFICE,
    "ann@example.org",
    ("carol@example.org", "bob@example.org"),
    b"From: Ann <ann@example.org>\nTo: Carol <carol@example.org>, Bob <bob@example.org>\nSubject: Minutes\n"
    + _DATE
    + b"Message-ID: <3@desk7.example.org>\n\nThe minutes of this morning follow.\n",
)

REFUSED_CONTENT: Final = Scene(
    "Content that is refused",
    "Somebody sends a program: the filter reads the message to its end, and has it rejected.",
    _OUTSIDE,
    "billing@example.com",
    ("bob@example.org",),
    b"From: Billing <billing@example.com>\nTo: Bob <bob@example.org>\nSubject: Invoice 4711\n"
    + _DATE
    + b"""Message-ID: <4@mail.example.com>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="cut"

--cut
Content-Type: text/plain

Please open the invoice.
--cut
Content-Type: application/octet-stream; name="invoice.pdf.exe"
Content-Disposition: attachment; filename="invoice.pdf.exe"
Content-Transfer-Encoding: base64

TVqQAAMAAAAEAAAA
--cut--
""",
)

SCENES: Final = (CLEAN, TAGGED, REFUSED_RECIPIENT, REFUSED_CONTENT)
