"""The fold: rows become integer counts, and counts add up over time, over partitions and over replicas.

`base` says what an accumulator is, `rows` what it is given, `registry` which there are. A new one is a file here and a
line there.
"""
