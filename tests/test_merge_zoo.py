"""A network is merged whole or not at all, never over a better one, and only where it loads without being unpickled."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers import models, purifiers
from helpers.merge_zoo import merge_zoo

MLP = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": [5], "classes": 3}}}
ABOUT = {"method": "LWA", "seed": 0, "commit": "abc", "test images": ["digits/test", 9, "d0"], "settings": {"epochs": 1}}


class Zoo:
    """A zoo in a test, and the folder around it."""

    def __init__(self, root: Path, monkeypatch):
        self.root, self.weights, self.patch = root, root / "weights", monkeypatch

    def add(self, name="huang2015/lwa", seed=0, network=None, profile="cpu", accuracy=0.9, **about):
        torch.manual_seed(seed)
        card = {**MLP, **ABOUT, "paper": name.partition("/")[0], "profile": profile, "clean accuracy": accuracy, **about}
        with self.patch.context() as patch:
            patch.setattr(models, "WEIGHTS", self.weights)
            models.save_pretrained(name, network or models.mlp(4, (5,), 3), card)
        return self

    def path(self, name="huang2015/lwa", suffix=".json") -> Path:
        return self.weights / f"{name}{suffix}"

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.weights)): p.read_bytes() for p in sorted(self.weights.rglob("*")) if p.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    return Zoo(tmp_path / "book/helpers", monkeypatch)


@pytest.fixture
def there(tmp_path, monkeypatch):
    return Zoo(tmp_path / "elsewhere", monkeypatch)


def merged(there, here):
    lines = []
    return merge_zoo(there.root, target=here.weights, say=lines.append), lines


def counts(result):
    return {outcome: n for outcome, n in result.counts.items() if n}


def test_a_network_that_the_zoo_lacks_is_added_as_it_is(there, here, monkeypatch):
    there.add().add("picot2019/ce-v1.5", seed=1)
    result, lines = merged(there, here)
    assert lines == ["zoo: 2 added"] and result.good and result.papers == ("huang2015", "picot2019")
    before = here.content()
    assert before == there.content()
    monkeypatch.setattr(models, "WEIGHTS", here.weights)
    assert models.load_pretrained("picot2019/ce-v1.5")(torch.rand(2, 4)).shape == (2, 3)
    assert merged(there, here)[1] == ["zoo: 2 the same"] and here.content() == before


def test_a_better_profile_replaces_and_is_kept(there, here):
    here.add("huang2015/a", profile="cpu").add("huang2015/b", profile="paper")
    there.add("huang2015/a", seed=1, profile="paper", accuracy=0.5).add("huang2015/b", seed=1, profile="smoke")
    kept = here.path("huang2015/b").read_bytes()
    result, lines = merged(there, here)
    assert counts(result) == {"replaced": 1, "kept": 1} and result.good
    assert lines == ["zoo: 1 replaced, 1 kept", "  huang2015/b, kept: the zoo's is of the better profile paper"]
    for suffix in (".json", ".safetensors"):
        assert here.path("huang2015/a", suffix).read_bytes() == there.path("huang2015/a", suffix).read_bytes()
    assert here.path("huang2015/b").read_bytes() == kept


@pytest.mark.parametrize(
    ("change", "outcome", "why"),
    [
        ({"accuracy": 0.92, "commit": "def"}, "the same", ""),
        ({"accuracy": 0.8}, "different", "clean accuracy is 0.9 in the zoo, 0.8 there"),
        ({"settings": {"epochs": 2}}, "different", "settings is {'epochs': 1} in the zoo, {'epochs': 2} there"),
        ({"relabelled": True}, "different", "relabelled is None in the zoo, True there"),
    ],
)
def test_of_one_profile_the_zoos_stays_and_what_differs_is_named(there, here, change, outcome, why):
    here.add()
    there.add(seed=1, **change).add("huang2015/other")
    before = here.content()
    result, _ = merged(there, here)
    assert counts(result) == {"added": 1, outcome: 1} and result.of(outcome)[0].why == why
    assert result.good == (not why) and before.items() <= here.content().items()


def edited(path, **change):
    about = {**json.loads(path.read_text(encoding="utf-8")), **change}
    path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}), encoding="utf-8")


def filled(path, **state):
    save_file(
        {"1.weight": torch.ones(5, 4).half(), "1.bias": torch.ones(5).half(), "3.weight": torch.ones(3, 5).half(), **state}, path
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


CARDS = {
    "not of a network of this book": lambda p: p.write_text("{", encoding="utf-8"),
    "it is no card of a network: it lacks architecture": lambda p: p.write_text("[]", encoding="utf-8"),
    "it lacks commit": lambda p: edited(p, commit=None),
    "there is no profile 'tiny'": lambda p: edited(p, profile="tiny"),
    "it is of the paper 'picot2019': put it into that folder": lambda p: edited(p, paper="picot2019"),
    "nothing that was measured": lambda p: edited(p, **{"clean accuracy": None}),
    "this book ('transformer')": lambda p: edited(p, architecture={"name": "transformer", "arguments": {}}),
    "unexpected keyword argument 'evil'": lambda p: edited(p, architecture={"name": "mlp", "arguments": {"evil": 1}}),
    "size mismatch": lambda p: edited(p, architecture={"name": "mlp", "arguments": {"inputs": 4, "hidden": [6], "classes": 3}}),
    "is a link, or no plain file": lambda p: p.rename(p.with_suffix(".old")) and p.symlink_to(p.with_suffix(".old")),
    "a network is named <paper>/<name>": lambda p: p.rename(p.with_name("a b.json")),
}
WEIGHTS = {
    "or no plain file": Path.unlink,
    "are not of a network": lambda p: p.write_bytes(p.read_bytes()[:-4]),
    "this book": lambda p: p.write_bytes(pickle.dumps(Evil())),
    "Missing key": filled,
    "not all finite numbers of float16": lambda p: filled(p, **{"3.bias": torch.full((3,), torch.inf).half()}),
    "finite numbers of float16": lambda p: filled(p, **{"3.bias": torch.ones(3)}),
    "has more than 4,200,000 bytes": lambda p: os.truncate(p, 4_200_001),
}


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [*((".json", c, w) for w, c in CARDS.items()), *((".safetensors", c, w) for w, c in WEIGHTS.items())],
)
def test_a_damaged_network_is_named_and_refused_and_the_others_are_merged(
    there, here, tmp_path, monkeypatch, suffix, change, words
):
    monkeypatch.chdir(tmp_path)
    there.add(profile="paper").add("huang2015/z")
    here.add(seed=1)
    before = here.content()
    change(there.path(suffix=suffix))
    result, lines = merged(there, here)
    (item,) = result.of("refused")
    assert words in item.why and str(there.root) in item.why and not result.good and lines[0] == "zoo: 1 added, 1 refused"
    after = here.content()
    assert before.items() <= after.items() and after.keys() - before.keys() == {"huang2015/z.json", "huang2015/z.safetensors"}
    assert not (tmp_path / "unpickled").exists()


def test_a_purifier_comes_with_the_network_that_it_was_measured_before(there, here):
    pca = purifiers.PCA.fit(torch.rand(9, 1, 2, 2), 0.9)
    of_pca = {"architecture": {"name": "PCA", "arguments": {"shape": [1, 2, 2], "units": len(pca.components)}}}
    there.add("liang2017/a-pca", network=pca, before="liang2017/control", **of_pca)
    assert "which is not in the zoo" in merged(there, here)[0].of("refused")[0].why
    here.add("liang2017/control", seed=1)
    there.add("liang2017/control", seed=0)
    assert "a liang2017/control that is not the zoo's" in merged(there, here)[0].of("refused")[0].why
    there.add("liang2017/control", seed=0, profile="paper")
    assert counts(merged(there, here)[0]) == {"added": 1, "replaced": 1} and here.content() == there.content()


def test_weights_that_a_killed_merge_left_without_a_card_are_written_again(there, here):
    here.add(seed=1).path().unlink()
    there.add()
    assert counts(merged(there, here)[0]) == {"added": 1} and here.content() == there.content()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to know which file is synced")
@pytest.mark.parametrize("full", [".json", ".safetensors"])
def test_a_full_disk_leaves_the_network_that_was_there(there, here, monkeypatch, full):
    here.add(seed=1, profile="smoke")
    there.add()
    before, fsync = here.content(), os.fsync

    def no_space(descriptor):
        if full in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        merged(there, here)
    assert here.content() == before


def test_a_folder_without_networks_and_the_zoo_itself_are_refused(there, here, tmp_path):
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="there are no networks in .*: name a folder with weights/<paper>"):
            merge_zoo(root, target=here.weights)
    here.add()
    for root in (here.root, here.root.parent):
        with pytest.raises(ValueError, match="is the very zoo"):
            merge_zoo(root, target=here.weights)
