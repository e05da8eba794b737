"""Any input ends well or with one sentence: see `fuzz`. A failed case says how to repeat it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = os.environ.get("CCSI_TEST_SLOW") == "1"


@pytest.mark.parametrize("seed", [0])
@pytest.mark.hypothesis
def test_any_input_ends_well_or_with_one_sentence(seed: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(seed), "3000" if SLOW else "300"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    *failures, counts = [json.loads(line) for line in done.stdout.splitlines()]
    repeat = [f"python tests/fuzz/fuzz.py {seed} 1 {one['kind']}@{one['number']}" for one in failures]
    assert not failures, "\n".join([*repeat, json.dumps(failures[0], indent=1)])
    assert sum(counts["counts"].values()) >= 300
