"""`moe-mlx convert --bits-per-weight`: measured, given, kept, resumed, refused by name, told wherever it is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.bits.giving import Giving
from moe_mlx.cli import main
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import ExpertReadError, MoeMlxError, UnsupportedModelError, UsageError
from moe_mlx.store import ExpertSource, StoreSource, open_source
from moe_mlx.store.given import bits_words, mean_bits
from moe_mlx.store.identity import identity_of
from moe_mlx.store.row_share import RowShare
from moe_mlx.store.store import read_manifest
from moe_mlx_convert import convert, give_bits, upgrade, verify
from moe_mlx_tui.engine.reports import receipt_of
from moe_mlx_tui.widgets.answer_view import receipt_line
from tests.checkpoints import AFFINE4, make_checkpoint, tiny_checkpoint
from tests.convert.contents import contents
from tests.damage import experts, flip
from tests.fault.faults import ERRNOS, CountingFs, FaultyFs
from tests.fewer_bits import Drawn, drawn, drawn_store

TEXT = "the quick brown fox jumps over the lazy dog and the lazy dog looks on\n" * 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a text, and a store of 3 bits in the mean."""
    folder = tmp_path_factory.mktemp("fewer")
    tiny_checkpoint("qwen3_moe", folder / "source", quantization=AFFINE4)
    (folder / "text.txt").write_text(TEXT)
    before = contents(folder / "source")
    words = ["--calibration", str(folder / "text.txt"), "--calibration-tokens", "64"]
    assert main([*convert_words(folder, "store"), "--bits-per-weight", "3", *words]) == 0
    assert contents(folder / "source") == before
    return folder


def convert_words(folder: Path, store: str) -> list[str]:
    return ["convert", "--model", str(folder / "source"), "--mlx-path", str(folder / store)]


def test_what_was_asked_for_is_spent_and_kept(made: Path) -> None:
    manifest = read_manifest(made / "store")
    assert manifest.version == 3
    assert manifest.calibration.startswith("64 tokens of text.txt (")
    assert {width for stored in manifest.layers for width in stored.bits} == {2, 3, 4}
    assert all(stored.error is not None and 0 <= stored.error < 0.2 for stored in manifest.layers)
    files = sum(path.stat().st_size - stored_offset(manifest) for path in experts(made / "store"))
    assert files == manifest.stored_nbytes < manifest.experts_nbytes
    with open_source(made / "store") as source:
        assert mean_bits(source) == pytest.approx(3, abs=0.03)
        assert source.stored_nbytes(0, 0) <= source.layers[0].expert_nbytes
    assert verify(made / "store").ok


def stored_offset(manifest: Any) -> int:
    return int(manifest.layers[0].data_offset)


def test_it_is_another_model(made: Path, tmp_path: Path) -> None:
    """By its identity histories, verdicts and kept prompts are told apart, whatever two experts have."""
    convert(str(made / "source"), tmp_path / "plain")
    identities = set()
    for folder in (made / "source", tmp_path / "plain", made / "store"):
        with open_source(folder) as source:
            identities.add(identity_of(source))
    assert len(identities) == 2


def test_every_face_says_so(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_source(made / "store") as source:
        bits = f"{mean_bits(source):.4g} bits of 4 a weight"
        assert bits_words(source) == bits
    assert main(["inspect", str(made / "store")]) == 0
    shown = capsys.readouterr().out
    assert f"a store of version 3 ({bits})" in shown
    assert "error of its output" in shown
    assert "measured on 64 tokens of text.txt" in shown
    assert main(["inspect", str(made / "store"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = read_manifest(made / "store")
    assert [layer["bits"] for layer in told["layers"]] == [list(layer.bits) for layer in stored.layers]
    assert told["experts_stored_bytes"] == stored.stored_nbytes
    assert main(["plan", str(made / "store"), "--chip", "m4"]) in (0, 4)
    assert f": {bits}" in capsys.readouterr().out
    words = ["--model", str(made / "store"), "--prompt", "a", "--max-tokens", "3", "--expert-cache", "50%"]
    words += ["--decode", "readback"]
    assert main(["generate", *words]) == 0
    err = capsys.readouterr().err
    assert f"its experts have {bits}, which is not the model that they were made of" in err
    assert f"experts of {bits}" in err.splitlines()[-1]


def test_the_app_s_answers_say_so(made: Path) -> None:
    model, tokenizer = moe_mlx.load(made / "store", expert_cache="50%", decode="readback", say=lambda line: None)
    session = Session(model, tokenizer, Sampling(max_tokens=2))
    list(session.answer(session.encode([{"role": "user", "content": "a"}])))
    assert session.last is not None
    line = receipt_line(receipt_of(session.last, session)).plain
    assert f" · experts of {bits_words(session.runtime.source)}" in line
    assert "of 4 a weight" in line
    session.close()


def test_what_is_read_is_counted_as_it_is_stored(made: Path) -> None:
    said: list[str] = []
    model, _ = moe_mlx.load(made / "store", expert_cache="25%", decode="readback", routing="exact", say=said.append)
    from tests.families.calls import answer

    answer(model)
    totals, source = moe_mlx.stats(model), moe_mlx.runtime_of(model).source
    sizes = {source.stored_nbytes(layer.index, e) for layer in source.layers for e in range(layer.experts)}
    decode = totals.decode
    assert len(sizes) == 3
    assert min(sizes) * decode.misses < decode.bytes_read < max(sizes) * decode.misses
    assert any("bits of 4 a weight" in line for line in said)


@pytest.mark.parametrize("bits", ["2", "3", "4"])
def test_the_same_for_all(made: Path, bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*convert_words(made, "x")[:-1], str(tmp_path / "store"), "--bits-per-weight", bits, "--bits-by", "uniform"]
    assert main([*words, "--json"]) == 0
    given = json.loads(capsys.readouterr().out)["given"]
    assert {width for layer in given["bits"] for width in layer} == {int(bits)}
    assert (given["spent"], given["calibration"], set(given["errors"])) == (float(bits), "", {None})
    if bits == "4":  # the source's own experts
        with open_source(made / "source") as source, StoreSource.open(tmp_path / "store") as stored:
            assert stored.digest(0, 0) is not None
            for layer in source.layers:
                for expert in range(layer.experts):
                    ours, theirs = ([bytearray(t.nbytes) for t in layer.tensors] for _ in range(2))
                    source.read_into(layer.index, expert, list(map(memoryview, theirs)))
                    stored.read_into(layer.index, expert, list(map(memoryview, ours)))
                    assert ours == theirs


def test_by_layer(made: Path, tmp_path: Path) -> None:
    words = [*convert_words(made, "x")[:-1], str(tmp_path / "store"), "--bits-per-weight", "3", "--bits-by", "layer"]
    assert main([*words, "--calibration", str(made / "text.txt")]) == 0
    manifest = read_manifest(tmp_path / "store")
    assert all(len(set(stored.bits)) == 1 for stored in manifest.layers)
    assert manifest.stored_nbytes == manifest.experts_nbytes < read_manifest(made / "store").experts_nbytes
    with open_source(tmp_path / "store") as source:
        assert mean_bits(source) == pytest.approx(3)
        assert bits_words(source) == "3 bits a weight"


def test_a_resumed_run_takes_the_bits_of_the_first(made: Path, tmp_path: Path) -> None:
    givers: list[Drawn] = []

    def giver(source: ExpertSource) -> Drawn:
        givers.append(Drawn(source, seed=len(givers)))
        return givers[-1]

    counting = CountingFs()
    first = give_bits(str(made / "source"), tmp_path / "counted", giver, fs=counting)
    givers.clear()
    faulty = FaultyFs(counting.count // 2, ERRNOS["EIO"], lasting=True)
    with pytest.raises(MoeMlxError):
        give_bits(str(made / "source"), tmp_path / "store", giver, fs=faulty)
    again = give_bits(str(made / "source"), tmp_path / "store", giver)
    assert again.given == first.given
    assert again.files_resumed > 0
    assert [one.asks for one in givers] == [1, 0], "the second run measured again"
    assert contents(tmp_path / "store") == contents(tmp_path / "counted")


def test_a_run_that_asks_for_other_bits_is_no_resumption(made: Path, tmp_path: Path) -> None:
    counting = CountingFs()
    drawn(made / "source", tmp_path / "counted", fs=counting)
    with pytest.raises(MoeMlxError):
        drawn(made / "source", tmp_path / "store", fs=FaultyFs(counting.count // 2, ERRNOS["EIO"], lasting=True))

    def giver(source: ExpertSource) -> Giving:
        return Giving(source, 2, by="uniform")

    with pytest.raises(MoeMlxError, match="begun from another checkpoint"):
        give_bits(str(made / "source"), tmp_path / "store", giver)


@pytest.mark.parametrize("decode", ["native", "readback"])
def test_a_damaged_expert_is_named(made: Path, decode: str, tmp_path: Path) -> None:
    store = drawn_store(made / "source", tmp_path / "store")
    bits = read_manifest(store).layers[0].bits
    for expert in (bits.index(2), bits.index(4)):
        flip(experts(store)[expert])
    damage = verify(store).damage
    assert [(one.layer, one.expert) for one in damage] == [(1, 0), (1, 2)]
    model, _ = moe_mlx.load(store, expert_cache="25%", decode="readback", routing="exact", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    with pytest.raises(ExpertReadError, match=r"layer 1, expert 2: part whole: digest is") as caught:
        runtime.layers[0].fill([2])
    assert caught.value.path == experts(store)[2]
    with pytest.raises(ExpertReadError, match=r"layer 1, expert 0: digest is"):
        runtime.layers[0].fill([0])
    runtime.close()
    if decode == "native":
        model, _ = moe_mlx.load(store, expert_cache="25%", routing="exact", say=lambda line: None)
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        if moe_mlx.runtime_of(model).decode_way != "native":
            pytest.skip("no in-graph decode here")
        cache = make_prompt_cache(model)
        with pytest.raises(ExpertReadError, match=r"layer 1, expert [02]: (part whole: )?digest is"):
            for token in range(60):
                mx.eval(model(mx.array([[token]]), cache=cache))


REFUSED: dict[str, tuple[list[str], str]] = {
    "nested": (["--nested"], "--nested does not go with --bits-per-weight: an expert of fewer bits has no high bits"),
    "deleting": (["--delete-source-shards"], "the model is read twice"),
    "sharing out": (["--machines", "8GB,8GB"], "every machine reads the whole one"),
    "foreign code": (["--trust-remote-code"], "is not measured"),
    "one bit": (["--bits-per-weight", "1"], "1 bits a weight: give 2 to 4"),
    "five bits": (["--bits-per-weight", "5"], "5 bits a weight: give 2 to 4"),
    "uniform between": (["--bits-by", "uniform"], "3.5 bits for every expert: give one of 2, 3, 4"),
    "uniform by a text": (["--bits-by", "uniform", "--calibration", "x"], "--bits-by uniform measures nothing"),
    "no such text": (["--calibration", "nowhere.txt"], "nowhere.txt cannot be read"),
    "no tokens": (["--calibration-tokens", "0"], "calibration_tokens is 0"),
    "row blocks": (["--row-blocks"], "machines share no rows of experts that have bits of their own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_is_refused_by_name(
    case: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = REFUSED[case]
    words = ["convert", "--model", str(made / "source"), "--mlx-path", str(tmp_path / "store")]
    assert main([*words, "--bits-per-weight", "3.5", *options]) in (2, 3)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--bits-by=uniform", "--calibration=x", "--calibration-tokens=3"])
def test_what_has_no_effect_alone_is_refused(
    option: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "--model", str(made / "source"), "--mlx-path", str(tmp_path / "s"), option]) == 2
    assert "belongs to --bits-per-weight" in capsys.readouterr().err


def test_models_that_cannot_be_given_fewer_bits_are_refused(made: Path, tmp_path: Path) -> None:
    drawn_store(made / "source", tmp_path / "store")
    with pytest.raises(UsageError, match="bits of their own already"):
        drawn(tmp_path / "store", tmp_path / "again")
    with pytest.raises(UsageError, match="of version 3, which is not upgraded"):
        upgrade(tmp_path / "store", nested=True)
    make_checkpoint(tmp_path / "three", quantize={"group_size": 32, "bits": 3})
    with pytest.raises(UnsupportedModelError, match="gate_proj has 3 bits already"):
        drawn(tmp_path / "three", tmp_path / "again")
    make_checkpoint(tmp_path / "mx", quantize={"group_size": 32, "bits": 4, "mode": "mxfp4"})
    with pytest.raises(UnsupportedModelError, match="gate_proj is quantised as mxfp4"):
        drawn(tmp_path / "mx", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "again.partial").exists()


@pytest.mark.parametrize("light", ["coarse", "late-coarse"])
def test_coarse_experts_are_refused_by_name(made: Path, light: str) -> None:
    """What there is no high half of has no coarse form: it is said, and every expert is whole."""
    said: list[str] = []
    model, _ = moe_mlx.load(made / "store", expert_cache="50%", light=light, decode="readback", say=said.append)
    assert any(f"--light {light}" in line for line in said), said
    assert not any(moe_mlx.runtime_of(model).low_slots_per_layer)


def test_late_experts_batches_and_prefetch_run(made: Path) -> None:
    import mlx.core as mx

    outputs = []
    for decode in ("auto", "readback"):
        model, _ = moe_mlx.load(
            made / "store", expert_cache="25%", light="late", light_beyond=0.2, decode=decode, say=lambda line: None
        )
        cache = None
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(model)
        found = [model(mx.array([[token]]), cache=cache) for token in range(5, 40)]
        found.append(model(mx.array([[3, 4], [5, 6], [7, 8]])))
        mx.eval(found)
        assert moe_mlx.stats(model).decode.late > 0
        outputs.append(found)
    assert all(bool(mx.array_equal(a, b)) for a, b in zip(*outputs, strict=True))


def test_rows_of_them_are_not_shared_among_machines(made: Path, tmp_path: Path) -> None:
    store = drawn_store(made / "source", tmp_path / "store", row_blocks=4)
    with StoreSource.open(store) as source, pytest.raises(UsageError, match="machines do not share rows of such"):
        RowShare(source, range(2))
