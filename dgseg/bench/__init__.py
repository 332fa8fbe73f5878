"""Benchmarks beside what one would use instead; for the operators with the hardware's limit in the same table.

Reading order: case.py (what is compared), timing.py, memory.py and floors.py (how), cases/ (the inputs and the peers
of every operator), ops.py (the run), report.py (the table and the JSON). part.py and samplers.py are a part of the
benchmark of what stands between disk and batches.
"""
