"""What `pip install` puts beside the code: types, the native stub and the LITE model."""

import re
from importlib import metadata
from importlib.resources import files

import pytest

from autoglm import __version__
from autoglm.engine.model import embedded_model
from autoglm.modelfile.verify import verify

MAX_MODEL_BYTES = 40_000_000


def test_version_is_the_same_everywhere():
    assert metadata.version("autoglm") == __version__


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi"])
def test_types_are_installed(name):
    assert (files("autoglm") / name).is_file()


def test_runtime_needs_three_packages():
    needed = [line for line in metadata.requires("autoglm") or [] if "extra ==" not in line]
    names = sorted(re.match(r"[\w-]+", line)[0] for line in needed)
    assert names == ["minijinja", "numpy", "tokenizers"]


def test_lite_is_installed_whole_and_small():
    bundle = embedded_model()
    assert sum(path.stat().st_size for path in bundle.iterdir()) <= MAX_MODEL_BYTES
    verify(bundle)
