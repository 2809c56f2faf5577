"""Proofs under load: what pmilter promises, tried with real processes and a real Postfix; ``python -m proofs``."""
