"""Ctrl-C in a terminal, which every process of the foreground gets, while the workers have hardly begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cells import suite_file


@pytest.mark.parametrize("delay", [0.1, 1.0])
def test_ctrl_c_while_workers_begin_prints_no_traceback(delay: float, tmp_path: Path) -> None:
    path = suite_file(tmp_path, iterations=500)
    command = [sys.executable, "-m", "metarl", "benchmark", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"]
    # a background job ignores Ctrl-C, and its children inherit that
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        while "cells are left" not in (line := process.stdout.readline()):
            assert line, "the command ended before its workers began"
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert "failed" not in out
    assert "stopped; the same command goes on" in out or err == "metarl: interrupted\n"  # before the first worker
    assert process.returncode == 130
