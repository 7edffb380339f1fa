"""`viewgen models evaluate`: every number by hand, the table, the picture, and what cannot be measured."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.cli import main
from viewgen.datasets import load_dataset
from viewgen.diagnostics import reconstruction
from viewgen.diagnostics.distances import frechet_distance, precision_recall
from viewgen.errors import MissingFileError, UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import Models, load_models, save_model
from viewgen.networks.generator import GENERATORS
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.randomness import addressed_normal
from viewgen_pretrained.evaluation import Evaluation, evaluate
from viewgen_pretrained.quality import measure_encoder
from viewgen_pretrained.quality_grid import quality_grid

KINDS = ("generator", "discriminator", "inverter", "encoder")
PLUGIN = Path(__file__).parents[1] / "plugin/plugin_generators.py"


@pytest.fixture(scope="module", autouse=True)
def _few_updates() -> Iterator[None]:
    """Let refined codes be those after five updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "viewgen.registry.recipe", lambda dataset, section: {"invert": {"max_steps": 5}}.get(section, {})
        )
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, adversaries) -> Path:
    """Networks with random weights for the 8-px pictures."""
    path = tmp_path_factory.mktemp("networks")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = Encoder(EncoderConfig(image_size=8, width=4, projection_dim=8))
        inverter = Inverter(InverterConfig(image_size=8, channels=(6, 4), hidden_dim=16))
    inverter.take_latents(adversaries["generator"])
    networks = {**adversaries, "encoder": encoder, "inverter": inverter}
    for kind in KINDS:
        save_model(networks[kind], path / f"{kind}.safetensors")
    return path


@pytest.fixture(scope="module")
def models(folder) -> Models:
    return load_models({kind: folder / f"{kind}.safetensors" for kind in KINDS})


@pytest.fixture(scope="module")
def measured(folder, dataset, data_root) -> Evaluation:
    return evaluate(["g", "e", "f"], dataset.name, models_dir=folder, data_root=str(data_root), num_refined=3)


def values(evaluation: Evaluation, network: str) -> dict[str, float]:
    return {row.name: row.value for row in evaluation.measures if row.group == network}


def test_the_generators_numbers_are_those_of_its_samples_features(measured, models, dataset, data_root):
    with torch.no_grad():
        z = addressed_normal((20, 512), 0, "quality", 0)
        samples = to_storage(models.generator(z))
        features = models.encoder.embed(to_model(samples))
        real = models.encoder.embed(to_model(dataset.images(np.arange(20))))
        test = load_dataset(dataset.name, "test", data_root=data_root)
        held_out = models.encoder.embed(to_model(test.images(np.arange(12))))
    found = values(measured, "g")
    assert found["frechet_distance[viewgen encoder]"] == pytest.approx(
        frechet_distance(features, real), rel=1e-4
    )
    precision, recall = precision_recall(features, real)
    assert found["precision[viewgen encoder]"] == pytest.approx(precision)
    assert found["recall[viewgen encoder]"] == pytest.approx(recall)
    assert found["frechet_distance[viewgen encoder] of test images"] == pytest.approx(
        frechet_distance(held_out, real), rel=1e-4
    )
    assert not {"fid", "kid"} & found.keys(), "these names belong to Inception features"


def test_the_inverters_numbers_are_those_of_held_out_images(measured, models, dataset, data_root):
    test = load_dataset(dataset.name, "test", data_root=data_root)
    with torch.no_grad():
        x = to_model(test.images(np.arange(12)))
        y = to_model(to_storage(models.generator.synthesis(models.inverter(x))))
        distance = (models.encoder(x) - models.encoder(y)).norm(dim=1).mean().item()
    mse = (x - y).square().mean(dim=(1, 2, 3))
    found = values(measured, "e")
    assert found["mse"] == pytest.approx(mse.mean().item(), rel=1e-4)
    assert found["psnr_db"] == pytest.approx((10 * torch.log10(4 / mse)).mean().item(), rel=1e-4)
    assert found["feature_distance[viewgen encoder]"] == pytest.approx(distance, rel=1e-3)
    assert found["mse refined"] < found["mse"] * 1.5
    assert "lpips" not in found
    assert any("LPIPS was not measured" in note for note in measured.notes)
    on = {row.name: row.on for row in measured.measures if row.group == "e"}
    assert on["mse"] == "12 test"
    assert on["mse refined"] == "3 test"


def test_lpips_is_measured_where_its_weights_are(folder, dataset, data_root, monkeypatch):
    class Brightness:
        """Stands in for LPIPS: the difference of two images' means."""

        def __init__(self, device: torch.device) -> None:
            pass

        def features(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images.mean(dim=(1, 2, 3))]

        def distance(self, first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
            return first[0] - second[0]

    monkeypatch.setattr(reconstruction, "LpipsDistance", Brightness)
    monkeypatch.setattr(reconstruction, "check_perceptual", lambda *_, **__: None)
    found = evaluate(["e"], dataset.name, models_dir=folder, data_root=str(data_root), num_refined=0)
    models = load_models({kind: folder / f"{kind}.safetensors" for kind in ("generator", "inverter")})
    test = load_dataset(dataset.name, "test", data_root=data_root)
    with torch.no_grad():
        x = to_model(test.images(np.arange(12)))
        y = to_model(to_storage(models.generator.synthesis(models.inverter(x))))
    expected = (x.mean(dim=(1, 2, 3)) - y.mean(dim=(1, 2, 3))).mean().item()
    assert values(found, "e")["lpips"] == pytest.approx(expected, abs=1e-5)
    assert found.notes == []


def test_the_encoders_numbers(measured, models, dataset, data_root):
    found = values(measured, "f")
    expected = measure_encoder(models.encoder, dataset, str(data_root))["knn5_top1"]
    assert found["knn5_top1"] == pytest.approx(expected, abs=1e-4)
    assert 0 <= found["knn5_top1 of reconstructions"] <= 1


def test_the_same_seed_gives_the_same_numbers_and_another_other_samples(folder, dataset, data_root, measured):
    def again(seed: int) -> dict[str, float]:
        options: dict[str, Any] = {"models_dir": folder, "data_root": str(data_root), "num_refined": 0}
        return values(evaluate(["g"], dataset.name, seed=seed, **options), "g")

    assert again(0) == values(measured, "g")
    assert again(1) != again(0)


def test_the_samples_of_a_class_conditional_generator_take_the_images_labels(
    folder, dataset, data_root, tmp_path
):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=1, num_classes=2)
        network = Generator(config)
    save_model(network, tmp_path / "g.safetensors")
    options: dict[str, Any] = {"models_dir": folder, "data_root": str(data_root), "features": "encoder"}
    with pytest.raises(Exception, match="classes"):
        evaluate(["e"], dataset.name, overrides={"generator": tmp_path / "g.safetensors"}, **options)
    found = evaluate(["g"], dataset.name, overrides={"generator": tmp_path / "g.safetensors"}, **options)
    with torch.no_grad():
        z = addressed_normal((20, 512), 0, "quality", 0)
        samples = to_storage(network(z, torch.from_numpy(dataset.labels(np.arange(20)))))
        encoder = load_models({"encoder": folder / "encoder.safetensors"}).encoder
        features = encoder.embed(to_model(samples))
        real = encoder.embed(to_model(dataset.images(np.arange(20))))
    expected = frechet_distance(features, real)
    assert values(found, "g")["frechet_distance[viewgen encoder]"] == pytest.approx(expected, rel=1e-4)


def test_without_features_a_generator_cannot_be_measured(folder, dataset, data_root, tmp_path):
    for kind in ("generator", "inverter"):
        shutil.copy(folder / f"{kind}.safetensors", tmp_path)
    options: dict[str, Any] = {"models_dir": tmp_path, "data_root": str(data_root)}
    with pytest.raises(MissingFileError, match="neither Inception weights"):
        evaluate(["g"], dataset.name, **options)
    with pytest.raises(MissingFileError, match="FID and KID need the package torch-fidelity"):
        evaluate(["g"], dataset.name, features="inception", **options)
    found = evaluate(["e"], dataset.name, num_refined=0, **options)
    assert set(values(found, "e")) == {"mse", "psnr_db"}


def test_a_generator_that_starts_its_codes_needs_no_inverter(
    folder, dataset, data_root, tmp_path, monkeypatch
):
    spec = importlib.util.spec_from_file_location("plugin_generators", PLUGIN)
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    monkeypatch.setitem(GENERATORS._registered, "linear", plugin.ENTRY)
    save_model(plugin.Linear(plugin.LinearConfig(image_size=8)), tmp_path / "generator.safetensors")
    options: dict[str, Any] = {"models_dir": tmp_path, "data_root": str(data_root), "num_refined": 0}
    found = evaluate(["e"], dataset.name, **options)
    assert set(values(found, "e")) == {"mse", "psnr_db"}
    assert found.files.keys() == {"generator"}
    assert found.grid is not None
    with pytest.raises(UsageError, match="would ignore --inverter"):
        evaluate(["e"], dataset.name, overrides={"inverter": folder / "inverter.safetensors"}, **options)


def test_a_folder_without_a_test_split_is_measured_on_itself_and_says_so(folder, pictures, data_root):
    found = evaluate(
        ["e"], f"folder:{pictures / 'train'}", models_dir=folder, data_root=str(data_root), num_refined=0
    )
    assert any("no test split" in note for note in found.notes)


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        (["x"], {}, "no network 'x'"),
        ([], {}, "at least one network"),
        (["g"], {"num_images": 3}, "at least 4 images"),
        (["g"], {"features": "vgg"}, "features is 'vgg'"),
        (["f"], {}, "is for 8-px images, those of digits have 32 px"),
    ],
)
def test_what_cannot_be_asked(folder, networks, options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(networks, "digits", models_dir=folder, **options)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(words)
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_command_prints_one_table_or_one_object_and_writes_the_picture(
    folder, dataset, data_root, measured, tmp_path, capsys
):
    words = ["models", "evaluate", "g", "e", "f", "--dataset", dataset.name, "--data-root", str(data_root)]
    words += ["--models", str(folder), "--num-refined", "3", "--device", "cpu"]
    code, out, _ = run([*words, "--grid", str(tmp_path / "grid.png"), "--json"], capsys)
    assert code == 0
    document = json.loads(out)
    found = [(row["network"], row["name"], row["value"]) for row in document["measures"]]
    assert found == [(row.group, row.name, pytest.approx(row.value, rel=1e-6)) for row in measured.measures]
    assert document["networks"]["encoder"]["sha256"].startswith("sha256:")
    assert document["grid"] == str(tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), measured.grid)
    code, out, _ = run(words[:3] + words[5:], capsys)
    assert code == 0
    assert "frechet_distance[viewgen encoder]" in out
    assert run(["models", "evaluate", "h", "--dataset", "digits"], capsys)[0] == 2
    code, out, _ = run(["models", "evaluate", "f", *words[5:], "--encoder", "nothing"], capsys)
    assert code == 1


def test_the_picture_shows_every_section_in_order():
    def flat(value: int, count: int) -> np.ndarray:
        return np.full((count, 3, 8, 8), value, np.uint8)

    pixels = quality_grid([("a", flat(10, 16)), ("b", flat(20, 3)), ("c", flat(30, 32))], title="t")
    for value, count in ((10, 16), (20, 3), (30, 32)):
        # 8 px enlarged six times
        assert (pixels == value).all(axis=2).sum() == count * 48 * 48
    rows = [np.flatnonzero((pixels == value).all(axis=2).any(axis=1)) for value in (10, 20, 30)]
    assert rows[0].max() < rows[1].min()
    assert rows[1].max() < rows[2].min()
