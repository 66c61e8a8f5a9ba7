"""Universal perturbations: one image each that changes what a network says about most photographs (Moosavi-Dezfooli et al. 2017).

Six are public, computed for six networks of ImageNet with ‖v‖∞ ≤ 10/255. They lie as MATLAB files in
`<data_root>/universal_perturbations/`; what is not there is downloaded, with a checksum.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from helpers.data import default_root, digest_of
from helpers.fetchers import DataError, fetch_file
from helpers.inputs import device_of

Tensor = torch.Tensor

NAME = "universal_perturbations"
# Of Moosavi-Dezfooli et al.; this copy is the one in the repository of Liang, Hayes & Althoff.
SOURCE = "https://raw.githubusercontent.com/davisliang/adversarial/aeb848e994a5f0bee9049f59f63854cd65ffd791/data/"
SHA256 = {
    "CaffeNet": "b0cdd882eeea412d7b4ccf3f36a139bfe292bed801acc7d2230ef7adfb4b58ac",
    "GoogLeNet": "1fb751674af0ddccfae2e837935ef62bd07c0db8f2038a369cdb4cde7431106b",
    "ResNet-152": "f70bdf43b2a464894344696dc4473b8ee07623a5356b5b16d54c7d099bcd35d4",
    "VGG-16": "16bb5943531db733e9ce8ead32be6cfd2d3897ced788621431a5a403cdee90d5",
    "VGG-19": "38b3dad1ff3daf60e82623322cda4ce2731dc6778bbb4ac5ca672623e18e974a",
    "VGG-F": "8636e6dca462e28580480bbc184c07b2eb5e35a523752e1236992550f03110f9",
}
NAMES = tuple(SHA256)


@dataclass(frozen=True)
class Perturbations:
    """Perturbations (P, 3, 224, 224) float32, RGB, to be added to pixels in [0, 1], and the networks that they were made for."""

    names: tuple[str, ...]
    tensors: Tensor
    name: str = NAME

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def digest(self) -> str:
        """`data.digest_of` values and names, as a `Split` has one: names them in a row of results."""
        return digest_of(self.tensors, torch.empty(0), self.names)


def load_perturbations(data_root: str | Path | None = None, device: str | torch.device = "cpu") -> Perturbations:
    """The six perturbations on `device`; each file that is not there is downloaded.

    raises DataError, which names the file and says what to do, for one that is damaged or another, or a download that fails
    """
    device = device_of(device)
    folder = Path(data_root or default_root()).expanduser() / NAME
    values = np.stack([_read(folder / f"{name}.mat", sha256) for name, sha256 in SHA256.items()])  # (P, 224, 224, 3), in 255ths
    tensors = torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().div_(255)  # before they move, as `data.load` does
    return Perturbations(NAMES, tensors.to(device))


def _read(path: Path, sha256: str) -> np.ndarray:
    """The perturbation in a file, downloaded first if need be: (224, 224, 3) float32 in [-10, 10]."""
    from scipy.io import loadmat

    if not path.exists():
        fetch_file(SOURCE + path.name, path, sha256)
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises as many kinds for a damaged file as numpy
        raise DataError(f"{path} is damaged ({error}): delete it, and it will be fetched again") from error
    values, problem = content.get("r"), None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if values is None:
        problem = f"there is no 'r' in it, only: {', '.join(k for k in content if not k.startswith('__')) or 'nothing'}"
    elif values.dtype != np.float32 or values.shape != (224, 224, 3):
        problem = f"'r' must be float32 of shape (224, 224, 3), not {values.dtype} {values.shape}"
    elif not (np.abs(values) <= 10).all():  # so that NaN is refused too
        problem = f"'r' must lie in [-10, 10], not in [{values.min()}, {values.max()}]"
    elif digest != sha256:
        problem = f"its SHA-256 is {digest[:16]}…, not {sha256[:16]}…"
    if problem:
        raise DataError(f"{path}: {problem}. Delete the file, and it will be fetched again.")
    return values
