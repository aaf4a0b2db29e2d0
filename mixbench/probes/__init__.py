"""Pixel-shuffle probes: can shuffled images be decoded, and can they still be recognised?"""

from mixbench.probes.benchmark import DecoderTime, time_decoders
from mixbench.probes.fitting import Moment, ProgressCallback
from mixbench.probes.permutation import PixelPermutation
from mixbench.probes.pictures import Decoded, write_contact_sheet
from mixbench.probes.recognize import RecognizePlan, check_recognize, plan_recognize, probe_recognize
from mixbench.probes.sizes import SIZES, DecoderChoice
from mixbench.probes.unshuffle import ProbeResult, UnshufflePlan, check_unshuffle, plan_unshuffle, probe_unshuffle

__all__ = [
    "SIZES",
    "Decoded",
    "DecoderChoice",
    "DecoderTime",
    "Moment",
    "PixelPermutation",
    "ProbeResult",
    "ProgressCallback",
    "RecognizePlan",
    "UnshufflePlan",
    "check_recognize",
    "check_unshuffle",
    "plan_recognize",
    "plan_unshuffle",
    "probe_recognize",
    "probe_unshuffle",
    "time_decoders",
    "write_contact_sheet",
]
