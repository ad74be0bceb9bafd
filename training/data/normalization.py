"""Mean and standard deviation by which images are normalised, the data's own or those that published weights expect.

Weights trained under another normalisation lose accuracy: the published CIFAR-10 ResNet-20 has 91.9 % on its own and
91.2 % on the true standard deviations, which are a fourth larger.
"""

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.data.named import STATISTICS, Statistics
from fsg.training.data.sets import Dataset
from fsg.training.registry import MODELS

NORMALIZATIONS: dict[str, Statistics] = {
    "cifar10": STATISTICS["cifar10"],
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and std of pixels / 255 per channel that published weights were trained with."""


def normalization(config: Config, data: Dataset) -> Statistics:
    """Mean and std of the pixels / 255 per channel, for a run on `data`.

    With full-precision weights, to start from or to distil from, "auto" takes what those weights expect: of CIFAR
    ResNets "half" for 100 classes, else "cifar10" (the statistics of their first batch norms fit no other); "imagenet"
    for torchvision's. Errors: FsgError for published figures on images that have not three channels.
    """
    name = config.normalization
    if name == "auto":
        name = _expected(config.model, data.num_classes) if config.init or config.teacher else "data"
    if name == "data":
        return data.mean, data.std
    if data.shape[0] != 3:
        raise FsgError(f"normalization {name} is for 3 channels, the images have {data.shape[0]}: use data")
    return NORMALIZATIONS[name]


def _expected(model: str, classes: int) -> str:
    if model in MODELS:
        return "half" if classes == 100 else "cifar10"
    return "imagenet" if model.startswith("torchvision:") else "data"
