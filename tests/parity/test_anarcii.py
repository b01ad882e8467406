"""The package anarcii numbers antibodies with the compiled encoder-decoder as with its own, from the same weights."""

import importlib.util
from pathlib import Path

import pytest
import torch

import towerdsl

#: Variable domains of therapeutic antibodies: heavy chains, and light ones of both kinds.
ANTIBODIES = """
trastuzumab heavy
EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRY
ADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS

trastuzumab light
DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPS
RFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK

adalimumab heavy
EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDY
ADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS

adalimumab light
DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPS
RFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK

rituximab heavy
QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSY
NQKFKGKATLTADKSSSTAYMQLSSLTSEDSAVYYCARSTYYGGDWYFNVWGAGTTVTVSA

avelumab light
QSALTQPASVSGSPGQSITISCTGTSSDVGGYNYVSWYQQHPGKAPKLMIYDVSNRPSGV
SNRFSGSKSGNTASLTISGLQAEDEADYYCSSYTSSSTRVFGTGTKVTVL
"""
SEQUENCES = {name: a + b for name, a, b in (text.split("\n") for text in ANTIBODIES.strip().split("\n\n"))}


class InItsPlace:
    """A model of ours with the interface of the package's; at each step it reads again all that was written."""

    def __init__(self, ours, theirs):
        self.ours, self.theirs = ours, theirs
        self.make_src_mask, self.make_trg_mask = theirs.make_src_mask, theirs.make_trg_mask

    def encoder(self, source, padding):
        self.source = source

    def decoder(self, new, memory, padding, later, source_padding, written):
        self.written = new if written is None else torch.cat([written, new], 1)
        return self.ours(self.source, self.written, ~source_padding, ~padding)[:, -1:], self.written


@pytest.fixture(scope="module")
def package():
    if importlib.util.find_spec("anarcii") is None:
        pytest.fail("These tests need trained weights: pip install anarcii==2.0.8")
    import anarcii

    before = torch.get_num_threads()
    yield anarcii
    torch.set_num_threads(before)  # the package sets it


@pytest.fixture(scope="module", params=["speed", "accuracy"])
def numbered(package, request):
    """What the package finds, what it finds with our model in its place, and that model."""
    from anarcii.inference.model_runner import ModelRunner

    depth = {"speed": 1, "accuracy": 2}[request.param]
    file = Path(package.__file__).parent / f"models/antibody/antibody_4_{depth}_128_512.pt"
    ours = towerdsl.load("anarcii", checkpoint=file, format="anarcii", strict="all", depth=depth).eval()
    numberer = package.Anarcii(seq_type="antibody", mode=request.param, cpu=True, ncpu=1)
    expected = numberer.number(SEQUENCES)
    used = []

    def load_model(runner, before=ModelRunner._load_model):
        used.append(InItsPlace(ours, before(runner)))
        return used[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelRunner, "_load_model", load_model)
        found = numberer.number(SEQUENCES)
    (model,) = used
    return expected, found, model


def test_the_same_numbering(numbered):
    expected, found, _ = numbered
    assert [one["chain_type"] for one in expected.values()] == list("HKHKHL")
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        mine = found[name]
        assert mine.pop("score") == pytest.approx(theirs["score"], rel=1e-4)
        assert mine == {part: value for part, value in theirs.items() if part != "score"}
        assert "".join(residue for _, residue in mine["numbering"]).replace("-", "") == SEQUENCES[name]


def test_values(numbered):
    """In float64. In float32 the package's own are off by up to 3e-4 of the largest: these weights enlarge rounding."""
    _, _, model = numbered
    source, target, theirs = model.source, model.written, model.theirs.double()
    assert (source == 0).any()  # sequences of different lengths, padded
    theirs.encoder.scale = theirs.decoder.scale = torch.tensor(128.0).double().sqrt()
    padding, masks = theirs.make_src_mask(source), theirs.make_trg_mask(target)
    other, _ = theirs.decoder(target, theirs.encoder(source, padding), *masks, padding)
    mine = model.ours.double()(source, target, ~padding, ~masks[0])
    assert mine.shape == (6, source.shape[1], 136)
    difference = ((mine - other).abs().max() / other.abs().max()).item()
    print(f"largest difference: {difference:.1e} of the scale")
    assert difference <= 1e-10


def test_every_file_of_the_package_loads(package):
    """Also those for sharks, and for T cell receptors, which have one chain type more."""
    files = sorted((Path(package.__file__).parent / "models").rglob("*.pt"))
    assert len(files) == 5
    for file in files:
        depth, vocab = int(file.stem.split("_")[2]), 137 if file.stem.startswith("tcr") else 136
        towerdsl.load("anarcii", checkpoint=file, format="anarcii", strict="all", depth=depth, vocab=vocab)
