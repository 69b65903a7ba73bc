"""What the benchmarks share: networks and images, tables, memory, and one process for each
measurement.

DATA, the argument of most benchmarks, is a folder with
  * auto_lirpa/: kw_mnist.pth, mnist_a_adv.pth, mnist_cnn_small.pth and mnist_fc_3layer.pth, from
    examples/vision/pretrained of auto_LiRPA's repository;
  * mnist/: MNIST's four files *-ubyte.gz;
  * medmnist/: pneumoniamnist*.npz, as MedMNIST gives it;
  * cifar10/: CIFAR-10 as PNG files with an image in each row of pixels, cifar10_batch_50.png the
    first 1000 test images (the form of convnetjs);
  * cifar_resnet/resnet20-12fca82f.th, from akamaster/pytorch_resnet_cifar10.
"""

import argparse
import gzip
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lirpa_explain as lx

NETS = ("kw_mnist", "mnist_a_adv", "mnist_cnn_small", "mnist_fc_3layer")


# Networks and images


def load_net(data: Path, name: str) -> nn.Sequential:
    """One of auto_LiRPA's MNIST networks, in eval mode."""
    if name == "mnist_fc_3layer":
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64),
                            nn.ReLU(), nn.Linear(64, 10))
    else:
        c, hidden = (8, 256) if name == "mnist_cnn_small" else (16, 100)
        net = nn.Sequential(
            nn.Conv2d(1, c, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(c, 2 * c, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(98 * c, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )
    stored = torch.load(data / "auto_lirpa" / f"{name}.pth", map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), stored.values(), strict=True)))
    return net.eval()


def load_mnist(data: Path, count: int, train: bool = False) -> tuple[Tensor, Tensor]:
    """The first images (N, 1, 28, 28) in [0, 1], in the default type, and their classes (N,)."""
    kind = "train" if train else "t10k"
    with gzip.open(data / "mnist" / f"{kind}-images-idx3-ubyte.gz") as file:
        pixels = bytearray(file.read(16 + count * 784)[16:])
    with gzip.open(data / "mnist" / f"{kind}-labels-idx1-ubyte.gz") as file:
        labels = bytearray(file.read(8 + count)[8:])
    images = torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, 1, 28, 28) / 255
    return images, torch.frombuffer(labels, dtype=torch.uint8).long()


def load_pneumonia(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """PneumoniaMNIST's images (N, 1, 28, 28) of a split (train, val, test), in [0, 1], and their
    classes (N,).
    """
    import numpy as np

    arrays = np.load(next((data / "medmnist").glob("pneumoniamnist*.npz")))
    images, labels = (torch.tensor(arrays[f"{split}_{kind}"]) for kind in ("images", "labels"))
    return images[:, None].to(torch.get_default_dtype()) / 255, labels.flatten().long()


def load_cifar(data: Path, count: int, part: int = 50) -> Tensor:
    """The first images (N, 3, 32, 32) of a file in [0, 1], in the default type; those of part 50
    are for testing.
    """
    import numpy as np
    from PIL import Image

    with Image.open(data / "cifar10" / f"cifar10_batch_{part}.png") as file:
        pixels = np.array(file)[:count]
    return torch.tensor(pixels).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous() / 255


# Printing


def print_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells as a Markdown table."""
    table = [columns, ["---"] + ["---:"] * (len(columns) - 1), *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("|", " | ".join(cell.rjust(width) if i else cell.ljust(width)
                              for i, (cell, width) in enumerate(zip(cells, widths, strict=True))),
              "|", flush=True)


def progress(text: str) -> None:
    """Tell on stderr what was measured just now."""
    print(text, file=sys.stderr, flush=True)


def versions() -> str:
    """What the numbers were made with."""
    return (f"torch {torch.__version__}, auto_LiRPA {lx.AUTO_LIRPA_VERSION}, Python "
            f"{platform.python_version()}, {torch.get_num_threads()} thread(s), "
            f"{torch.get_default_dtype()}")


# Measuring


def peak() -> float:
    """The most memory this process has held, MiB (Linux).

    Not getrusage's ru_maxrss: that counts what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_process(script: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """What `script` with these arguments and --one FILE saves in FILE; a process of its own, for
    its memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.pt"
        subprocess.run([sys.executable, "-W", "ignore", script, *map(str, arguments), "--one",
                        file], check=True, stdout=subprocess.DEVNULL)
        return torch.load(file, weights_only=True)


def outside(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> float:
    """By how much the found range [low, high] leaves the bounds."""
    return float(torch.maximum(lower - low, high - upper).clamp(min=0).max())


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser of options with the hidden option --one, see `in_process`."""
    result = argparse.ArgumentParser(description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return result
