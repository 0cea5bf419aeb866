"""Ways for a program to end while steps are queued, and patience with what may hang."""

import threading
from collections.abc import Callable
from typing import Any

import mlx_lm

PATIENCE = 120

HEAD = """
import sys
import mlx.core as mx, mlx_lm, moe_mlx
from mlx_lm.models.cache import make_prompt_cache
model, tokenizer = moe_mlx.load(sys.argv[1], expert_cache="25%", decode="native", say=lambda line: None)
steps = [model(mx.array([[5 + n]])) for n in range(40)]
"""

ENDINGS = {
    "queued": "mx.async_eval(steps)",
    "unevaluated": "",
    "queued and exit": "mx.async_eval(steps)\nsys.exit(0)",
    "in mid-answer": "stream = mlx_lm.stream_generate(model, tokenizer, 'a fox', max_tokens=50)\nnext(stream)",
    "raising": "mx.async_eval(steps)\nraise SystemExit(0)",
    "model gone": "mx.async_eval(steps)\ndel model\nimport gc; gc.collect()",
    "in a forked child": "mx.eval(steps)\nimport os\nchild = os.fork()\n"
    "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
    "model closed": "mx.async_eval(steps)\nmoe_mlx.runtime_of(model).close()",
}


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """Runs `work` here and ends the process if it hangs: a deadlock with the GIL held stops Python's own timers."""
    import faulthandler

    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return work()
    finally:
        faulthandler.cancel_dump_traceback_later()


def in_one_thread_after_another(model: Any, tokenizer: Any, threads: int) -> list[str]:
    """Returns one answer of each thread."""
    told: list[str] = []

    def work() -> None:
        told.append(mlx_lm.generate(model, tokenizer, "what is a fox", max_tokens=30))

    def run() -> None:
        for _ in range(threads):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    within(PATIENCE, run)
    return told
