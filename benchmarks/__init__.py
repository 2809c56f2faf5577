"""Speed, memory and latency of pmilter beside other milter libraries; ``python -m benchmarks``."""
