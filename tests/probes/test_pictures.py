import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mixbench.errors import RecordError
from mixbench.probes import Decoded, UnshufflePlan, probe_unshuffle
from mixbench.probes.pictures import contact_sheet


def test_a_sheet_has_a_row_for_each_decoder_and_the_same_bytes_each_time(plan: UnshufflePlan) -> None:
    result = probe_unshuffle(replace(plan, permutation_seeds=(0,)), device="cpu")
    assert result.samples is not None
    decoded = Decoded.read(result.record, result.samples)
    assert np.array_equal(decoded.samples["truth"], plan.test.images[:10])
    one, two = contact_sheet((decoded,)), contact_sheet((decoded, decoded))
    assert one == contact_sheet((decoded,))
    heights = [Image.open(io.BytesIO(sheet)).height for sheet in (one, two)]
    assert heights[1] - heights[0] == pytest.approx(120, abs=1)


def test_damaged_samples_are_refused(plan: UnshufflePlan) -> None:
    result = probe_unshuffle(replace(plan, permutation_seeds=(0,)), device="cpu")
    with pytest.raises(RecordError, match="cannot be read"):
        Decoded.read(result.record, b"nothing")
