"""The version, as a literal: reading package metadata costs more than all other imports."""

__version__ = "0.1.0"
