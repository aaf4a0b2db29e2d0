"""Labelled images to train on and to attack, each set known by the fingerprint of its pixels and labels."""

from mixbench.datasets.catalogue import CATALOGUE, DatasetSpec
from mixbench.datasets.examples import Examples
from mixbench.datasets.loading import load_examples
from mixbench.datasets.selection import balanced_order, choose_balanced

__all__ = ["CATALOGUE", "DatasetSpec", "Examples", "balanced_order", "choose_balanced", "load_examples"]
