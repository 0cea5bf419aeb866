"""What judges a held quality: which fixed settings count, and what of a budget is kept."""

from dataclasses import replace

from score_holding import best_fixed, fixed_setting, judgement, kinds, table

from moe_mlx.evaluation.results import Row
from moe_mlx.evaluation.setting import Setting

ROW = Row("50%", 8, "cache-prior", 0.1, None, "lru", 100, 2.0, 0, 0, 0, 1.0, 0.3, 200e3, 0, 9)


def rows(*pairs, **more):
    return [replace(ROW, kl=kl, bytes_per_token=read, **more) for kl, read in pairs]


FIXED = {
    "lambda 0.05": rows((0.0008, 240e3), (0.001, 250e3)),
    "lambda 0.1": rows((0.0015, 200e3), (0.002, 210e3)),
    "lambda 0.2": rows((0.0019, 150e3), (0.0021, 160e3)),
}


def test_the_best_fixed_setting_keeps_the_budget_on_every_text():
    assert best_fixed(FIXED, "0.002") == "lambda 0.1", "0.2 reads less, and breaks it once"
    assert best_fixed(FIXED, "0.001") == "lambda 0.05"
    assert best_fixed(FIXED, "0.0009") is None


def test_a_judgement_counts_texts_within_a_tenth_and_the_looks():
    held = rows((0.0021, 180e3), (0.0017, 190e3), quality="0.002", audit_bytes=10e3)
    kept, read = judgement(held, FIXED, "0.002").splitlines()
    assert kept == "held at 0.002: within 10% on 1 of 2 texts"
    assert read == (
        "it reads 195.0 kB a token, 10.0 kB of it for looks; lambda 0.1, the best fixed that keeps it everywhere, "
        "205.0 kB: -4.9%"
    )
    assert "no fixed setting that was tried" in judgement(held, FIXED, "0.0001")


def test_a_table_says_how_far_off_each_budget_a_fixed_setting_is():
    held = rows((0.0021, 180e3), quality="0.002", audit_bytes=10e3, kl_error=0.0004)[0]
    shown = table("stories", {"lambda 0.1": FIXED["lambda 0.1"][0], "held at 0.002": held}, ["0.002", "0.001"])
    assert "| lambda 0.1 | 0.0015 ± 0 | -25%, +50% | 100.0% | 200.0 kB |  |  |" in shown
    assert "| held at 0.002 | 0.0021 ± 0.0004 | +5% | 100.0% | 180.0 kB | 10.0 kB |  |" in shown


def test_settings_as_they_are_written():
    assert fixed_setting("0", "50%") == Setting("50%")
    assert fixed_setting("0.1", "25%") == Setting("25%", "cache-prior", 0.1)
    assert fixed_setting("0.14:1", "50%") == Setting("50%", "cache-prior", 0.14, 1)


def test_the_three_kinds_are_three_and_share_nothing():
    found = kinds()
    assert list(found) == ["stories", "sums", "words"]
    assert all(sum(map(len, documents)) > 3000 for documents in found.values()), "a thousand tokens of each"
    assert len({one for documents in found.values() for one in documents}) == sum(map(len, found.values()))
    assert any("+" in one for one in found["sums"]) and not any("Make a JSON" in one for one in found["sums"])
