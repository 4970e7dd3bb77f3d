"""The wheel: what is in it, and that it answers from another folder without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "omni_rlvr"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_options_code_and_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = [*PACKAGE.glob("tasks/**/*.html"), *PACKAGE.glob("tasks/**/page_parts/*")]
    assert len(templates) >= 7
    weights = [path for path in PACKAGE.glob("models/**/tiny_base/**/*") if path.is_file()]
    assert weights
    code = {*PACKAGE.rglob("*.py")} - {PACKAGE / "conf.py"}  # a wheel has the folder itself
    for path in [*code, *templates, *weights]:
        assert f"omni_rlvr/{path.relative_to(PACKAGE).as_posix()}" in names
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"omni_rlvr/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "omni_rlvr/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert wheel.stat().st_size < 12_000_000


def test_the_installed_wheel_answers_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(target), str(wheel)], check=True, timeout=120)
    probe = (
        "from hydra import compose, initialize_config_module\n"
        "with initialize_config_module('omni_rlvr.conf', version_base='1.3'):\n"
        "    assert compose('config').task.name == 'train'\n"
        "import omni_rlvr.cli as c; print(c.__file__, c.conf_dir()); c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "--help"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(target)},  # before the editable install
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    place, conf = done.stdout.splitlines()[0].split()
    assert Path(place).is_relative_to(target)
    assert Path(conf).is_relative_to(target)
    assert "cold_start" in done.stdout
    assert "Five commands" in done.stdout
    assert not list(elsewhere.iterdir())
