"""Use, pairs, affinity and guessers: against counts made by hand, the runtime's own prefetch, and as a user sees it."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.evaluation.affinity import uses_of_trace
from moe_mlx.evaluation.documents import encode
from moe_mlx.evaluation.guessing import judge
from moe_mlx.evaluation.replay import replay
from moe_mlx.evaluation.scoring import next_tokens
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.trace import LayerTrace, load_trace
from tests.evaluation.conftest import TEXT


def layer(choices, experts=4, guess=None):
    exact = np.array(choices, dtype=np.int32)
    scores = np.zeros((len(choices), experts), dtype=np.float32)
    return LayerTrace(experts, exact.shape[1], 10, scores, scores, scores, exact, exact, guess)


def test_counts_are_those_of_a_hand():
    first, last = uses_of_trace([layer([[0, 1], [0, 1], [2, 0]]), layer([[3, 1], [3, 1], [0, 1]])])
    assert first.uses.tolist() == [3, 2, 1, 0]
    assert (first.used, last.used) == (3, 3)
    assert first.together.tolist() == [[3, 2, 1, 0], [2, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert first.onward[0].tolist() == [1, 3, 0, 2]
    assert last.onward is None
    assert first.pairs(1) == [(0, 1, pytest.approx(2 / 3), pytest.approx(1.0))]
    assert first.carried(0.25) == pytest.approx(0.5)
    shares = np.array([1 / 2, 1 / 3, 1 / 6])
    assert last.effective == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_affinity_guesses_what_always_follows_and_use_alone_does_not():
    rng = np.random.default_rng(0)
    here = rng.integers(0, 8, size=400)
    layers = [layer(here[:, None], experts=8), layer((here[:, None] + 3) % 8, experts=8)]
    by_name = {guess.guesser: guess for guess in judge(layers, (2, 2))}
    assert set(by_name) == {"affinity", "hottest"}  # no scores, no gate
    affinity, hottest = by_name["affinity"], by_name["hottest"]
    assert (affinity.precision, affinity.recall, affinity.wasted_bytes) == (1.0, 1.0, 0)
    assert affinity.misses == hottest.misses > 100
    assert hottest.precision < 0.3


def test_a_guess_of_a_resident_expert_begins_nothing():
    always = [[0]] * 10
    assert [guess.begun for guess in judge([layer(always), layer(always)], (1, 1))] == [0, 0]


def test_the_gate_in_a_trace_guesses_as_the_runtime_does(capped, evaluate, tmp_path):
    path = tmp_path / "exact.npz"
    evaluate([Setting("30%"), Setting("50%")], trace=path)
    trace = load_trace(path)
    assert trace.layers[0].guess is None
    model, tokenizer = capped(decode="native", prefetch="on", routing="exact")
    runtime = moe_mlx.runtime_of(model)
    gate = judge(trace.layers, runtime.slots_per_layer, learned=0)[0]
    runtime.reset()
    for logp, _ in next_tokens(model, encode([TEXT, TEXT[::-1]], tokenizer, 60)):
        mx.eval(logp)  # one token after the other, as an answer is made
    runtime.drain()
    decode = runtime.stats.decode
    assert (gate.guesser, gate.tokens) == ("gate", decode.tokens)
    # The first layer has misses too, and nobody guesses for it.
    unguessed = replay(replace(trace, layers=trace.layers[:1]), Setting("50%"), runtime.slots_per_layer[:1]).misses
    assert gate.misses == decode.misses - unguessed
    # A guess is not begun while its layer is busy, or while an earlier one of the same expert is still being read.
    assert 0.6 * gate.begun <= decode.hinted <= gate.begun
    assert 0.6 * gate.right <= decode.hint_hits <= gate.right


def test_as_a_user_sees_it(evaluate, checkpoint, tmp_path, capsys):
    path, picture = tmp_path / "exact.npz", tmp_path / "use.svg"
    evaluate([Setting("30%"), Setting("50%")], trace=path)
    assert main(["inspect", "--experts", str(path), "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "used together" in shown
    assert "affinity" in shown
    assert "tokens are too few to say more" in shown
    assert picture.stat().st_size > 5000
    assert main(["inspect", str(checkpoint()), "--experts", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["from"] == "trace"
    tokens = load_trace(path).tokens
    for one in found["layers"]:
        assert sum(one["uses"]) == tokens * 3
        assert [one["together"][e][e] for e in range(len(one["uses"]))] == one["uses"]
    assert [guess["guesser"] for guess in found["guesses"]] == ["gate", "affinity", "hottest"]


def test_a_history_shows_counts_and_says_what_it_lacks(capped, checkpoint, tmp_path, capsys):
    model, tokenizer = capped(history=tmp_path)
    from mlx_lm import generate

    generate(model, tokenizer, "a b c", max_tokens=12)
    moe_mlx.runtime_of(model).close()
    assert main(["inspect", str(checkpoint()), "--experts", "--history", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "A history holds counts alone" in shown
    assert "guesser" not in shown


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect"], "which model?"),
        (["inspect", "MODEL", "--plot", "x.svg"], "give --experts too"),
        (["inspect", "--experts", "FOLDER/none.npz"], "No such file"),
        (["inspect", "--experts", "FOLDER/no.json"], "name the MODEL before --experts"),
        (["inspect", "MODEL", "--experts", "FOLDER/no.json"], "neither a trace nor a history"),
        (["inspect", "MODEL", "--experts", "--history", "FOLDER/empty"], "chat with it first"),
        (["inspect", "MODEL", "--experts", "FOLDER/other.npz"], "recorded from another model"),
    ],
)
def test_what_is_refused(words, said, checkpoint, evaluate, tmp_path, capsys):
    (tmp_path / "no.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    evaluate([Setting("30%"), Setting("50%")], family="gpt_oss", trace=tmp_path / "other.npz")
    words = [word.replace("FOLDER", str(tmp_path)).replace("MODEL", str(checkpoint())) for word in words]
    assert main(words) == 2
    assert said in capsys.readouterr().err
