"""The benchmark's filters on pymilter: ``pymilter_filter.py ADDRESS noop|tagger|small|noreply``."""

# pymilter has no types, and its callbacks take what they do not use.
# ruff: noqa: ANN001, ANN002, ANN201, ARG002

import sys

import Milter


class Noop(Milter.Base):
    """Every callback, and each is answered."""

    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE

    def hello(self, name):
        return Milter.CONTINUE

    def envfrom(self, address, *parameters):
        return Milter.CONTINUE

    def envrcpt(self, address, *parameters):
        return Milter.CONTINUE

    def data(self):
        return Milter.CONTINUE

    def unknown(self, command):
        return Milter.CONTINUE

    def header(self, name, value):
        return Milter.CONTINUE

    def eoh(self):
        return Milter.CONTINUE

    def body(self, chunk):
        return Milter.CONTINUE

    def eom(self):
        return Milter.ACCEPT

    def abort(self):
        return Milter.CONTINUE

    def close(self):
        return Milter.CONTINUE


class Tagger(Noop):
    """Two changes at end of message."""

    def eom(self):
        self.addheader("X-Tagged", "yes")
        self.chgheader("Subject", 1, "[tagged] minutes")
        return Milter.ACCEPT


class Small(Milter.Base):
    """Two callbacks; the rest is negotiated away."""

    def envrcpt(self, address, *parameters):
        return Milter.CONTINUE

    def eom(self):
        return Milter.ACCEPT


class NoReply(Milter.Base):
    """Every callback, none answered but the last."""

    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE

    @Milter.noreply
    def hello(self, name):
        return Milter.CONTINUE

    @Milter.noreply
    def envfrom(self, address, *parameters):
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, address, *parameters):
        return Milter.CONTINUE

    @Milter.noreply
    def data(self):
        return Milter.CONTINUE

    @Milter.noreply
    def unknown(self, command):
        return Milter.CONTINUE

    @Milter.noreply
    def header(self, name, value):
        return Milter.CONTINUE

    @Milter.noreply
    def eoh(self):
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, chunk):
        return Milter.CONTINUE

    def eom(self):
        return Milter.ACCEPT


FILTERS = {"noop": Noop, "tagger": Tagger, "small": Small, "noreply": NoReply}


def main():
    address, kind = sys.argv[1:]
    Milter.factory = FILTERS[kind]
    Milter.set_flags(Milter.ADDHDRS + Milter.CHGHDRS if kind == "tagger" else 0)
    Milter.runmilter("benchmark", address)


main()
