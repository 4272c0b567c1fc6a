"""Parts of training that need no base: weights of time steps, schedules, the choice of threads, bars, settings."""

import tomllib
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from client.bars import Bars
from client.config import load_settings, remember
from client.progress import Update
from client.training.options import TrainingOptions
from protocol.errors import BadInput

torch = pytest.importorskip("torch")

from client.training.cache import Cache, replace_durably  # noqa: E402
from client.training.losses import draw_noise, step_weights  # noqa: E402
from client.training.optimizers import factor  # noqa: E402
from client.training.timing import choose  # noqa: E402

LEVELS = 5
ALPHA = torch.tensor([0.99, 0.9, 0.6, 0.3, 0.1]).sqrt()[:, None, None, None]
SIGMA = (1 - ALPHA.square()).sqrt()
FLOW = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.99])[:, None, None, None]


class Noising:
    """As much of a base as the weights ask for."""

    device, levels = torch.device("cpu"), LEVELS

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def noised(
        self, x: "torch.Tensor", n: "torch.Tensor", steps: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        if self.kind == "flow":
            return (1 - FLOW) * x + FLOW * n, n - x
        target = {"epsilon": n, "v": ALPHA * n - SIGMA * x}[self.kind]
        return ALPHA * x + SIGMA * n, target

    def snr(self, steps: "torch.Tensor") -> "torch.Tensor":
        ratio = (1 - FLOW) / FLOW if self.kind == "flow" else ALPHA / SIGMA
        return ratio.flatten().square()


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_min_snr_weighs_every_kind_of_answer_as_its_paper_says(kind: str) -> None:
    base = Noising(kind)
    snr = base.snr(torch.arange(LEVELS))
    capped = snr.clamp(max=5)
    expected = {"epsilon": capped / snr, "v": capped / (snr + 1), "flow": FLOW.flatten().square() * capped}[kind]
    assert torch.allclose(step_weights(base, 5.0), expected, rtol=1e-4)  # type: ignore[arg-type]


def test_noise_offset_moves_whole_channels() -> None:
    noise = draw_noise(torch.zeros(2, 3, 64, 64), 10.0, torch.Generator().manual_seed(0))
    plain = draw_noise(torch.zeros(2, 3, 64, 64), 0.0, torch.Generator().manual_seed(0))
    shift = (noise - plain).flatten(2)
    assert torch.allclose(shift, shift[:, :, :1].expand_as(shift), atol=1e-4)
    assert float(shift.std()) > 3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.8536, 0.5, 0.1464, 0]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: str, expected: list[float]) -> None:
    options = TrainingOptions.model_validate({"schedule": schedule, "warmup": 2})
    assert [factor(done, 6, options) for done in range(7)] == pytest.approx(expected, abs=1e-4)


def test_the_quickest_number_of_threads_is_taken_and_fewer_bits_only_where_they_pay() -> None:
    times = {(1, "fp32"): 2.0, (2, "fp32"): 3.0, (1, "bf16"): 1.9}
    threads = [(1, "fp32"), (2, "fp32")]
    assert choose([threads, [(0, "bf16")]], times.__getitem__).precision == "fp32"
    times[1, "bf16"] = 1.0
    chosen = choose([threads, [(0, "bf16")]], times.__getitem__)
    assert (chosen.threads, chosen.precision, chosen.seconds_a_step) == (1, "bf16", 1.0)


def test_a_cached_tensor_comes_back_in_its_memory_order_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path, "base"), []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last)}

    first = cache.kept({"kind": "x"}, torch.device("cpu"), make)["x"]
    again = cache.kept({"kind": "x"}, torch.device("cpu"), make)["x"]
    assert len(made) == 1
    assert torch.equal(first, again) and first.stride() == again.stride()
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    cache.kept({"kind": "x"}, torch.device("cpu"), make)
    Cache(tmp_path, "another base").kept({"kind": "x"}, torch.device("cpu"), make)
    assert len(made) == 3


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    replace_durably(path, b"before")
    (tmp_path / ".kept.part").mkdir()
    with pytest.raises(OSError):
        replace_durably(path, b"after")
    assert path.read_bytes() == b"before"


def test_training_settings_come_from_table_and_environment_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "member.toml"
    file.write_text('rpc_url = "http://node"\n\n[training]\nrank = 4\ngradient_checkpointing = true\n')
    monkeypatch.setenv("COTERIE_TRAINING__PRECISION", "bf16")
    settings = load_settings(tmp_path, coordinator="http://dao")
    assert (settings.training.rank, settings.training.precision) == (4, "bf16")
    remember(settings, "coordinator")
    assert tomllib.loads(file.read_text()) == {
        "coordinator": "http://dao",
        "rpc_url": "http://node",
        "training": {"rank": 4, "gradient_checkpointing": True},
    }
    monkeypatch.setenv("COTERIE_TRAINING__PRECISION", "int4")
    with pytest.raises(BadInput, match=r"The setting training\.precision is wrong"):
        load_settings(tmp_path)


def test_where_output_is_no_terminal_progress_is_plain_lines_now_and_then() -> None:
    written = StringIO()
    with Bars(Console(file=written, width=200)) as bars:
        for step in range(1, 5):
            bars.show(Update(round_id="one", stage="training", step=step, steps=4, note="Careful." * (step == 2)))
        told = {"loss": 0.25, "images_per_second": 12.0, "seconds_left": 3725.0, "memory_bytes": 2_100_000_000}
        bars.show(Update(round_id="two", stage="training", step=1, steps=4, **told))
    assert written.getvalue().splitlines() == [
        "round one: training 1/4",
        "Careful.",
        "round one: training 4/4",
        "round two: training 1/4 loss 0.250 · 12.0 images/s · 2.1 GB · 1:02:05 left",
    ]
