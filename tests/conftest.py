"""Fixtures for every folder of tests. No test reaches a network or the user's cache of models."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tests")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))  # so that every test module can import tiny


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EXPUNGE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a module's runs, with a cache of its own; WikiText-2 is not there."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_CACHE", str(folder / "cache"))
        patch.delenv("EXPUNGE_DATA", raising=False)
        yield folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tiny import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def llama() -> Any:
    """A tiny Llama in float64; tests must leave it as it is."""
    from tiny import make_model

    return make_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny chat model on disk, in float32; tests must leave it as it is."""
    import torch
    from tiny import make_model, save_model

    return save_model(tmp_path_factory.mktemp("model"), make_model(dtype=torch.float32, noise=0.05), tokenizer)


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import make_target

    return make_target(tmp_path_factory.mktemp("target") / "ada")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's benchmark data beside the checkout; tests that need it are skipped without."""
    root = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data").resolve()
    if not root.is_dir():
        pytest.skip(f"no benchmark data at {root}; set EXPUNGE_DATA to its folder")
    return root


@pytest.fixture(autouse=True, scope="module")
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """On tiny tensors threads only wait for each other; the real model of tests/e2e keeps them all."""
    torch = sys.modules.get("torch")
    if torch is None or "e2e" in request.path.parts:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
