"""The envelope recipients of a message as an MTA keeps them: which ones are the same, and what a removal hits."""

from __future__ import annotations

from email.utils import getaddresses
from typing import TYPE_CHECKING

from pmilter.client.dialogue import bare_address
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmilter.client.dialect import Dialect


class RecipientList:
    """The recipients of one message.

    Args:
        addresses: Those that the SMTP client gave and nobody refused.
        dialect: The MTA.
    """

    def __init__(self, addresses: Iterable[bytes], dialect: Dialect) -> None:
        self._dialect = dialect
        # What makes a recipient the same as another one -> its address.
        self._addresses: dict[tuple[bytes, ...], bytes] = {}
        for address in map(bare_address, addresses):
            self._addresses.setdefault((self._folded(address),), address)

    def add(self, text: bytes, args: bytes | None = None) -> None:
        """Add what a filter gives: an address, or several with commas between them."""
        found = mailboxes(text)
        for address in found if self._dialect.adds_lists else found[:1]:
            folded = self._folded(address)
            key = (folded, b"added", args or b"") if self._dialect.adds_apart else (folded,)
            self._addresses.setdefault(key, address)

    def remove(self, text: bytes) -> None:
        """Remove all of an address, exactly as it is spelled, or of several where several can be added at once."""
        found = mailboxes(text)
        gone = found if self._dialect.adds_lists else found[:1]
        self._addresses = {key: one for key, one in self._addresses.items() if one not in gone}

    def addresses(self) -> list[bytes]:
        """Return the addresses, without angle brackets."""
        return list(self._addresses.values())

    def _folded(self, address: bytes) -> bytes:
        return address.lower() if self._dialect.folds_recipients else address


def mailboxes(text: bytes) -> list[bytes]:
    """Return the addresses in a text without display names, comments and angle brackets; one at least, maybe empty."""
    found = [address for _, address in getaddresses([decode(text)]) if address]
    if not found:
        return [bare_address(text)]
    return [address.encode("utf-8", "surrogateescape") for address in found]
