"""What routings are called, wherever they are offered. Imports nothing, so that help is quick."""

POLICIES = ("exact", "cache-prior", "max-rank", "cumulative")
DEFAULT_ROUTING = "cache-prior"
#: Policies, and the baselines that only an evaluation knows.
EVALUATED = (*POLICIES, "pruned", "belady")
