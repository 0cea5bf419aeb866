"""What routings and ways to decode are called, wherever they are offered. Imports nothing, so that help is quick."""

POLICIES = ("exact", "cache-prior", "max-rank", "cumulative")
DEFAULT_ROUTING = "cache-prior"
#: Policies, and the baselines that only an evaluation knows.
EVALUATED = (*POLICIES, "pruned", "belady")
#: What only scoring at decode can judge, and so no replay: a layer's experts chosen from an earlier layer's input, and
#: half of them for tokens that the model is sure of.
AHEAD, EASY = "ahead", "easy"
#: What was tried and is not offered, measured where it is named: absent experts left out and read behind the token's
#: back; every expert's codes at fewer levels.
UNWAITED, ROUNDED = "unwaited", "rounded"
REFUSED = (UNWAITED, ROUNDED)
SCORED = (*EVALUATED, AHEAD, EASY, *REFUSED)
#: What an absent expert of little weight may do at decode: be waited for like any other, join one layer later, be used
#: at its high bits, or both.
EXACT, LATE, COARSE, LATE_COARSE = "exact", "late", "coarse", "late-coarse"
LIGHTS = (EXACT, LATE, COARSE, LATE_COARSE)
#: Those of them that join later: by how many layers, `--light-distance` says.
LATER = (LATE, LATE_COARSE)
#: Those that use high bits: which, `--light-form` says.
COARSES = (COARSE, LATE_COARSE)
#: What of an expert a coarse one is: every weight at its high bits, or the same with `down_proj` (the last one) whole.
#: The words of `moe_mlx/store/parts.py`.
LIGHT_FORMS = ("2", "2-down4")
DEFAULT_FORM = "2"
#: Of what was tried on two trained models the least KL for the misses it takes off the critical path; layers.
DEFAULT_BEYOND, DEFAULT_DISTANCE = 0.6, 1
#: In place of a number: the thresholds that `eval --fit-light` found, layer by layer.
BY_LAYER = "layers"
#: What was tried and is not offered: such an expert left out, the others weighing more. An evaluation reproduces it.
DROPPED = "dropped"
EVALUATED_LIGHTS = (*LIGHTS, DROPPED)
#: Where decode routes: inside MLX's graph, or in Python after a read-back; "auto" chooses.
NATIVE, READBACK = "native", "readback"
DECODE_WAYS = ("auto", NATIVE, READBACK)
