"""Benchmarks: `python -m bench`.  Us and the official client, same endpoint, same rows, alternating.

`__main__` the pairs and the report; `worker` one measurement in a process of its own; `workloads` the
rows; `sink` the endpoint; `machine` what the figures were taken on.
"""
