"""The table of MLX's and nanobind's versions against the wheels themselves; skipped, by name, where none can be had."""

import re
import zipfile
from pathlib import Path

import pytest

from moe_mlx.native import abi, build
from moe_mlx.native.toolchain import NativeUnavailableError
from tests.cross import wheels

#: The number of nanobind's internals in the tag that an extension carries: "v20_system_libcpp_abi1" before 3.0.
TAG = re.compile(rb"\0(?:v(\d+)_\w*abi\w*|nanobind_\w*abi\w*_v(\d+))\0")


def internals_in(wheel: Path) -> set[int]:
    with zipfile.ZipFile(wheel) as archive:
        core = next(name for name in archive.namelist() if re.search(r"mlx/core\..*\.so$", name))
        return {int(old or new) for old, new in TAG.findall(archive.read(core))}


@pytest.mark.slow
@pytest.mark.parametrize("release", abi.NANOBIND_OF)
def test_the_table_is_what_the_wheels_hold(release: str):
    nanobind, internals = abi.NANOBIND_OF[release]
    try:
        mlx = wheels.fetch("mlx", release, platform="macosx_14_0_arm64", python="3.12")
        headers = wheels.unpacked(wheels.fetch("nanobind", nanobind))
    except wheels.WheelsUnavailableError as error:
        pytest.skip(f"NOT CHECKED, no wheel: {error}")
    assert internals_in(mlx) == {internals}
    assert abi.internals_of(headers / "nanobind") == internals


def test_what_is_installed_fits_together():
    from importlib.metadata import version

    folder = build.package_folder("nanobind")
    assert abi.internals_of(folder) is not None
    assert abi.why_not(version("mlx"), version("nanobind"), abi.internals_of(folder)) == ""


def test_another_nanobind_is_named_with_the_one_to_install():
    line = abi.why_not("0.32.2", "3.1.0", 22)
    assert line == "mlx 0.32.2 was built with nanobind 2.15.0, 3.1.0 is installed (pip install nanobind==2.15.0)"
    assert "\n" not in line
    assert abi.why_not("0.32.3", "3.1.0", 22) == ""  # the same internals


def test_an_unknown_mlx_is_read_back_with_one_line_that_names_both(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "version", {"mlx": "0.33.0", "nanobind": "3.1.0"}.__getitem__)
    with pytest.raises(NativeUnavailableError, match=r"^mlx 0\.33\.0 is not known .* nanobind 3\.1\.0 .*\Z"):
        build.build(lambda line: None)


def test_a_folder_without_sources_has_no_number(tmp_path: Path):
    assert abi.internals_of(tmp_path) is None
