"""Profiles: a history by task under a name, copied as one file, and whatever is no profile is refused."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.history.file import LayerHistory, write_history
from moe_mlx.history.light_fits import LightFit, keep_fit, read_fit
from moe_mlx.history.profiles import check_profile, import_profile, profile_path, profiles_of
from moe_mlx.store.demo import demo_path

MODEL, OTHER = "0123456789abcdef" * 2, "f" * 32
KEPT = (LayerHistory((1, 2.5, 0, 4), (0, 1, 2, 3), (5, 0, 1, 0, 2)), LayerHistory.empty(4))
FIT = LightFit("late", 0.6, 1, "50%", "d" * 32, 1500, (0.3, 0.8))
BAD_NAMES = ["", ".", "..", "../up", "a/b", "/root", "a\\b", "-x", ".x", "Coding", "a b", "a\n", "é", "a" * 65, "a\0"]


@pytest.fixture
def coding(tmp_path: Path) -> Path:
    path = profile_path(tmp_path, "coding", MODEL)
    write_history(path, MODEL, KEPT, "coding")
    return path


def verb(tmp_path: Path, *words: str) -> int:
    return main(["profile", *words, "--history", str(tmp_path)])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path, coding: Path):
    with pytest.raises(UsageError, match="give a name"):
        check_profile(name)
    hostile = tmp_path / "hostile.json"
    hostile.write_text(json.dumps({**json.loads(coding.read_text()), "profile": name}))
    with pytest.raises(UsageError, match=r"give a name|says no name"):
        import_profile(tmp_path / "mine", hostile)
    assert not (tmp_path / "mine").exists()


def test_a_profile_goes_to_another_machine_as_one_file(tmp_path: Path, coding: Path, capsys):
    file = tmp_path / "coding.json"
    assert verb(tmp_path, "export", "coding", str(file)) == 0
    assert verb(tmp_path, "export", "coding") == 0
    assert capsys.readouterr().out == file.read_text() == coding.read_text()
    there = tmp_path / "there"
    assert verb(there, "import", str(file)) == 0
    assert verb(there, "import", str(file), "--name", "work") == 0
    assert profile_path(there, "coding", MODEL).read_text() == coding.read_text()
    assert [(profile.name, profile.history) for profile in profiles_of(there)] == [("coding", KEPT), ("work", KEPT)]
    capsys.readouterr()
    assert verb(there, "list", "--json") == 0
    row = json.loads(capsys.readouterr().out)["profiles"][0]
    assert (row["profile"], row["model"], row["experts"]) == ("coding", MODEL, [4, 4])
    assert (row["decode_uses"], row["prompt_uses"], row["problem"]) == (7.5, 6, None)
    assert verb(there, "list") == 0
    assert "coding" in capsys.readouterr().out
    assert verb(there, "remove", "coding") == 0
    assert [path.name for path in (there / "profiles").iterdir()] == ["work"]


def test_thresholds_of_light_experts_go_along(tmp_path: Path, coding: Path, capsys):
    keep_fit(MODEL, FIT, coding)
    file, there = tmp_path / "coding.json", tmp_path / "there"
    assert verb(tmp_path, "export", "coding", str(file)) == 0
    assert verb(there, "import", str(file)) == 0
    (kept,) = profiles_of(there)
    assert kept.fits == (FIT,) and kept.history == KEPT
    assert read_fit(MODEL, "late", 0.6, 1, 2, kept.path) == FIT
    capsys.readouterr()
    assert verb(there, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["profiles"][0]["light_fits"] == 1
    write_history(coding, MODEL, KEPT, "coding")
    assert profiles_of(tmp_path)[0].fits == (FIT,), "an answer that ends writes the history and nothing else"
    assert verb(tmp_path, "remove", "coding") == 0
    assert not (tmp_path / "profiles").exists() or not any((tmp_path / "profiles").iterdir())
    short, high, shown = (
        {**asdict(FIT), **one} for one in ({"by_layer": [0.5]}, {"by_layer": [0.5, 2]}, {"cache": "\x1b[2J"})
    )
    for wrong in ([{"light": "late"}], [short], [high], [shown], 7):
        file.write_text(json.dumps({**json.loads(file.read_text()), "light_fits": wrong}))
        assert verb(there, "import", str(file), "--name", "other") == 2
        assert "light_fits" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path: Path, coding: Path, capsys):
    file = tmp_path / "coding.json"
    assert verb(tmp_path, "export", "coding", str(file)) == 0
    write_history(coding, MODEL, (KEPT[1], KEPT[1]), "coding")
    assert verb(tmp_path, "export", "coding", str(file)) == 2
    assert verb(tmp_path, "import", str(file)) == 2
    assert "--replace" in capsys.readouterr().err
    assert profiles_of(tmp_path)[0].history == (KEPT[1], KEPT[1])
    assert verb(tmp_path, "import", str(file), "--replace") == 0
    assert profiles_of(tmp_path)[0].history == KEPT


def test_the_model_is_checked_by_its_identity(tmp_path: Path, coding: Path, capsys):
    demo = str(demo_path())
    assert verb(tmp_path / "there", "import", str(coding), "--model", demo) == 2
    assert MODEL in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
    assert verb(tmp_path, "export", "coding", "--model", demo) == 2
    assert verb(tmp_path, "remove", "coding", "--model", demo) == 2
    assert coding.exists()
    write_history(profile_path(tmp_path, "coding", OTHER), OTHER, KEPT, "coding")
    assert verb(tmp_path, "export", "coding") == 2
    assert "holds 2 models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "../../" + MODEL}, "names no model"),
        ({"model": 5}, "names no model"),
        ({"layers": []}, "no layers"),
        ({"layers": [{"uses": [], "rows": [], "distances": [0]}]}, "no experts"),
        ({"layers": [None]}, "no experts"),
        ({"layers": [{"uses": [1], "rows": [1], "distances": [1, -1]}]}, "-1"),
        ({"format": "other"}, "no moe-mlx history"),
    ],
)
def test_what_is_no_profile_is_refused_and_listed_with_its_problem(changes, said, tmp_path: Path, coding: Path, capsys):
    hostile = tmp_path / "hostile.json"
    hostile.write_text(json.dumps({**json.loads(coding.read_text()), **changes}))
    assert verb(tmp_path / "mine", "import", str(hostile)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
    coding.write_bytes(hostile.read_bytes())
    assert verb(tmp_path, "list") == 0
    assert said in capsys.readouterr().err
    assert verb(tmp_path, "export", "coding") == 2


def test_a_file_that_is_none_and_a_profile_that_is_none(tmp_path: Path, capsys):
    assert verb(tmp_path, "import", str(tmp_path / "nothing")) == 2
    assert verb(tmp_path, "remove", "coding") == 2
    assert "profile list" in capsys.readouterr().err
    assert verb(tmp_path, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"profiles": []}
