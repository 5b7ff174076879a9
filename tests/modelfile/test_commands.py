"""`autoglm convert` and `autoglm verify`: output, exit codes and the one line of an error."""

import json
import subprocess
import sys

import pytest

from autoglm.cli.main import main
from autoglm.errors import UsageError


def test_convert_and_verify_report_as_json(parts, tmp_path, capsys):
    source, out = parts.write(tmp_path / "src"), tmp_path / "out"
    assert main(["convert", str(source), str(out), "--weights", "int4", "--json"]) == 0
    converted = json.loads(capsys.readouterr().out)
    assert main(["verify", str(out), "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert converted["weights"] == verified["weights"] == "int4"
    assert converted["num_tensors"] == verified["num_tensors"]
    assert converted["path"] == verified["path"] == str(out)


def test_convert_says_when_there_is_no_tokenizer(parts, tmp_path, capsys):
    parts.files.clear()
    source, out = parts.write(tmp_path / "src"), tmp_path / "out"
    assert main(["convert", str(source), str(out)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"{out}: LlamaForCausalLM, int8, ")
    assert "no tokenizer.json" in output.err


def test_unknown_weight_format_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="int2"):
        main(["convert", str(tmp_path), str(tmp_path / "out"), "--weights", "int2"])


def test_cut_download_ends_in_one_line_and_exit_code_1(parts, tmp_path):
    source = parts.write(tmp_path / "src")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    command = ["convert", str(source), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "autoglm", *command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "the download is incomplete, fetch it again" in done.stderr
    assert not (tmp_path / "out").exists()
