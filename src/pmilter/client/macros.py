"""Which macros an MTA sends before which command, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pmilter.errors import ConfigError
from pmilter.protocol.constants import Command, MacroStage
from pmilter.protocol.macros import bare_name
from pmilter.protocol.messages import Macros
from pmilter.protocol.rules import NAMED, RULES
from pmilter.text import encode

if TYPE_CHECKING:
    from pmilter.client.dialect import Dialect

MacroValues = Mapping[str, "str | Mapping[str, str] | None"]
"""Macros as programs give them: name -> value, None for one that is not known; or stage -> exactly the macros sent with it."""

HOST_NAME: Final = "mx.example.net"
"""Name of an MTA that was given none."""

_HOST_ADDRESS: Final = "192.0.2.25"


class GivenMacros:
    """Macros that a program gives, sorted out.

    Args:
        macros: As the program gives them.

    Attributes:
        values: Name without braces -> value, None for one that shall not be known.
        packets: Command -> the packet that shall go before it.

    Raises:
        ConfigError: An unknown stage.
        TypeError: A value that is neither text nor None nor a mapping.
    """

    __slots__ = ("packets", "values")

    def __init__(self, macros: MacroValues | None = None) -> None:
        self.values: dict[str, str | None] = {}
        self.packets: dict[int, Macros] = {}
        for key, value in (macros or {}).items():
            if isinstance(value, Mapping):
                self.packets[_command(key)] = _packet(_command(key), value)
            elif value is None or isinstance(value, str):
                self.values[bare_name(key)] = value
            else:
                raise TypeError(
                    f"macro {key!r} must be str, None or a mapping, not {type(value).__name__}"
                )


class MacroSource:
    """The macros of one connection, as an MTA has them ready.

    Values come from what is known of the client, the sender, the recipient; what a program gives wins.

    Args:
        dialect: The MTA.

    Attributes:
        queue_id_known: Whether the message has its queue id already.
        refused: Values that stand instead of all others while the MTA tells of a recipient that it refused.
    """

    __slots__ = (
        "_dialect",
        "_given",
        "_known",
        "_lists",
        "_message",
        "_messages",
        "queue_id_known",
        "refused",
    )

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lists = dict(dialect.macros)
        self._known: dict[str, str] = {
            "j": HOST_NAME,
            "v": dialect.version,
            "daemon_name": dialect.daemon_name or HOST_NAME,
            "daemon_addr": _HOST_ADDRESS,
            "if_name": HOST_NAME,
            "if_addr": _HOST_ADDRESS,
        }
        self._given = GivenMacros()
        self._message = GivenMacros()
        self._messages = 0
        self.refused: Mapping[str, str] = {}
        self.queue_id_known = False

    def know(self, values: Mapping[str, str]) -> None:
        """Take values that the MTA has worked out, by name without braces."""
        self._known |= values

    def give(self, given: GivenMacros) -> None:
        """Take a program's values for the whole connection."""
        self._given = given

    def give_message(self, given: GivenMacros) -> None:
        """Take a program's values for one message, instead of those for the message before."""
        self._message = given

    def begin_message(self, sender: str) -> None:
        """Work out the values of a new message."""
        for name in [name for name in self._known if name.startswith("rcpt_")]:
            del self._known[name]
        self._messages += 1
        queue_id = self._dialect.queue_id.format(self._messages)
        self._known |= address_macros("mail", sender, self._dialect)
        self._known |= {"i": queue_id, "msg_id": f"<{queue_id}@{self.value('j') or HOST_NAME}>"}
        self.queue_id_known = not self._dialect.late_queue_id

    def value(self, name: str) -> str | None:
        """Return a macro's value, by its name without braces."""
        if name == "i" and not self.queue_id_known:
            return None
        for values in (self.refused, self._message.values, self._given.values):
            if name in values:
                return values[name]
        return None if name in self._dialect.absent_macros else self._known.get(name)

    def agree(self, symlists: Mapping[int, bytes]) -> None:
        """Take the lists that the filter asks for; each replaces that of its stage."""
        for command, default in self._dialect.macros.items():
            stage = RULES[command].macros
            asked = None if stage is None else symlists.get(stage)
            if command == Command.BODYEOB and self._dialect.eom_list_needs_eoh:
                asked = symlists.get(MacroStage.EOM, b"") if MacroStage.EOH in symlists else None
            names = (
                None if asked is None else tuple(asked.decode("latin-1").replace(",", " ").split())
            )
            if names or (names is not None and not self._dialect.empty_list_is_default):
                self._lists[command] = names
            else:
                self._lists[command] = default

    def packet(self, command: int) -> Macros | None:
        """Return what is sent before a command, or None."""
        exact = self._message.packets.get(command) or self._given.packets.get(command)
        if exact is not None:
            return exact
        names = self._lists.get(command)
        if names is None or not (names or self._dialect.sends_empty_macros):
            return None
        values = ((name, self.value(bare_name(name))) for name in names)
        return Macros(
            command,
            [
                (name.encode("latin-1"), encode(value, name))
                for name, value in values
                if value is not None
            ],
        )


def _command(stage: str) -> int:
    rule = NAMED.get(stage)
    if rule is None or rule.command in _WITHOUT_MACROS:
        raise ConfigError(f"no macros are sent with stage {stage!r}", source=stage)
    return rule.command


_WITHOUT_MACROS: Final = frozenset({Command.OPTNEG, Command.ABORT, Command.QUIT, Command.QUIT_NC})


def _packet(command: int, values: Mapping[str, str]) -> Macros:
    bare = ((bare_name(name), value) for name, value in values.items())
    return Macros(
        command,
        [
            (encode(name if len(name) == 1 else f"{{{name}}}", "macro name"), encode(value, name))
            for name, value in bare
        ],
    )


def address_macros(prefix: str, address: str, dialect: Dialect) -> dict[str, str]:
    """Return the macros about an envelope address.

    Args:
        prefix: ``"mail"`` or ``"rcpt"``.
        address: Without angle brackets; empty for the null sender.
        dialect: The MTA.
    """
    host = address.rpartition("@")[2] if "@" in address else ""
    return {f"{prefix}_addr": address, f"{prefix}_host": host, f"{prefix}_mailer": dialect.mailer}


def refused_macros(reply: str, dialect: Dialect) -> dict[str, str]:
    """Return the macros about a recipient that the MTA itself refused with a reply such as ``550 5.1.1 User unknown``."""
    code, _, rest = reply.partition(" ")
    xcode, _, text = rest.partition(" ")
    return {
        "rcpt_addr": text if dialect.refused_text_only else reply,
        "rcpt_host": xcode if xcode[:2] == f"{code[:1]}." else "",
        "rcpt_mailer": "error",
    }
