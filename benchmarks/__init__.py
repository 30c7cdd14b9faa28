"""Benchmarks against stock Prefect and other engines: ``python -m benchmarks NAME [--json]``. One file per benchmark.

A benchmark measures Standby and what it is compared with in the same run, against the same real Prefect server.
"""
