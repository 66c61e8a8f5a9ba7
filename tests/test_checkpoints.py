"""A checkpoint by itself: what is saved comes back, to the training that it belongs to, and nothing is left beside it."""

import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.checkpoints import Checkpoint, described, differences, digest_of

STATE = {"weights": torch.arange(6.0).view(2, 3), "history": [{"loss": 0.5, "clean": None}], "name": "a"}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_comes_back_and_unlink_leaves_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path / "new [folder]" / "a*.pt", identity="b", commit="c")
    assert checkpoint.resume({"seed": 1}) is None
    assert checkpoint.save(STATE, {"seed": 1}) and names(checkpoint.path.parent) == ["a*.pt"]
    again = Checkpoint(str(checkpoint.path), identity="b", commit="c").resume({"seed": 1})
    assert torch.equal(again.pop("weights"), STATE["weights"]) and again == {k: STATE[k] for k in ("history", "name")}
    (tmp_path / "new [folder]" / "a*.pt.123-abc.part").write_text("of a killed process", encoding="utf-8")
    (tmp_path / "new [folder]" / "ab.pt.123-abc.part").write_text("of another network", encoding="utf-8")
    checkpoint.unlink()
    assert names(checkpoint.path.parent) == ["ab.pt.123-abc.part"]
    checkpoint.unlink()
    Checkpoint(tmp_path / "nowhere" / "a.pt").unlink()


def test_a_training_that_another_commit_began_is_continued_and_names_both(tmp_path):
    Checkpoint(tmp_path / "a.pt", identity="code", commit="first").save(STATE, {"seed": 1})
    checkpoint = Checkpoint(tmp_path / "a.pt", identity="code", commit="second")
    assert checkpoint.resume({"seed": 1}) and checkpoint.commits == ["first", "second"]
    checkpoint.save(STATE, {"seed": 1})
    last = Checkpoint(tmp_path / "a.pt", identity="code", commit="first")
    assert last.resume({"seed": 1}) and last.commits == ["first", "second"]
    with pytest.warns(UserWarning, match="identity was code, is now other"):
        assert Checkpoint(tmp_path / "a.pt", identity="other", commit="second").resume({"seed": 1}) is None


@pytest.mark.parametrize(
    "about", [{"seed": 2}, {}, {"seed": 1, "more": 1}, {"seed": {"a": 1}}, {"seed": "1"}, {"seed": None}], ids=str
)
def test_another_account_is_not_resumed(tmp_path, about):
    checkpoint = Checkpoint(tmp_path / "a.pt")
    checkpoint.save(STATE, {"seed": 1})
    with pytest.warns(UserWarning, match="is of another training"):
        assert checkpoint.resume(about) is None


def test_failures_to_save_give_one_warning_and_false(tmp_path):
    (tmp_path / "file").touch()
    checkpoint = Checkpoint(tmp_path / "file" / "a.pt")
    with pytest.warns(UserWarning, match="could not write") as caught:
        assert [checkpoint.save(STATE, {}) for _ in range(3)] == [False] * 3
    assert len(caught) == 1


def test_a_read_only_folder_is_an_error_of_check_folder(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match="cannot write checkpoints into"):
        Checkpoint(tmp_path / "a.pt").check_folder()


def test_processes_that_save_at_once_leave_one_whole_file(tmp_path):
    code = (
        "import sys, torch; from helpers.checkpoints import Checkpoint\n"
        "for i in range(20): assert Checkpoint(sys.argv[1]).save({'weights': torch.full((20000,), float(sys.argv[2]))}, {})"
    )
    run = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.pt")]
    processes = [subprocess.Popen([*run, str(i)], cwd=Path(__file__).parent.parent) for i in range(2)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    assert names(tmp_path) == ["a.pt"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = Checkpoint(tmp_path / "a.pt").resume({})["weights"]
    assert weights.unique().numel() == 1


def test_differences_name_what_differs_at_any_depth():
    before = {"seed": 1, "optimiser": {"0": {"lr": 0.1, "eps": 1}}, "gone": 3}
    now = {"seed": 1, "optimiser": {"0": {"lr": 0.2, "eps": 1}}, "new": "x" * 100}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "optimiser 0 lr was 0.1, is now 0.2",
        "gone was 3, is now missing",
        f"new was missing, is now {'x' * 18}…{'x' * 18}",
    ]


def closure(a, b):
    return lambda: (a, b)


def test_settings_are_described_by_what_they_were_given():
    assert described(np.float32(0.5)) == 0.5 and described([1, (2.0, None)]) == [1, [2.0, None]]
    assert described(closure) == "closure"
    assert described(partial(closure, 1, b=partial(closure, 2))) == {"name": "closure", "0": 1, "b": {"name": "closure", "0": 2}}
    a = described(closure(1, torch.ones(3)))
    assert a == described(closure(1, torch.ones(3))) and a["a"] == 1
    assert a != described(closure(1, torch.zeros(3))) and a != described(closure(2, torch.ones(3)))
    assert described(torch.Generator()) == "Generator" and described(torch.optim.Adam) == "Adam"
    loop = closure(1, [])
    loop.__closure__[1].cell_contents.append(loop)
    assert "closure" in str(described(loop))


def test_a_digest_is_of_type_shape_and_values_wherever_they_lie():
    x = torch.rand(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    assert digest_of(x) == digest_of(x.contiguous(memory_format=torch.channels_last)) == digest_of(x.clone().requires_grad_())
    others = [x + 1e-7, x.double(), x.flatten(), x.half(), x.bfloat16(), x > 0.5, x[:0], torch.tensor(1.0)]
    assert len({digest_of(v) for v in (x, *others)}) == 9
    assert digest_of(x, x[0]) != digest_of(x)
