"""The evidence: what a routing policy and a cap cost in quality and save in reads, scored token by token at decode.

`trace`, `replay`, `belady`, `setting` and `pruned` know no MLX: a recorded trace is replayed without the model.
"""
