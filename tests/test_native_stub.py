import subprocess
import sys
from pathlib import Path

# The stub needs none of these, and reading them takes mypy more than a minute.
CONFIG = """
[mypy]
[mypy-torch.*,transformers.*,datasets.*,rich.*,tqdm.*,orjson.*,tyro.*,jinja2.*,yaml.*]
follow_imports = skip
ignore_missing_imports = true
"""


def test_the_stub_tells_the_truth_about_the_module(tmp_path: Path):
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "mypy.stubtest", "gdig._native", "--mypy-config-file", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
