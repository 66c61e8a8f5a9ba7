"""`torchvision()`: import torchvision, also where its compiled operators do not load.

The torchvision wheel is linked against CUDA. Beside a CPU-only torch its operator library fails to load, and then
`import torchvision` stops at "operator torchvision::nms does not exist". The book uses models, transforms and datasets,
none of which need that operator, so its schema is declared first. On a CUDA build the library loads and nothing is touched.
"""

from pathlib import Path

import torch

_declared = None  # a torch Library withdraws its schemas when it is collected, so it is kept


def torchvision():
    """The module torchvision. raises ModuleNotFoundError, saying what to install, where it is missing."""
    import importlib.util

    global _declared
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise ModuleNotFoundError("this needs torchvision: pip install torchvision (the release that belongs to your torch)")
    if _declared is None and not hasattr(torch.ops.torchvision, "nms"):
        try:
            torch.ops.load_library(next(Path(spec.origin).parent.glob("_C*.so")))
        except (OSError, StopIteration):
            _declared = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision
