import json
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from quatro.integrations.checkpoint import Checkpoint, tensors_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_every_tensor_is_read_as_it_was_written(tmp_path_factory, shapes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    written = {
        f"t{i}": torch.randint(0, 2, shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)
    }  # fmt: skip
    file = tmp_path_factory.mktemp("any") / "model.safetensors"
    save_file(written, file, {"format": "pt"})
    found = tensors_of(file)
    assert found.keys() == written.keys()
    for name, tensor in written.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read.view(torch.uint8) if read.dim() else read, tensor.view(torch.uint8) if tensor.dim() else tensor)


def test_an_index_brings_shards_together(tmp_path: Path):
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = Checkpoint(tmp_path)
    assert sorted(found) == ["a", "b"]
    assert found.nbytes == 20
    assert torch.equal(found["b"].read(), torch.zeros(3))


def test_reading_a_tensor_leaves_no_page_of_the_file_resident(tmp_path: Path):
    """A mapped file stays in a process's resident memory; a file that was read does not."""
    save_file({"large": torch.ones(1 << 24)}, tmp_path / "model.safetensors")
    before = resident()
    assert float(Checkpoint(tmp_path)["large"].read().sum()) == 1 << 24
    assert resident() - before < 16 << 20


def resident() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024
