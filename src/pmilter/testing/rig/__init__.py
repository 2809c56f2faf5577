r"""Real MTAs for tests: a private Postfix or Sendmail, a sink for its mail, an SMTP client that keeps every reply.

    with Postfix(milter) as mta:
        result = mta.send(b"Subject: hello\n\nhello\n")
        [message] = mta.delivered()

With pytest the fixtures ``postfix`` and ``sendmail`` do the same. The MTAs come from Debian's packages; where one is
missing, `unavailable` says what to install.
"""

from __future__ import annotations

from pmilter.testing.rig.instance import Instance, QueuedMessage
from pmilter.testing.rig.postfix import Postfix
from pmilter.testing.rig.sendmail import Sendmail
from pmilter.testing.rig.serve import serve
from pmilter.testing.rig.sink import Delivered, Sink
from pmilter.testing.rig.smtp import SmtpClient, SmtpReply, SmtpResult

__all__ = [
    "Delivered",
    "Instance",
    "Postfix",
    "QueuedMessage",
    "Sendmail",
    "Sink",
    "SmtpClient",
    "SmtpReply",
    "SmtpResult",
    "serve",
]
