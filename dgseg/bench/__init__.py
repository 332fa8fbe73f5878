"""Benchmarks of the operators beside what one would use instead, with the hardware's limit in the same table.

Reading order: case.py (what is compared), timing.py, memory.py and floors.py (how), cases/ (the inputs and the peers
of every operator), ops.py (the run), report.py (the table and the JSON).
"""
