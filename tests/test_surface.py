"""The public surface is what is listed, imports stay light, and the error tree is one tree."""

import subprocess
import sys

import pytest

import tercet
import tercet.functional as TF
from tercet import errors


def test_every_listed_name_exists_and_is_documented():
    for module in (tercet, TF):
        for name in module.__all__:
            value = getattr(module, name)
            assert name == "__version__" or value.__doc__, f"{module.__name__}.{name} has no docstring"


def test_the_contract_is_there():
    assert {"TripletLoss", "MultiSampleTripletLoss", "TercetError", "InvalidOption", "InvalidInput"} <= set(
        tercet.__all__
    )
    assert {
        "triplet_loss", "batch_triplet_loss", "multi_sample_triplet_loss", "mine", "census", "margin_curve", "reference"
    } <= set(TF.__all__)  # fmt: skip


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Tripletloss'"):
        _ = tercet.Tripletloss


def test_all_errors_are_one_tree():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), tercet.TercetError)
    assert issubclass(tercet.InvalidOption, ValueError)
    assert issubclass(tercet.InvalidInput, ValueError)
    assert "pip install 'tercet[faces]'" in str(errors.MissingExtra.of("face detection", "faces"))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import tercet", ["torch", "numpy", "sklearn", "accelerate", "matplotlib"]),
        ("import tercet.functional, tercet.losses", ["torch._dynamo", "sklearn", "accelerate", "matplotlib", "scipy"]),
    ],
)
def test_imports_stay_light(code, absent):
    probe = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
