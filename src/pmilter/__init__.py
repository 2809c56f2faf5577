"""pmilter for Python: the mail-filter toolkit. The Sendmail milter protocol, both sides of it.

Names are loaded when they are first used, so that `import pmilter` costs next to nothing. The constants of libmilter and
Sendmail::PMilter are here under their own names too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmilter._version import (
        __version__ as __version__,
    )
    from pmilter.acceleration import (
        accelerated as accelerated,
    )
    from pmilter.address import (
        Address as Address,
    )
    from pmilter.address import (
        parse_address as parse_address,
    )
    from pmilter.context import (
        Context as Context,
    )
    from pmilter.dispatchers.accepting import (
        Stopped as Stopped,
    )
    from pmilter.dispatchers.aio import (
        asyncio_dispatcher as asyncio_dispatcher,
    )
    from pmilter.dispatchers.ithread import (
        ithread_dispatcher as ithread_dispatcher,
    )
    from pmilter.dispatchers.postfork import (
        postfork_dispatcher as postfork_dispatcher,
    )
    from pmilter.dispatchers.prefork import (
        prefork_dispatcher as prefork_dispatcher,
    )
    from pmilter.dispatchers.selector import (
        selector_dispatcher as selector_dispatcher,
    )
    from pmilter.dispatchers.sequential import (
        sequential_dispatcher as sequential_dispatcher,
    )
    from pmilter.errors import (
        ConfigError as ConfigError,
    )
    from pmilter.errors import (
        ConnectionClosed as ConnectionClosed,
    )
    from pmilter.errors import (
        LimitExceeded as LimitExceeded,
    )
    from pmilter.errors import (
        LocalProtocolError as LocalProtocolError,
    )
    from pmilter.errors import (
        MilterError as MilterError,
    )
    from pmilter.errors import (
        MilterTimeout as MilterTimeout,
    )
    from pmilter.errors import (
        NegotiationError as NegotiationError,
    )
    from pmilter.errors import (
        ProtocolError as ProtocolError,
    )
    from pmilter.errors import (
        RemoteProtocolError as RemoteProtocolError,
    )
    from pmilter.limits import (
        Limits as Limits,
    )
    from pmilter.milter import (
        Milter as Milter,
    )
    from pmilter.privileges import (
        drop_privileges as drop_privileges,
    )
    from pmilter.protocol.constants import (
        Action as Action,
    )
    from pmilter.protocol.constants import (
        Family as Family,
    )
    from pmilter.protocol.constants import (
        MacroStage as MacroStage,
    )
    from pmilter.protocol.constants import (
        Status as Status,
    )
    from pmilter.protocol.constants import (
        Step as Step,
    )
    from pmilter.protocol.messages import (
        Options as Options,
    )
    from pmilter.reply import (
        Reply as Reply,
    )
    from pmilter.symbols import *  # noqa: F403  # for type checkers; __getattr__ finds them at run time
    from pmilter.text import (
        printable as printable,
    )

_MODULES = {
    "pmilter._version": ("__version__",),
    "pmilter.acceleration": ("accelerated",),
    "pmilter.address": (
        "Address",
        "parse_address",
    ),
    "pmilter.context": ("Context",),
    "pmilter.dispatchers.accepting": ("Stopped",),
    "pmilter.dispatchers.aio": ("asyncio_dispatcher",),
    "pmilter.dispatchers.ithread": ("ithread_dispatcher",),
    "pmilter.dispatchers.postfork": ("postfork_dispatcher",),
    "pmilter.dispatchers.prefork": ("prefork_dispatcher",),
    "pmilter.dispatchers.selector": ("selector_dispatcher",),
    "pmilter.dispatchers.sequential": ("sequential_dispatcher",),
    "pmilter.errors": (
        "ConfigError",
        "ConnectionClosed",
        "LimitExceeded",
        "LocalProtocolError",
        "MilterError",
        "MilterTimeout",
        "NegotiationError",
        "ProtocolError",
        "RemoteProtocolError",
    ),
    "pmilter.limits": ("Limits",),
    "pmilter.milter": ("Milter",),
    "pmilter.privileges": ("drop_privileges",),
    "pmilter.protocol.constants": (
        "Action",
        "Family",
        "MacroStage",
        "Status",
        "Step",
    ),
    "pmilter.protocol.messages": ("Options",),
    "pmilter.reply": ("Reply",),
    "pmilter.text": ("printable",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

_SYMBOLS = "pmilter.symbols"


def __getattr__(name: str) -> object:
    """Load a public name's module (PEP 562)."""
    if name == "__all__":
        return __dir__()
    module = _HOME.get(name) or (_SYMBOLS if name.isupper() else None)
    try:
        if module is None:
            raise AttributeError(name)  # noqa: TRY301  # the same answer as for a constant that there is not
        value = getattr(import_module(module), name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*_HOME, *import_module(_SYMBOLS).__all__})
