"""quatro merge --mode 4bit."""


def test_bad_input_is_one_sentence_and_writes_nothing(run, model_dir, adapter_dir, tmp_path):
    out, text = tmp_path / "out", tmp_path / "text.txt"
    text.write_text("too short", encoding="utf-8")
    for arguments, said in [
        (("--mode", "5bit"), "--mode 5bit is not possible"),
        (("--mode", "4bit"), "--calibration FILE"),
        (("--calibration", text), "--calibration is for --mode 4bit"),
        (("--mode", "4bit", "--calibration", text, "--onto", "original"), "leave --onto original out"),
        (("--mode", "4bit", "--calibration", text), "a merge needs 2560"),
        (("--mode", "4bit", "--calibration", tmp_path / "nothing"), "cannot be read"),
    ]:
        found = run("merge", model_dir, out, "--adapter", adapter_dir, *arguments)
        assert found.exit_code == 2, (arguments, found.stderr)
        assert said in " ".join(found.stderr.split()), (arguments, found.stderr)
        assert "Traceback" not in found.stderr
        assert not out.exists()


def test_the_report_is_one_json_object_and_the_directory_loads(run, model_dir, adapter_dir, tmp_path):
    import json

    from quatro import load

    text = tmp_path / "text.txt"
    text.write_text("once upon a time there was a fox, and then " * 400, encoding="utf-8")
    options = ("--mode", "4bit", "--calibration", text, "--steps", 2, "--force", "--json")
    found = run("merge", model_dir, tmp_path / "out", "--adapter", adapter_dir, *options)
    assert found.exit_code == 0, found.stderr
    report = json.loads(found.stdout)
    assert set(report["losses"]) == {"base", "adapter", "rounded", "merged"}
    assert report["layers"]
    assert load(tmp_path / "out")[0].num_parameters()
