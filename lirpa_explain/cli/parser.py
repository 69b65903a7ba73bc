"""The options of every command."""

import argparse
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..bounding.methods import METHODS
from ..plots import SIGNS
from ..tables import tables
from . import attack, certify, doctor, ops, plot, smooth, values
from .require import requirement

NORMS = {"inf": math.inf, "2": 2, "1": 1}


class Parser(argparse.ArgumentParser):
    """A parser that raises errors and does not end the process."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message}; {self.prog} --help lists the options.")


def make_parser() -> Parser:
    """The parser of all commands; `run` of what it gives is the function that does the work."""
    parser = Parser(prog="lirpa-explain",
                    description="Explanations of neural networks with certified bounds.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int],
                words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        made.set_defaults(run=run)
        return made

    _certify(command("certify", certify.run, "bound an attribution over a ball around each "
                     "example"))
    _smooth(command("smooth", smooth.run, "draw an attribution under noise: what stays important "
                    "in an l2 ball"))
    _attack(command("attack", attack.run, "search for the strongest change of an attribution in a "
                    "ball"))
    _plot(command("plot", plot.run, "draw a saved certificate, or a metric against the radius"))
    made = command("ops", ops.run, "list what is supported")
    made.add_argument("tables", nargs="*", metavar="TABLE", type=_typed(_table),
                      help=f"of: {', '.join(tables())}")
    command("doctor", doctor.run,
            "say what is installed and missing, and check a small certificate")
    return parser


def _certify(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    group = _said(parser, ", or 'prediction';")
    group.add_argument("--prediction", action="store_true",
                       help="certify the predicted class and its confidence too")
    group.add_argument("--refine", metavar="WHAT",
                       help="refine the bounds of: sign, width, top_k:K, or a condition as of "
                       "--require; see Certificate.refine. metrics.csv says what share is decided")
    group.add_argument("--seconds", type=_typed(_seconds), metavar="S", help="for refining a file "
                       "of examples (see --chunk); default: until all is decided")
    group.add_argument("--attack", action="store_true",
                       help="attack every metric that is certified, and the signs: what was found "
                       "stands beside the certified number, in metrics.csv and the report")


def _smooth(parser: argparse.ArgumentParser) -> None:
    _common(parser, has_ball=False)
    group = parser.add_argument_group("the smoothed map")
    group.add_argument("--sigma", type=_typed(_positive_number), required=True, metavar="S",
                       help="deviation of the noise, in units of the inputs")
    group.add_argument("--keep", type=_typed(_share), default=0.2, metavar="SHARE",
                       help="of the entries that count as important (default: 0.2)")
    group.add_argument("--levels", type=_typed(_positive), default=1, metavar="L",
                       help="steps in which an entry's rank counts (default: 1)")
    group.add_argument("--signed", action="store_true",
                       help="rank the signed attribution and not its size")
    group.add_argument("--sum-channels", action="store_true",
                       help="rank the pixels of an image, channels summed")
    group.add_argument("--samples", type=_typed(_positive), default=1000, metavar="N",
                       help="draws of each example (default: 1000)")
    group.add_argument("--doublings", type=_typed(_count), default=0, metavar="N",
                       help="double the draws so often, those that are there included (default: 0)")
    group.add_argument("--confidence", type=_typed(_share), default=0.999, metavar="P",
                       help="for each example (default: 0.999)")
    group.add_argument("--radius", type=_typed(_radius), metavar="R",
                       help="the l2 radius of interest: drawing ends where all is decided there")
    group.add_argument("--radii", nargs="+", type=_typed(_radius), metavar="R",
                       help="of the table and the report (default: --radius, or S/4, S/2 and S)")
    _said(parser)


def _said(parser: argparse.ArgumentParser, further: str = ";") -> Any:
    group = parser.add_argument_group("what is said of the certificates")
    group.add_argument(
        "--metric", action="append", default=[], type=_typed(values.call), metavar="NAME[:K=V,...]",
        help="a column of metrics.csv, several times; `lirpa-explain ops metrics` lists them")
    group.add_argument("--report", type=Path, metavar="FILE.html",
                       help="write a report to read in a browser")
    group.add_argument("--names", type=_words, metavar="A,B,...",
                       help="names of the features, for the report")
    group.add_argument("--require", action="append", default=[], type=_typed(requirement),
                       metavar="PROPERTY", help="'METRIC[:K=V,...] >= NUMBER', the same with "
                       f"<={further} exit code 1 if it is not certified for every example")
    group.add_argument("--require-share", type=_typed(_share), default=1.0, metavar="SHARE",
                       help="of the examples for which that is enough (default: 1)")
    return group


def _attack(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    group = parser.add_argument_group("the search")
    group.add_argument("--objective", type=_typed(values.call), default=("max_change", {}),
                       metavar="NAME[:K=V,...]", help="what to maximise (default: max_change); "
                       "`lirpa-explain ops objectives` lists them; those of Certificate.sandwich, "
                       "and width, are set beside what is certified")
    for name, default, words in (("samples", 60, "random points"),
                                 ("restarts", 3, "restarts of the ascent"),
                                 ("steps", 20, "steps of each ascent")):
        group.add_argument(f"--{name}", type=_typed(_count), default=default, metavar="N",
                           help=f"{words} (default: {default})")


def _common(parser: argparse.ArgumentParser, has_ball: bool = True) -> None:
    group = parser.add_argument_group("model and inputs")
    group.add_argument("--model", required=True, metavar="MODULE:FUNCTION",
                       help="a function without arguments that returns an nn.Module, or an "
                       "nn.Module, or the path of an ONNX file; it is put into evaluation mode")
    group.add_argument("--state-dict", type=Path, metavar="FILE",
                       help="weights to load into it, and nothing else")
    group.add_argument("--inputs", required=True, type=Path, metavar="PATH",
                       help=".npy, .npz, .csv, or a folder of images, which become numbers from 0 "
                       "to 1 (what normalises them belongs to the model)")
    group.add_argument("--array", metavar="NAME",
                       help="of the array in a .npz file that has several")
    group.add_argument("--shape", type=_typed(_numbers), metavar="N,...",
                       help="the shape of one example")
    group.add_argument("--image-size", type=_typed(_size), metavar="HxW",
                       help="to which images are resized")
    group.add_argument("--image-mode", choices=("RGB", "L"), default="RGB",
                       help="colours or grey (default: RGB)")
    group.add_argument("--examples", type=_typed(_range), default=(None,), metavar="[A:]B",
                       help="only the first B examples, or those from A up to B")
    group.add_argument("--target", default="predicted", metavar="TARGET",
                       help="which output is explained: predicted (default), an integer, a file of "
                       "integers, or column:NAME of a .csv")
    group.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                       help="(default: float32)")
    group.add_argument("--device", type=_typed(_device), default="cpu",
                       help="such as cuda (default: cpu)")

    group = parser.add_argument_group("what is certified")
    group.add_argument("--attribution", required=True, metavar="CLASS", help="the name of Captum's "
                       "class; `lirpa-explain ops attributions` lists them")
    group.add_argument("--layer", metavar="NAME",
                       help="of the model, for attributions at a layer or of a neuron")
    group.add_argument("--noise-tunnel", action="store_true",
                       help="put the attribution into Captum's NoiseTunnel")
    group.add_argument("--set", action="append", default=[], type=_typed(values.setting),
                       metavar="NAME=VALUE", help="a keyword of the class, of its attribute() or "
                       "of lirpa_explain.certify, several times: a literal, a word, or @file.npy")
    if has_ball:
        _ball(group)
    group.add_argument("--seed", type=_typed(_count), default=0,
                       help="of what is drawn at random (default: 0)")

    group = parser.add_argument_group("output")
    group.add_argument("--out", required=True, type=Path, metavar="FOLDER",
                       help="where results go; the same command resumes there")
    group.add_argument("--restart", action="store_true",
                       help="throw away the results that are there")
    group.add_argument("--chunk", type=_typed(_positive), default=16, metavar="N",
                       help="examples of one file, done at once (default: 16)")
    group.add_argument("--batch-size", type=_typed(_positive), metavar="N", help="most rows "
                       "(examples x path points) bounded at once: less memory (default: 64)")
    group.add_argument("--workers", type=_typed(_positive), default=1, metavar="N",
                       help="processes on this machine that share the chunks (default: 1)")
    group.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster that shares them, "
                       "such as tcp://host:8786; its workers must see the same folders")
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def _ball(group: Any) -> None:
    group.add_argument("--eps", nargs="+", required=True, type=_typed(_radius),
                       help="radii, such as 0.01 or 2/255")
    group.add_argument("--norm", type=_typed(_norm), default=math.inf, metavar="NORM",
                       help="inf (default), 2 or 1")
    group.add_argument("--clip", nargs=2, type=float, metavar=("LOW", "HIGH"),
                       help="the range of the data")
    group.add_argument("--method", choices=METHODS, default="CROWN",
                       help="of bounding (default: CROWN)")


def _plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("certificate", type=Path, help="a saved certificate, or a folder that "
                        "certify or smooth wrote, for a curve against the radius")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE",
                        help="the picture: .png, .pdf or .svg")
    parser.add_argument("--example", type=_typed(_count), default=0, metavar="I",
                        help="of the certificate (default: 0)")
    parser.add_argument("--kind", choices=("image", "bars"),
                        help="default: by the shape of the attribution")
    parser.add_argument("--inputs", type=Path, metavar="PATH",
                        help="the images that were certified, to show them")
    parser.add_argument("--sign", choices=SIGNS, default="all",
                        help="what of an image's attribution (default: all)")
    parser.add_argument("--names", type=_words, metavar="A,B,...", help="of the features")
    parser.add_argument("--most", type=_typed(_positive), metavar="N",
                        help="bars, the longest first")
    parser.add_argument("--metric", type=_typed(values.call), default=("sign_agreement", {}),
                        metavar="NAME[:K=V,...]", help="of a curve (default: sign_agreement)")
    parser.add_argument("--radius", type=_typed(_radius), metavar="R",
                        help="of a smoothed certificate (default: the one of interest, or 0)")
    parser.add_argument("--dpi", type=_typed(_positive), default=120,
                        help="dots per inch (default: 120)")


def _typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of argparse that keeps the message of a ValueError or an OSError."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, OSError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not an integer of at least 0.")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ValueError(f"{text!r} is not an integer of at least 1.")
    return int(text)


def _positive_number(text: str) -> float:
    number = _radius(text)
    if not 0 < number < math.inf:
        raise ValueError(f"{text!r} is not a finite number above 0.")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ValueError(f"{text!r} is not a number of seconds above 0.")
    return seconds


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(word) for word in _words(text))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return _positive(height), _positive(width)


def _range(text: str) -> tuple[int | None, ...]:
    return tuple(_count(word) if word else None for word in text.split(":", 1))


def _radius(text: str) -> float:
    """A number or a fraction."""
    try:
        radius = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        radius = -1
    if radius < 0:
        raise ValueError(f"{text!r} is not a radius; write a number of at least 0 such as 0.01 or "
                         "2/255.")
    return radius


def _norm(text: str) -> float:
    if text not in NORMS:
        raise ValueError(f"{text!r} is not one of {', '.join(NORMS)}.")
    return NORMS[text]


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{text!r} is no device of this machine.") from error
    return text


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is not a share from 0 to 1.")
    return share


def _table(text: str) -> str:
    if text not in tables():
        raise ValueError(f"{text!r} is not one of {', '.join(tables())}.")
    return text
