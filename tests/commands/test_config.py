"""A user's own defaults: flags win over the environment, the environment over the file; what is wrong is said where."""

import argparse
import json

import pytest

from moe_mlx.cli import main
from moe_mlx.commands import chat
from moe_mlx.commands.defaults import apply_defaults
from moe_mlx.conversation.opening import history_arguments, price_of, routing_arguments
from moe_mlx.errors import UsageError


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "config.toml"
    path.parent.mkdir()
    monkeypatch.setenv("MOE_MLX_CONFIG", str(path))
    return path


def given(*words):
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    apply_defaults(parser, "chat")
    return parser.parse_args(words)


def test_flags_win_over_the_environment_and_that_over_the_file(config, monkeypatch):
    config.write_text('expert_cache = "25%"\ntemp = 1\nrouting = "exact"\ntheme = "paper"\nreaders = 8\nascii = true\n')
    found = given()
    assert (found.expert_cache, found.temp, found.routing, found.theme) == ("25%", 1.0, "exact", "paper")
    assert (found.readers, found.ascii, found.model) == ("8", True, "demo")
    monkeypatch.setenv("MOE_MLX_EXPERT_CACHE", "50%")
    monkeypatch.setenv("MOE_MLX_SEED", "7")
    monkeypatch.setenv("MOE_MLX_ASCII", "0")
    found = given()
    assert (found.expert_cache, found.seed, found.ascii) == ("50%", 7, False)
    found = given("--expert-cache", "75%", "--seed", "1", "--routing", "cache-prior")
    assert (found.expert_cache, found.seed, found.routing) == ("75%", 1, "cache-prior")


def test_a_profile_of_the_file_gives_way_to_no_history_and_one_of_the_command_line_does_not(config, capsys):
    config.write_text('profile = "sums"\n')
    assert history_arguments(given())["profile"] == "sums"
    assert history_arguments(given("--profile", ""))["profile"] is None
    assert history_arguments(given("--no-history")) == {}
    with pytest.raises(SystemExit):
        given("--no-history", "--profile", "tales")
    assert "not allowed with argument --no-history" in capsys.readouterr().err


def test_a_price_of_the_file_holds_until_a_routing_is_named(config, monkeypatch):
    config.write_text('quality = 0.002\nrouting = "exact"\n')
    assert price_of(given()).describe() == "quality KL 0.002" and routing_arguments(given()) == {}
    assert price_of(given("--quality", "99%")).describe() == "quality 99.00% agreement"
    assert price_of(given("--speed", "12")).describe() == "quality KL 0.002, speed 12 tok/s"
    routed = given("--route-lambda", "0.2")
    assert price_of(routed) is None and routing_arguments(routed)["route_lambda"] == 0.2
    assert price_of(given("--routing", "exact", "--audit", "8")) is None
    with pytest.raises(UsageError, match="leave out --audit, or name a --routing, which your default gives way to"):
        price_of(given("--audit", "8"))
    with pytest.raises(UsageError, match=r"leave out --audit$"):
        price_of(given("--audit", "8", "--quality", "0.1"))
    with pytest.raises(UsageError, match="give one of them"):
        price_of(given("--quality", "0.1", "--routing", "exact"))
    monkeypatch.setenv("MOE_MLX_QUALITY", "")
    assert price_of(given()) is None, "an empty variable is none"
    config.write_text("speed = 12\n")
    assert price_of(given()).describe() == "speed 12 tok/s"


def test_a_model_s_name_alone_is_the_model(config):
    config.write_text('model = "qwen3-30b"\n')
    assert given().model == "qwen3-30b" and given("--model", "demo").model == "demo"
    assert given("demo").model == given("--expert-cache", "25%", "demo").model == "demo"


def test_without_a_file_nothing_changes(config):
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    assert given() == parser.parse_args([])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("route = 1", "no setting is called route; did you mean"),
        ('temp = "warm"', "temp = 'warm': give a number"),
        ("ascii = 1", "ascii = 1: give true or false"),
        ("seed = true", "seed = True: give a whole number"),
        ('routing = "best"', "choose one of exact, cache-prior"),
        ("folders = [1]", "give a list of folders"),
        ('quality = "some"', "quality 'some': give the KL a token"),
        ("speed = 0", "speed '0.0': give tokens a second"),
        ('speed = "12"', "speed = '12': give a number"),
        ("temp = ", "is no TOML"),
    ],
)
def test_what_cannot_be_taken_is_one_line_with_its_place(config, capsys, text, said):
    config.write_text(text)
    assert main(["generate", "-p", "hi", "--model", "/no/such"]) == 2
    told = capsys.readouterr().err
    assert said in told and str(config) in told and told.count("\n") == 1


def test_a_variable_that_cannot_be_taken_is_named(config, capsys, monkeypatch):
    monkeypatch.setenv("MOE_MLX_ROUTING", "best")
    assert main(["generate", "-p", "hi"]) == 2
    assert "$MOE_MLX_ROUTING: routing = 'best'" in capsys.readouterr().err


def test_verbs_that_measure_take_none(config):
    from moe_mlx.commands import eval as evaluation

    config.write_text('routing = "exact"\n')
    parser = argparse.ArgumentParser()
    evaluation.add_arguments(parser)
    apply_defaults(parser, "eval")
    assert parser.parse_args([]).routing is None


def test_config_prints_path_values_and_where_they_come_from(config, capsys, monkeypatch):
    assert main(["config"]) == 0
    assert "(not there yet)" in capsys.readouterr().out
    config.write_text('expert_cache = "25%"\n')
    monkeypatch.setenv("MOE_MLX_THEME", "paper")
    assert main(["config"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert rows["expert_cache"][1:3] == ['"25%"', "file"] and rows["theme"][1:3] == ['"paper"', "$MOE_MLX_THEME"]
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["theme"]["value"] == "paper"
    assert main(["config", "--path"]) == 0
    assert capsys.readouterr().out.strip() == str(config)
