"""What is scored, against plain arithmetic on mlx-lm's own model."""

import itertools
import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.evaluation import reference as reference_module
from moe_mlx.evaluation.answering import accuracy, answer, prompt_tokens
from moe_mlx.evaluation.documents import WINDOW, Task, encode, read_tasks, read_texts, spread
from moe_mlx.evaluation.reference import Reference
from moe_mlx.evaluation.run import Evaluation
from moe_mlx.evaluation.scoring import Turns, next_tokens, score, score_reference
from moe_mlx.evaluation.setting import Setting

DOCUMENTS = [[3, 40, 41, 60, 61, 62, 33, 34], [70, 71, 72, 73, 50, 51]]
SCORED = sum(len(document) - 1 for document in DOCUMENTS)


def log_probabilities(model):
    """float64 `[T, V]` of a model's decode steps, each document from an empty cache, and the tokens to predict."""
    rows, following = [], []
    for document in DOCUMENTS:
        cache = make_prompt_cache(model)
        for token, then in itertools.pairwise(document):
            z = np.array(model(mx.array([[token]]), cache=cache)[0, -1]).astype(np.float64)
            rows.append(z - np.log(np.exp(z - z.max()).sum()) - z.max())
            following.append(then)
    return np.array(rows), np.array(following)


def test_scores_are_the_textbooks(checkpoint, capped):
    plain, _ = load_model(checkpoint())
    exact, following = log_probabilities(plain)
    model, _ = capped(expert_cache="30%", route_lambda=0.7, route_top_j=1)
    policy, _ = log_probabilities(model)
    moe_mlx.reset(model)
    place = np.arange(SCORED)
    with Reference(SCORED, exact.shape[1]) as reference:
        score_reference(plain, DOCUMENTS, reference, lambda done: None)
        assert reference.ppl == pytest.approx(np.exp(-exact[place, following].mean()), rel=1e-5)
        found = score(model, DOCUMENTS, reference, lambda done: None)
    nll = -policy[place, following]
    difference = nll + exact[place, following]
    assert found.ppl == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    assert found.ppl_change == pytest.approx(np.exp(difference.mean()) - 1, rel=1e-3)
    assert found.ppl_error == pytest.approx((1 + found.ppl_change) * difference.std(ddof=1) / SCORED**0.5, rel=1e-3)
    assert found.kl == pytest.approx((np.exp(exact) * (exact - policy)).sum(axis=1).mean(), rel=1e-3)
    assert found.kl > 0
    assert found.agreement == (exact.argmax(axis=1) == policy.argmax(axis=1)).mean()


def test_every_call_is_a_decode_step_and_residency_goes_on(capped):
    model, _ = capped()
    with Reference(SCORED, 128) as reference:
        score_reference(model, DOCUMENTS, reference, lambda done: None)
    stats = moe_mlx.stats(model)
    assert stats.decode.tokens == SCORED
    assert stats.prefill.tokens == 0
    assert moe_mlx.runtime_of(model).layers[0].table.resident


def test_of_a_conversation_answers_are_decoded_and_the_rest_is_a_prompt(capped):
    model, _ = capped(routing="exact")
    turns = Turns(begins=40, ends=60)
    assert turns.decoded([3, 40, 41, 60, 61, 40, 34]) == [False, True, True, False, False, True, True]
    documents = [[3, 5, 40, 41, 60, 61, 62, 40, 34, 35], [70, 71, 40, 72, 73, 60, 51]]
    assert turns.first(documents, 3) == [[3, 5, 40, 41, 60, 61, 62, 40, 34]]
    assert turns.first(documents, 100) == documents
    every = list(next_tokens(model, documents))
    moe_mlx.reset(model)
    some = list(next_tokens(model, documents, turns=turns))
    assert [then for _, then in some] == [41, 60, 34, 35, 72, 73, 60]
    heard = [answers for document in documents for answers in turns.decoded(document[:-1])]
    kept = [row for (row, _), answers in zip(every, heard, strict=True) if answers]
    assert np.allclose(np.array([row for row, _ in some]), np.array(kept), atol=1e-4)
    stats = moe_mlx.stats(model)
    assert (stats.decode.tokens, stats.prefill.tokens) == (7, 7)


def test_large_distributions_go_to_a_file_that_is_removed(monkeypatch):
    monkeypatch.setattr(reference_module, "IN_MEMORY", 100)
    with Reference(5, 20) as reference:
        reference.rows[3] = 7.0
        assert isinstance(reference.rows, np.memmap)
        path = reference.rows.filename
        assert path.exists()
    assert not path.exists()
    with pytest.raises(DoesNotFitError, match="--limit-tokens"):
        Reference(10**12, 10**6)


def test_an_answer_is_greedy_and_ends_where_the_model_ends_it(capped):
    model, tokenizer = capped(routing="exact")
    prompt = prompt_tokens(tokenizer, "Hello")
    tokens = list(prompt)
    for _ in range(6):
        tokens.append(int(mx.argmax(model(mx.array([tokens]))[0, -1]).item()))
    expected = tokenizer.decode(tokens[len(prompt) :])
    assert answer(model, tokenizer, prompt, 6) == expected
    right, wrong = Task("Hello", tokenizer.decode(tokens[len(prompt) :])), Task("Hello", "no")
    done = []
    assert accuracy(model, tokenizer, [wrong, wrong], done.append) == 0.0
    assert done == [1, 2]
    assert answer(model, tokenizer, prompt_tokens(tokenizer, right.prompt), 6).strip() == right.answer.strip()


def test_tasks_are_measured_beside_the_text(evaluate):
    report = evaluate([Setting("50%", "cache-prior", 0.3)], tasks=[Task("Hello", "x"), Task("Why", "y")])
    (row,) = report.rows.values()
    assert row.tasks == report.reference.tasks == 2
    assert row.accuracy == 0.0
    assert 0 < row.task_miss_rate < 1
    assert report.reference.task_miss_rate == 0.0


def test_a_cap_that_does_not_fit_is_refused_before_anything_is_measured(evaluate):
    with pytest.raises(DoesNotFitError, match="too small"):
        evaluate([Setting("50%"), Setting("2%")])


@pytest.mark.slow
def test_where_not_all_fits_the_reference_runs_under_the_largest_cap(evaluate, monkeypatch):
    whole = evaluate([Setting("30%"), Setting("50%", "cache-prior", 0.3)])
    monkeypatch.setattr(Evaluation, "_fits_whole", lambda self: False)
    capped = evaluate([Setting("30%"), Setting("50%", "cache-prior", 0.3)])
    assert capped.reference.cache == "50%"
    assert capped.reference.miss_rate > 0
    assert capped.reference.ppl == whole.reference.ppl
    assert capped.rows == whole.rows


def test_documents_are_cut_limited_and_counted(capped):
    _, tokenizer = capped()
    long = "a" * (WINDOW + 100)
    pieces = encode([long, "bc"], tokenizer)
    assert [len(piece) for piece in pieces] == [WINDOW, 100, 2]
    limited = encode([long, "bc"], tokenizer, WINDOW + 10)
    assert sum(len(piece) - 1 for piece in limited) == WINDOW + 10
    with pytest.raises(UsageError, match="two tokens"):
        encode(["a"], tokenizer)


def test_texts_and_tasks_come_from_files(tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert read_texts(str(lines)) == ["one", "two"]
    plain = tmp_path / "plain.txt"
    plain.write_text("a\n\nb")
    assert read_texts(str(plain)) == ["a\n\nb"]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"prompt": "1 + 1", "answer": "2", "skill": "sums"}))
    assert read_tasks(str(tasks)) == [Task("1 + 1", "2", "sums")]
    many = [Task(str(number), "") for number in range(10)]
    assert [task.prompt for task in spread(many, 4)] == ["0", "2", "5", "7"]
    assert spread(many, 20) == many


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", " \n", "is empty: there is nothing to score"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"text": 3}', 'line 1: a document needs a "text"'),
        ("a.jsonl", "nonsense", "line 1: no JSON"),
        ("a.jsonl", "[1]", "not an object"),
    ],
)
def test_bad_data_is_refused_by_name(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_texts(str(path))


def test_bad_tasks_are_refused_by_name(tmp_path):
    path = tmp_path / "t.jsonl"
    with pytest.raises(UsageError, match=r"t\.jsonl cannot be read: No such file"):
        read_tasks(str(path))
    path.write_text("")
    with pytest.raises(UsageError, match="no task"):
        read_tasks(str(path))
    path.write_text('{"prompt": "x"}')
    with pytest.raises(UsageError, match='line 1: a task needs a "prompt" and an "answer"'):
        read_tasks(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_tasks(str(path))
