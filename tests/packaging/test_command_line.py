"""The command as a user meets it: help without MLX, exit codes, messages on standard error, data on standard output."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_mlx.cli import VERBS, main
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


def moe_mlx(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moe_mlx", *words]
    return subprocess.run(command, check=False, input=stdin or "", capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_there_and_imports_no_mlx(verb: str):
    program = (
        "import sys\n"
        "from moe_mlx.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'mlx', 'mlx_lm', 'numpy', 'textual', 'transformers'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    words = [verb, "--help"] if verb else ["--help"]
    run = subprocess.run(
        [sys.executable, "-c", program, *words], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert f"moe-mlx {verb}".strip() in run.stdout


def test_an_unknown_verb_is_a_usage_error_that_names_the_verbs():
    run = moe_mlx("fly")
    assert (run.returncode, run.stdout) == (2, "")
    assert "chat" in run.stderr


def test_an_option_without_a_verb_is_told_where_it_belongs(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--model", "demo"])
    said = "moe-mlx: --model needs a verb before it, such as moe-mlx chat --model demo. `moe-mlx --help` explains.\n"
    assert (left.value.code, capsys.readouterr()) == (2, ("", said))


def test_no_verb_shows_the_help_as_an_error():
    run = moe_mlx()
    assert (run.returncode, run.stdout) == (2, "")
    assert "verbs:" in run.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "/no/such/folder"], 3, "/no/such/folder"),
        (["--expert-cache", "0%"], 2, "share"),
        (["--expert-cache", "many"], 2, "4GB"),
        (["--expert-cache", "1kB"], 4, "smallest"),
        (["--expert-cache", "5%"], 4, "smallest"),
        (["--route-lambda", "1.5"], 2, "0 to 1"),
        (["--route-lambda", "nan"], 2, "0 to 1"),
        (["--route-top-j", "-1"], 2, "0 or more"),
        (["--routing", "best"], 2, "cache-prior"),
        (["--max-tokens", "0"], 2, "max_tokens"),
        (["--temp", "-1"], 2, "temp"),
        (["--readers", "0"], 2, "--readers"),
        (["--adapter-path", "/no/such/adapter"], 3, "adapter"),
        (["--chat-template-config", "{"], 2, "JSON"),
        (["-p", ""], 2, "empty"),
        (["--seed", "-1"], 2, "seed"),
        (["--top-k", "100000", "--temp", "1"], 2, "top_k"),
        (["--model", "demo", "--kv-bits", "4"], 2, "kv_group_size"),
        (["--model", "demo", "--extra-eos-token", "no-such-token"], 2, "--extra-eos-token"),
        (["--history", "here", "--no-history"], 2, "contradict"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_its_exit_code(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
):
    given = ["generate", "--model", str(checkpoint), "-p", "hi", "--ignore-chat-template", *words]
    try:
        ended = main(given)
    except SystemExit as stop:
        ended = stop.code
    printed = capsys.readouterr()
    assert (ended, printed.out) == (code, ""), printed.err
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_a_process_ends_with_that_code(checkpoint: Path):
    run = moe_mlx("generate", "--model", str(checkpoint), "--expert-cache", "1kB", "-p", "hi")
    assert (run.returncode, run.stdout) == (4, ""), run.stderr
    assert "smallest" in run.stderr
    assert "Traceback" not in run.stderr


def test_json_is_one_object_with_the_promised_names(checkpoint: Path):
    run = moe_mlx(
        "generate", "--model", str(checkpoint), "--expert-cache", "50%", "-p", "-", "-m", "9", "--json", stdin="hi"
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    promised = (
        "text tokens prompt_tokens generation_tokens prompt_tps generation_tps peak_memory_bytes expert_cache_bytes "
        "slots_per_layer hits misses hit_rate bytes_read swapped routing "
        "hinted hint_hits hint_precision hint_recall wasted_bytes"
    )
    assert set(promised.split()) <= set(told)
    assert told["generation_tokens"] == len(told["tokens"]) == 9
    assert told["slots_per_layer"] == [8, 8]
    assert told["hits"] + told["misses"] == 10 * 2 * 3  # ten decode steps (one ahead), two layers, top-3


def test_chat_in_lines_answers_and_keeps_its_cache(checkpoint: Path):
    run = moe_mlx("chat", "--plain", "--model", str(checkpoint), "-m", "6", stdin="hello\nand then\n/stats\n/quit\n")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("tokens at") == 2
    assert "kept)" in run.stderr
    assert "decode so far" in run.stderr


def test_chat_in_lines_says_what_the_model_no_longer_sees(checkpoint: Path):
    words = ("chat", "--plain", "--model", str(checkpoint), "-m", "3", "--max-kv-size", "16", "--no-history")
    run = moe_mlx(*words, stdin="a message that is longer than that\nand another one\n")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("the KV cache keeps 16 (--max-kv-size)") == 1


def test_a_command_that_there_is_not_is_no_message(checkpoint: Path):
    run = moe_mlx("chat", "--plain", "--model", str(checkpoint), "-m", "3", "--no-history", stdin="/stast\n")
    assert (run.returncode, run.stdout) == (0, "")
    assert "did you mean /stats?" in run.stderr


def on_a_terminal(*words: str, term: str, keys: bytes) -> tuple[int, str]:
    """Runs the command on a terminal of its own and types when it has said something of a model."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = term
        os.execv(sys.executable, [sys.executable, "-m", "moe_mlx", *words])
    seen, end, typed = "", time.monotonic() + 120, False
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the other side has ended
            break
        if not typed and ("could not be loaded" in seen or "type a message" in seen):
            typed = os.write(terminal, keys) > 0
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def test_a_dumb_terminal_gets_lines(checkpoint: Path):
    words = ["chat", "--model", str(checkpoint), "--no-history", "--decode", "readback"]
    code, seen = on_a_terminal(*words, term="dumb", keys=b"/quit\n")
    assert code == 0 and "type a message" in seen and "\x1b" not in seen


def test_the_app_left_after_a_failed_load_says_why():
    code, seen = on_a_terminal("chat", "--model", "/no/such/model", term="xterm-256color", keys=b"\x11")
    assert code == 3 and "moe-mlx chat: no model at /no/such/model" in seen.replace("\r\n", "")


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay", "assets/demo-chat.jsonl"], "--svg"),
        (["replay", "assets/demo-chat.jsonl", "--svg", "x.svg", "--size", "0x0"], "10 to 1000"),
        (["chat", "--plain", "--resume"], "--resume"),
        (["chat", "--record", "x.jsonl"], "--record"),
        (["chat", "--plain", "--web"], "contradict"),
        (["chat", "--web", "--port", "99999"], "65535"),
    ],
)
def test_what_needs_a_terminal_or_an_app_is_one_line(words: list[str], said: str):
    run = moe_mlx(*words)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert said in run.stderr and "\x1b" not in run.stderr


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("continued", [1, 2])
def test_the_app_ends_with_its_terminal(checkpoint: Path, tmp_path: Path, continued: int):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "MOE_MLX_HOME": str(tmp_path)}
        words = ["chat", "--model", str(checkpoint), "--no-history", "--decode", "readback"]
        os.execv(sys.executable, [sys.executable, "-m", "moe_mlx", *words])
    seen, end = "", time.monotonic() + 60
    while "idle" not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    for _ in range(continued):  # a hang-up continues the process, too
        os.kill(pid, signal.SIGCONT)
        select.select([terminal], [], [], 0.5)
        os.read(terminal, 65536)
    os.close(terminal)
    end = time.monotonic() + 30
    while not (ended := os.waitpid(pid, os.WNOHANG)[0] == pid) and time.monotonic() < end:
        select.select([], [], [], 0.1)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert ended, "it goes on without a terminal"


@pytest.mark.slow
def test_chat_warms_up_while_its_user_types(checkpoint: Path, tmp_path: Path):
    words = ["chat", "--plain", "--model", str(checkpoint), "--expert-cache", "50%", "--routing", "exact", "-m", "6"]
    words += ["--history", str(tmp_path / "history")]
    assert "warmed" not in moe_mlx(*words, stdin="hello\n").stderr
    assert "warmed" not in moe_mlx(*words, stdin="hello\n").stderr, "the question is there already: nothing is delayed"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "moe_mlx", *words])
    seen, end = "", time.monotonic() + 120
    typed = ["hello\n", "/quit\n"]
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                seen += os.read(terminal, 4096).decode()
            except OSError:  # the other side has ended
                break
        elif typed and seen.count("> ") > 2 - len(typed):
            os.write(terminal, typed.pop(0).encode())
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, seen
    assert "warmed 16]" in seen, seen


def test_closed_streams_are_no_surprise(checkpoint: Path):
    words = ["generate", "--model", str(checkpoint), "-p", "-", "-m", "3", "--no-history", "--decode", "readback"]
    for closed in ("<&-", ">&- 2>&-"):
        command = f'exec "$0" -m moe_mlx "$@" {closed}'
        run = subprocess.run(
            ["sh", "-c", command, sys.executable, *words],
            check=False,
            input="hi",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr


def test_a_prompt_that_is_no_utf_8_is_answered(checkpoint: Path):
    command = [sys.executable, "-m", "moe_mlx", "generate", "--model", str(checkpoint), "-m", "3", "-p", b"caf\xe9"]
    run = subprocess.run(
        command, check=False, capture_output=True, timeout=120, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_demo_is_a_model_for_every_verb_that_takes_one(tmp_path: Path):
    assert json.loads(moe_mlx("inspect", "demo", "--json").stdout)["experts"] == 256
    assert moe_mlx("convert", "--model", "demo", "--mlx-path", str(tmp_path / "store")).returncode == 0


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_chat_that_is_told_to_end_says_by_whom(checkpoint: Path, number: signal.Signals, code: int):
    words = ["chat", "--plain", "--model", str(checkpoint), "--decode", "readback", "--no-history", "-m", "3"]
    command = [sys.executable, "-m", "moe_mlx", *words]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as chat:
        assert chat.stdin is not None and chat.stderr is not None
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        while not chat.stderr.readline().startswith("[3 tokens"):  # then it waits for the next line
            assert chat.poll() is None
        chat.send_signal(number)
        assert chat.wait(60) == code


def test_generate_says_when_a_prompt_is_longer_than_the_context(checkpoint: Path):
    run = moe_mlx("generate", "--model", str(checkpoint), "-p", "a" * 600, "-m", "2", "--decode", "readback")
    assert run.returncode == 0
    assert run.stderr.count("made for 512") == 1
