"""What routings and ways to decode are called, wherever they are offered. Imports nothing, so that help is quick."""

POLICIES = ("exact", "cache-prior", "max-rank", "cumulative")
DEFAULT_ROUTING = "cache-prior"
#: Policies, and the baselines that only an evaluation knows.
EVALUATED = (*POLICIES, "pruned", "belady")
#: Where decode routes: inside MLX's graph, or in Python after a read-back; "auto" chooses.
NATIVE, READBACK = "native", "readback"
DECODE_WAYS = ("auto", NATIVE, READBACK)
