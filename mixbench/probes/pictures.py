"""Contact sheets: the same test images true, shuffled, and decoded in each way, row by row."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from mixbench.errors import RecordError
from mixbench.files import write_atomically
from mixbench.probe_record import ProbeRecord
from mixbench.probes.metrics import MOST_DECIBELS

Samples = Mapping[str, UInt8[np.ndarray, "example channel height width"]]
_ROW_INCHES = 0.8
_LABEL_INCHES = 3.2
_TITLES = {"dense": "dense linear layer (control)", "circular": "circular padding (control)"}


@dataclass(frozen=True, eq=False)
class Decoded:
    """A record and its sample images, by row: truth, shuffled, decoder and the controls."""

    record: ProbeRecord
    samples: Samples

    @classmethod
    def read(cls, record: ProbeRecord, content: bytes) -> "Decoded":
        """Return the samples in an npz archive; raises RecordError if they are none."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                samples = {name: archive[name] for name in archive.files}
            shapes = {samples[name].shape for name in ("truth", "shuffled", "decoder", "dense", "circular")}
        except Exception as error:  # noqa: BLE001 - a damaged archive raises whatever it stumbles over
            raise RecordError(
                f"the samples of {record.id} cannot be read ({error!r}): probe with --overwrite"
            ) from None
        if len(shapes) != 1:
            raise RecordError(f"the samples of {record.id} are of unequal shapes: probe with --overwrite")
        return cls(record, samples)


def contact_sheet(decoded: tuple[Decoded, ...]) -> bytes:
    """Return a PNG with a row for the truth, the shuffled images, each decoder, and the controls of the first."""
    first = decoded[0]
    rows = [("truth", first.samples["truth"]), ("shuffled: what decoders see", first.samples["shuffled"])]
    rows += [(_title(one, "decoder", f"decoded, {one.record.model.mixing}"), one.samples["decoder"]) for one in decoded]
    titles = {**_TITLES, "circular": f"{_TITLES['circular']}, {first.record.model.mixing}"}
    rows += [(_title(first, name, title), first.samples[name]) for name, title in titles.items()]
    columns = len(rows[0][1])
    size = (_LABEL_INCHES + columns * _ROW_INCHES, 0.5 + len(rows) * _ROW_INCHES)
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=size, facecolor="white")
        for number, (title, images) in enumerate(rows):
            _draw_row(figure, number, title, images, size=size)
        figure.text(0.01, 1 - 0.25 / size[1], _headline(first.record), va="center", fontsize=10, weight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def write_contact_sheet(folder: Path, decoded: tuple[Decoded, ...]) -> Path:
    """Write the sheet into `folder`, named after the dataset, and return its path."""
    record = decoded[0].record
    path = folder / record.picture_name
    write_atomically(path, contact_sheet(decoded))
    return path


def _headline(record: ProbeRecord) -> str:
    settings = record.probe.parameters
    return (
        f"{record.dataset.name}: test images un-shuffled, permutation {record.protocol.permutation_seeds[0]}"
        f" (depth {settings['depth']}, width {settings['width']}, kernel {settings['kernel']})"
    )


def _title(decoded: Decoded, subject: str, title: str) -> str:
    metrics = decoded.record.of(subject)[0].metrics
    psnr = metrics["psnr"].value
    found = "exact" if psnr >= MOST_DECIBELS else f"{psnr:.1f} dB"
    return f"{title}\n{found}, SSIM {metrics['ssim'].value:.2f}"


def _draw_row(figure: Figure, number: int, title: str, images: np.ndarray, *, size: tuple[float, float]) -> None:
    width, height = size
    bottom = height - 0.5 - (number + 1) * _ROW_INCHES
    figure.text(0.1 / width, (bottom + _ROW_INCHES / 2) / height, title, va="center", fontsize=9)
    for column, image in enumerate(images):
        left = _LABEL_INCHES + column * _ROW_INCHES
        gap = 0.03
        area = (
            (left + gap) / width,
            (bottom + gap) / height,
            (_ROW_INCHES - 2 * gap) / width,
            (_ROW_INCHES - 2 * gap) / height,
        )
        axes: Any = figure.add_axes(area)
        grey = image.shape[0] == 1
        axes.imshow(image[0] if grey else image.transpose(1, 2, 0), cmap="gray" if grey else None, vmin=0, vmax=255)
        axes.set_axis_off()
