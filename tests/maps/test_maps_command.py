"""`towerdsl maps`: which pictures it writes, from which inputs, and what it says of mistakes."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import towerdsl
from towerdsl import TowerError
from towerdsl.cli import main
from towerdsl.compiler import compile_spec
from towerdsl.maps.inputs import read_inputs

BERT = ["bert", *(x for s in ("d=8", "heads=2", "depth=2", "vocab=20", "context=64") for x in ("--set", s))]
VIT = ["vit", *(x for s in ("d=8", "heads=2", "depth=1", "image=16", "patch=4") for x in ("--set", s))]


@pytest.fixture
def maps(tmp_path, capsys):
    """Run the command; gives the names of the files that it says it wrote, and did."""

    def run(*arguments):
        code = main(["maps", *map(str, arguments), "-o", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        assert code == 0, err
        found = sorted(p.name for p in (tmp_path / "out").iterdir())
        assert sorted(out.splitlines()) == [str(tmp_path / "out" / name) for name in found]
        return found

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the command, which ends with a mistake; gives what it says."""

    def run(*arguments):
        assert main(["maps", *map(str, arguments), "-o", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    return run


# --- pictures --------------------------------------------------------------------------------------------------


def test_words_have_heat_maps_lines_and_a_grid_of_heads(maps, tmp_path):
    np.savez(tmp_path / "in.npz", ids=np.array([[1, 2, 3]]))
    (tmp_path / "words").write_text("one\ntwo\nthree\n")
    found = maps(*BERT, "--inputs", tmp_path / "in.npz", "--labels", tmp_path / "words", "--format", "svg")
    each = [f"layer.{k}.attention{x}.svg" for k in range(2) for x in ("", "-lines")]
    assert found == sorted(["heads-3-3.svg", *each])


def test_chosen_heads_of_chosen_attentions_have_their_own_pictures(maps):
    found = maps(*BERT, "--at", "layer.1.*", "--heads", "1", "--rows", "0,2", "--set", "n=50")
    assert found == ["layer.1.attention-head1.png"]


def test_weights_are_loaded(maps, tmp_path):
    from towerdsl.claims import draw

    sizes = {"d": 8, "heads": 2, "depth": 2, "vocab": 20, "context": 64}
    towerdsl.save_checkpoint(draw.build(towerdsl.compile("bert", **sizes), 1), tmp_path / "one.safetensors")
    given = [*BERT, "--at", "layer.0.*", "--set", "n=50", "--seed", "3"]
    maps(*given, "--weights", tmp_path / "one.safetensors")
    first = (tmp_path / "out" / "layer.0.attention.png").read_bytes()
    maps(*given)
    assert (tmp_path / "out" / "layer.0.attention.png").read_bytes() != first


def test_patches_lie_over_an_image(maps, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    save_file({"pixels": torch.zeros(1, 3, 16, 16)}, tmp_path / "in.safetensors")
    given = ["--inputs", tmp_path / "in.safetensors", "--image", tmp_path / "photo.png"]
    assert maps(*VIT, *given) == ["heads-17-17-query0.png", "layer.0.attention-query0.png"]


def test_hops_stand_beside_each_other(maps):
    found = maps("memn2n", "--at", "look.*", "--set", "vocab=9", "--set", "d=4")
    assert found == ["look.png"]


def test_a_graph_is_drawn(maps):
    found = maps("gat", "--at", "first", "--set", "features=4", "--set", "n=20", "--around", "3")
    assert found == ["first.png", "heads-20-20.png"]


# --- inputs ----------------------------------------------------------------------------------------------------


def read(tmp_path, spec="bert", **arrays):
    np.savez(tmp_path / "in.npz", **arrays)
    return read_inputs(tmp_path / "in.npz", compile_spec(spec).model)


def test_inputs_have_the_types_of_the_spec(tmp_path):
    found = read(tmp_path, ids=np.ones((2, 5), np.int16), keep=np.ones((2, 5), np.int64))
    assert found["ids"].dtype == torch.int64 and found["keep"].dtype == torch.bool
    assert list(read(tmp_path, ids=np.ones((2, 5), np.uint8))) == ["ids"]  # `keep` has a default
    found = read(tmp_path, "gat", x=np.ones((4, 1433)), edges=np.ones((2, 9), np.int32))
    assert found["x"].dtype == torch.float32 and found["edges"].dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idz": np.ones((2, 5), int)}, "has `idz`, which is no input of bert\nhelp: did you mean `ids`?"),
        ({"keep": np.ones((2, 5), int)}, "lacks the input `ids`, int[b, n]"),
        ({"ids": np.ones((2, 5))}, "the input `ids` is int[b, n], but the file has float64[2, 5]"),
        ({"ids": np.ones(5, int)}, "the input `ids` is int[b, n], but the file has int64[5]"),
        ({"ids": np.ones((2, 5), int), "keep": np.ones((2, 4), bool)}, "has bool[2, 4]: `n` is 5 before"),
        ({"ids": np.array([[object()]])}, "is damaged, holds more than numbers, or is not an .npz file"),
        ({"ids": np.array([["a"]])}, "is damaged, holds more than numbers, or is not an .npz file"),
    ],
)
def test_inputs_that_do_not_fit(given, message, tmp_path):
    with pytest.raises(TowerError, match=re.escape(message)):
        read(tmp_path, **given)


def test_a_length_is_held_to_the_spec(tmp_path):
    with pytest.raises(TowerError, match=re.escape("has float64[4, 7]: `features` is 1433")):
        read(tmp_path, "gat", x=np.ones((4, 7)), edges=np.ones((2, 9), int))
    with pytest.raises(TowerError, match=re.escape("give pairs as [2, pairs]")):
        read(tmp_path, "gat", x=np.ones((4, 1433)), edges=np.ones((9, 2), int))


# --- mistakes --------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(refused, tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe\x00")
    assert "is not a UTF-8 text file" in refused(*BERT, "--labels", tmp_path / "text")
    assert "is not an image that can be read" in refused(*BERT, "--image", tmp_path / "text")
    assert "no such file" in refused(*BERT, "--labels", tmp_path / "none")
    assert "there is no file" in refused(*BERT, "--weights", tmp_path / "none")


def test_lengths_come_from_the_file_of_inputs(refused):
    assert "the file of inputs says how long `n` is" in refused(*BERT, "--set", "n=4", "--inputs", "in.npz")


def test_what_is_not_there(refused, tmp_path):
    assert "no attention" in refused(*BERT, "--at", "layer.9.*")
    (tmp_path / "words").write_text("one\ntwo\n")
    said = refused(*BERT, "--labels", tmp_path / "words", "--set", "n=4")
    assert "2 labels are given; the maps have 4 positions" in said
    assert "head" in refused(*BERT, "--heads", "9")
    assert "batch entry 9" in refused(*BERT, "--batch", "9")
    np.savez(tmp_path / "in.npz", ids=np.array([[1, 20]]))
    assert "bert does not run with these inputs" in refused(*BERT, "--inputs", tmp_path / "in.npz")


@pytest.mark.parametrize("arguments", [["--heads", "a"], ["--rows", "-1"], ["--batch", "x"], ["--format", "pdf"]])
def test_a_mistake_on_the_command_line(arguments):
    with pytest.raises(SystemExit) as ended:
        main(["maps", "bert", "-o", "out", *arguments])
    assert ended.value.code == 2


def test_a_page_to_point_at(maps, tmp_path):
    found = maps(*BERT, "--set", "n=5", "--explore")
    assert "explorer.html" in found
    page = (tmp_path / "out" / "explorer.html").read_text(encoding="utf-8")
    assert "layer.*.attention" in page and "dot(q, k) / sqrt(dk)" in page


def test_a_photo_that_the_model_did_not_see(refused, tmp_path):
    Image.new("RGB", (50, 30)).save(tmp_path / "photo.png")
    assert "give the inputs" in refused(*VIT, "--image", tmp_path / "photo.png")
    save_file({"pixels": torch.zeros(1, 3, 16, 16)}, tmp_path / "in.safetensors")
    said = refused(*VIT, "--inputs", tmp_path / "in.safetensors", "--image", tmp_path / "photo.png")
    assert "the photo is 30 x 50, and no input has its form: pictures among the inputs are 16 x 16" in said
