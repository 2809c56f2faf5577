"""The filters that are served in proofs."""
