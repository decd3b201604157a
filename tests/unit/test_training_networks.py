"""The demo's networks start where they should and resume where they stopped."""

import copy
import signal
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.training import pieces  # noqa: E402
from demo.training import vae as vae_training  # noqa: E402
from demo.training.denoiser import LATENTS, Denoiser, adopt, v_loss  # noqa: E402
from demo.training.grow import grow  # noqa: E402
from demo.training.loop import Run  # noqa: E402
from demo.training.losses import perceptual_loss  # noqa: E402
from demo.training.optimizer import MatrixOptimizer  # noqa: E402
from demo.training.start import slim, widen  # noqa: E402


@pytest.fixture(scope="module")
def picture():
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 5, 64), indexing="ij")
    return torch.stack((rows.sin(), (rows + columns).cos(), columns.sin())) * 0.3 + 0.5


def test_the_autoencoder_starts_as_an_enlarged_small_picture(picture):
    assert vae_training.ceiling(vae_training.new_vae().eval(), picture) > 22


def test_slimming_and_widening_change_nothing(picture):
    torch.manual_seed(0)
    slimmed = slim(vae_training.new_vae()).eval()
    for weight in slimmed.parameters():
        weight.data += 0.01 * torch.randn_like(weight)
    whole = widen(slimmed, vae_training.new_vae()).eval()
    latents = slimmed.encode(picture[None]).latent_dist.mode()
    assert torch.allclose(latents, whole.encode(picture[None]).latent_dist.mode(), atol=1e-4)
    assert torch.allclose(
        slimmed.decode(latents, num_frames=1).sample, whole.decode(latents, num_frames=1).sample, atol=1e-3
    )


def test_the_denoiser_starts_with_a_static_video():
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.randn(1, LATENTS, 4, 4), size=(16, 16), mode="bicubic")
    clean = (0.8 * image)[:, None].expand(-1, 6, -1, -1, -1)
    sigma = torch.tensor([60.0])
    with torch.no_grad():
        noisy = clean + 60 * torch.randn(clean.shape)
        ids = torch.tensor([[6.0, 127.0, 0.02]])
        made = Denoiser(0.8).eval()(noisy, sigma, image, torch.rand(1, 3, 64, 64), ids, torch.ones(1))
    assert float((made - clean).square().mean() / clean.square().mean()) < 0.25


def test_the_v_loss_of_no_denoising_is_the_noise_level():
    sigma, clean = torch.tensor([1.0, 4.0]), torch.zeros(2, 3, 4, 8, 8)
    error = sigma.view(-1, 1, 1, 1, 1).expand_as(clean)
    assert v_loss(error, clean, sigma).tolist() == pytest.approx([2.0, 17.0])


def test_a_grown_autoencoder_keeps_its_latents_and_its_images(picture):
    torch.manual_seed(0)
    small, large = vae_training.new_vae(4).eval(), vae_training.new_vae(8).eval()
    images = torch.rand(4, 3, 48, 48) * 2 - 1
    grow(small, large, images)
    with torch.no_grad():
        old, new = (vae.encode(images).latent_dist.mode() for vae in (small, large))
    assert torch.allclose(old, new[:, :4], atol=1e-4)
    assert float(new[:, 4:].std()) == pytest.approx(0.7, rel=0.2)
    assert vae_training.ceiling(large, picture) == pytest.approx(vae_training.ceiling(small, picture))


def test_an_error_in_a_flat_image_is_seen_more_than_one_in_a_texture():
    torch.manual_seed(0)
    flat, texture = torch.zeros(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    error = 0.05 * torch.randn(1, 3, 32, 32)
    assert perceptual_loss(flat, flat) == 0
    assert perceptual_loss(flat + error, flat) > 2 * perceptual_loss(texture + error, texture)


def test_a_denoiser_adopts_one_with_fewer_latents(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.training.denoiser.LATENTS", 4)
    small = Denoiser(1.0)
    small.unet.save_pretrained(tmp_path / "unet")
    small.image_encoder.save_pretrained(tmp_path / "image_encoder")
    monkeypatch.undo()
    large = Denoiser(1.0)
    adopt(large, tmp_path, 1.0)
    old, new = small.unet.state_dict(), large.unet.state_dict()
    assert sum(torch.equal(weight, new[name]) for name, weight in old.items()) > 0.95 * len(old)
    assert torch.equal(large.unet.conv_in.weight[0, :4], small.unet.conv_in.weight[0, :4])


def test_a_run_resumes_at_its_step(tmp_path):
    model = torch.nn.Linear(2, 2)
    run = Run(tmp_path, minutes=1, step=7, elapsed=20.0)
    run.save(model=model)
    other, resumed = torch.nn.Linear(2, 2), Run(tmp_path, minutes=1)
    resumed.load(model=other)
    assert (resumed.step, resumed.elapsed) == (7, 20.0)
    assert torch.equal(model.weight, other.weight)


def test_a_run_stops_when_its_budget_is_used(tmp_path):
    assert list(Run(tmp_path, minutes=1, elapsed=60.0).steps()) == []


def test_reports_are_due_by_time(tmp_path):
    run = Run(tmp_path, minutes=1)
    run.add(loss=2.0)
    assert not run.report_is_due
    run.elapsed = 25.0
    assert run.report_is_due
    run.report()
    assert not run.report_is_due
    assert (tmp_path / "losses.csv").read_text().splitlines()[1].endswith(",2")


def test_a_signal_ends_a_run_after_its_step(tmp_path):
    run, before = Run(tmp_path, minutes=1), signal.getsignal(signal.SIGTERM)
    taken = []
    for step in run.steps():
        taken.append(step)
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert taken == [0] and run.step == 1


def test_a_run_waits_while_its_pause_file_exists(tmp_path, monkeypatch):
    pause = tmp_path / "pause"
    pause.touch()
    monkeypatch.setattr("demo.training.loop.PAUSE_S", 0.01)
    run = Run(tmp_path, minutes=1, pause_file=pause)
    waiting = threading.Thread(target=run.wait)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    pause.unlink()
    waiting.join(5)
    assert not waiting.is_alive()


def test_pieces_make_the_file_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10)
    whole = tmp_path / "file"
    whole.write_bytes(bytes(range(35)))
    pieces.split(whole, tmp_path / "cut")
    whole.unlink()
    assert len(list((tmp_path / "cut").iterdir())) == 5
    pieces.join(whole, tmp_path / "cut")
    assert whole.read_bytes() == bytes(range(35))
    (tmp_path / "cut" / "file.002").write_bytes(b"else")
    with pytest.raises(ValueError, match="aren't what was split"):
        pieces.join(whole, tmp_path / "cut")


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 3, 3))


def optimizer_of(model):
    return MatrixOptimizer(
        model, matrix_rate=1e-2, rate=1e-2, slow_rate=1e-5, slow=lambda name: name == "2.weight"
    )


def test_the_optimizer_moves_matrices_by_muon_and_holds_the_slow_ones_back():
    model = small_model()
    optimizer = optimizer_of(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model(torch.randn(4, 3, 9, 9)).square().mean().backward()
    optimizer.step()
    moved = {name: (weight - before[name]).abs().mean().item() for name, weight in model.named_parameters()}
    assert all(change > 0 for change in moved.values())
    assert moved["0.weight"] > 100 * moved["2.weight"]
    # An orthogonalised update: all singular values are about equal.
    values = torch.linalg.svdvals((model[0].weight - before["0.weight"]).view(8, -1))
    assert values.max() < 3 * values.min()
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in model.parameters())


def test_a_resumed_optimizer_goes_on_as_if_nothing_had_been():
    def steps(model, optimizer, count, seed):
        for number in range(count):
            torch.manual_seed(seed + number)
            model(torch.randn(2, 3, 9, 9)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    model = small_model()
    optimizer = optimizer_of(model)
    steps(model, optimizer, 3, 0)
    other = small_model()
    other.load_state_dict(model.state_dict())
    resumed = optimizer_of(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 2, 50)
    steps(other, resumed, 2, 50)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
