"""DINOv2 equals transformers' Dinov2Model: trained weights on photographs, and gradients on a small model."""

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, Dinov2Model

import towerdsl

from . import peers

PHOTOS = ("astronaut", "cat", "coffee")
SIZES = {"d": 32, "heads": 4, "depth": 2, "image": 20, "patch": 5}


@pytest.fixture(scope="module")
def trained(dinov2):
    ours = towerdsl.load("dinov2", checkpoint=dinov2 / "model.safetensors", format="huggingface", d=384, heads=6)
    return ours, Dinov2Model.from_pretrained(dinov2).eval()


def photo(name: str, height: int, width: int) -> torch.Tensor:
    """A photograph of scikit-image, with the mean and deviation that DINOv2's images were given."""
    pixels = torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
    pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (pixels - mean) / deviation


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (518, 518), (224, 308)])
def test_photographs(trained, name, height, width):
    """At the size of its positions, at the size of most images, and at one that is not square."""
    ours, theirs = trained
    pixels = photo(name, height, width)
    with torch.inference_mode():
        mine, other = ours(pixels), theirs(pixels)
    assert mine.states.shape == (1, height * width // 14**2 + 1, 384)
    for a, b in ((mine.states, other.last_hidden_state), (mine.pooled, other.pooler_output)):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_every_weight_is_used(trained):
    report = trained[0].checkpoint_report
    assert report.ignored == ("embeddings.mask_token",)
    assert not report.unexpected


@pytest.fixture
def theirs():
    config = Dinov2Config(
        hidden_size=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=20,
        patch_size=5,
        use_mask_token=False,
    )
    return peers.shaken(Dinov2Model(config))


@pytest.mark.parametrize("shape", [(20, 20), (40, 10), (35, 25)], ids=str)
def test_gradients(theirs, shape, tmp_path):
    """On the grid of the positions, on another with as many patches, and on another.

    transformers interpolates in float32 always, so there the two agree as float32 does.
    """
    ours = peers.load("dinov2", theirs, tmp_path, **SIZES).double()
    theirs = theirs.double()
    tolerance = 1e-10 if shape == (20, 20) else 1e-6
    first = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    mine, other = ours(first), theirs(second)
    assert (mine.states - other.last_hidden_state).abs().max() <= tolerance * other.last_hidden_state.abs().max()
    held = peers.gradients(theirs, [other.last_hidden_state, other.pooler_output])
    peers.assert_same_files(peers.gradients(ours, [mine.states, mine.pooled]), held, tmp_path, tolerance)
    assert (first.grad - second.grad).abs().max() <= tolerance * second.grad.abs().max()


def test_the_default_is_the_published_base_model():
    """Names and shapes of DINOv2-base, without memory for them; the token for masked patches is for training only."""
    with torch.device("meta"):
        ours = towerdsl.compile("dinov2")()
        theirs = Dinov2Model(Dinov2Config(image_size=518, patch_size=14))
    expected = peers.peer_shapes(theirs)
    assert expected.pop("embeddings.mask_token") == (1, 768)
    assert peers.public_shapes(ours) == expected
