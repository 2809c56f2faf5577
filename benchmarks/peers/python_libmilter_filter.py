"""The benchmark's filters on python-libmilter.

``python_libmilter_filter.py threads|async ADDRESS noop|tagger|small|noreply``
"""

# python-libmilter has no types, and its callbacks take what they do not use.
# ruff: noqa: ANN001, ANN002, ANN201, ANN202, ANN204, ARG001, ARG002

import sys

import libmilter

STAGES = ("connect", "helo", "mailFrom", "rcpt", "data", "unknown", "header", "eoh", "body")


def answer(name):
    """Make a callback for a stage; the library's decorators go by its name."""

    def callback(self, *arguments):
        return libmilter.CONTINUE

    callback.__name__ = name
    return callback


class Small:
    """Two callbacks; the library negotiates the rest away by itself."""

    rcpt = answer("rcpt")

    def eob(self, macros):
        return libmilter.ACCEPT

    def abort(self):
        pass

    def close(self):
        pass


class Noop(Small):
    """Every callback, and each is answered."""


class NoReply(Small):
    """Every callback, none answered but the last."""


for _stage in STAGES:
    setattr(Noop, _stage, answer(_stage))
    setattr(NoReply, _stage, libmilter.noReply(answer(_stage)))


class Tagger(Noop):
    """Two changes at end of message."""

    def eob(self, macros):
        self.addHeader(b"X-Tagged", b"yes")
        self.chgHeader(b"Subject", b"[tagged] minutes", 1)
        return libmilter.ACCEPT


class Threaded(libmilter.ThreadMixin, libmilter.MilterProtocol):
    """A thread a connection."""

    def __init__(self, opts=0, protos=0):
        libmilter.MilterProtocol.__init__(self, opts, protos)
        libmilter.ThreadMixin.__init__(self)


FILTERS = {"noop": Noop, "tagger": Tagger, "small": Small, "noreply": NoReply}
MODELS = {
    "threads": (Threaded, libmilter.ThreadFactory),
    "async": (libmilter.MilterProtocol, libmilter.AsyncFactory),
}


def own_spelling(address):
    """``unix:/path`` is ``/path`` here, ``inet:PORT@HOST`` is ``inet:HOST:PORT``."""
    family, _, rest = address.partition(":")
    if family == "unix":
        return rest
    port, _, host = rest.partition("@")
    return f"inet:{host}:{port}"


def main():
    model, address, kind = sys.argv[1:]
    base, factory = MODELS[model]
    protocol = type("Filter", (FILTERS[kind], base), {})
    actions = libmilter.SMFIF_ADDHDRS | libmilter.SMFIF_CHGHDRS if kind == "tagger" else 0
    factory(own_spelling(address), protocol, opts=actions, listenq=1024).run()


main()
