"""`ota` and `python -m ota`: the verbs, and what becomes of errors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

import typer
from typer.exceptions import Abort, TyperException
from typer.main import get_command

from ota import (
    __version__,
    bench,
    bundle,
    calibrate,
    dataset,
    decode,
    demo,
    doctor,
    emulate,
    live,
    record,
    report,
    serve,
    sweep,
    train,
    transmit,
)
from ota.arguments import guard_inputs
from ota.streams import bearing_streams, finish_output
from sdr.errors import OtaError

MANUAL = """Send images through a radio as joint source-channel coded symbols, and get them back by diffusion
posterior sampling.

An image is encoded into complex symbols; GNU Radio (or the NumPy modem that equals it) frames them into OFDM; the
receiver finds the frames in a recording, estimates the channel (or does without), and samples the image from its
posterior.

\b
The way of the data, and the verb for each part:
  images -> transmit -> radio ~~~ radio -> record -> recording -> decode -> images
  demo    all of it: 64 images through GNU Radio processes and back, with a report
  live    the link on a page of its own, while it runs
  sweep   quality and realism against channel SNR, over hundreds of images
  calibrate  measure a pair of radios, for the receiver to use
  dataset look into the captures of a campaign, check them, import those of others
  report  write the report of a finished run again
  bundle  make a bundle from published checkpoints, look into it, check it
  train   train the codec, the prior and the realism features
  bench   what the receiver reaches against theory, and how fast
  doctor  what this machine has, and what is missing
  serve   a radio for another process or host
  emulate a Pluto or a USRP made of sockets, for trying everything without hardware

\b
Start here:
  ota doctor
  ota demo --out runs/demo            then open runs/demo/report.html
  ota live                            then open the page that it names
\b
Over a file, any channel you like in between:
  ota transmit --radio file:runs/tx --images models/fashion/samples
  ota decode runs/tx --layout runs/tx.layout.json --method hifi --out runs/decoded

\b
Radios are addressed by one URI:
  sim:csnr_db=10,taps=8               simulated in this process
  file:PATH                           a SigMF recording, PATH.sigmf-data and PATH.sigmf-meta
  zmq:rx=tcp://HOST:PORT,tx=tcp://..  another process or host that serves samples
  pluto:ip:192.168.2.1,tx_gain_db=-20 an ADALM-Pluto, or `ota emulate pluto`
  uhd:type=b200,tx_gain_db=40         a USRP, or `ota emulate usrp`

A verb writes only where --out (or a file: radio) says, under a temporary name until it is finished. Errors are one
line on standard error; exit status 2 means that something you gave or have needs mending, 130 that you interrupted, 1
that something was not foreseen. With --debug anywhere the line comes after a traceback.
With --json a verb prints one JSON object on standard output and nothing else there.
"""

app = typer.Typer(
    help=MANUAL,
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "live": live.live,
    "transmit": transmit.transmit,
    "record": record.record,
    "decode": decode.decode,
    "sweep": sweep.sweep,
    "calibrate": calibrate.calibrate,
    "report": report.report,
    "doctor": doctor.doctor,
    "serve": serve.serve,
}
for _name, _verb in VERBS.items():
    app.command(_name)(_verb)
app.add_typer(train.app, name="train")
app.add_typer(emulate.app, name="emulate")
app.add_typer(bench.app, name="bench")
app.add_typer(dataset.app, name="dataset")
app.add_typer(bundle.app, name="bundle")

for _group in (app, *(group.typer_instance for group in app.registered_groups)):
    for _command in _group.registered_commands if _group is not None else ():
        assert _command.callback is not None
        _command.callback = guard_inputs(_command.callback)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diffcom-ota {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", callback=_print_version, is_eager=True
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; may stand anywhere."),
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


# The manual is the group's help; the callback's own (empty) docstring must not replace it.
app.registered_callback.help = MANUAL  # type: ignore[union-attr]


#: Option of every verb: see `_run`.
_DEBUG = "--debug"
#: Exit status of a verb that was interrupted.
_INTERRUPTED = 130
#: What torch's allocators say.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate")
_SMALLER = "Lower --batch-size or --draws, or take smaller images; --debug shows where it happened."


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    # Unwinds the stack, so that flowgraph processes are stopped and unfinished output is removed.
    raise SystemExit(143)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the arguments after the program's name; those of this process when missing.

    Returns:
        Exit status: 0, 2 for a user's mistake or a missing piece (one line on stderr), 1 for what was not foreseen (one
        line, too), 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _DEBUG in arguments
    previous = signal.signal(signal.SIGTERM, _on_terminate)
    try:
        with bearing_streams():
            return _run([argument for argument in arguments if argument != _DEBUG], debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(arguments: Sequence[str], debug: bool) -> int:
    """Run a command line; any error becomes one line, after its traceback where `debug` asks for it."""
    try:
        result = get_command(app).main(args=arguments, prog_name="ota", standalone_mode=False)
        finish_output()
        if result == _INTERRUPTED:
            raise Abort
        return result if isinstance(result, int) else 0
    except SystemExit:
        raise
    except BaseException as error:
        if debug:
            import traceback

            traceback.print_exc()
        with suppress(OSError):
            finish_output()
        status, message = _told(error)
        print(f"error: {_one_line(message)}", file=sys.stderr)
        return status


def _working_folder_exists() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _told(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the line that an error ends in."""
    text = _one_line(str(error))
    match error:
        case OtaError():
            return 2, text
        case TyperException():
            return 2, f"{error.format_message()} See `ota --help`."
        case KeyboardInterrupt() | Abort():
            return _INTERRUPTED, "interrupted"
        case MemoryError():
            return 2, f"out of memory{': ' if text else ''}{text}. {_SMALLER}"
        case RuntimeError() if any(words in text.lower() for words in _OUT_OF_MEMORY):
            return 2, f"out of memory: {text[:200]}. {_SMALLER}"
        case FileNotFoundError() if error.filename is None and not _working_folder_exists():
            return 2, "the folder you work in was removed. Change to another one."
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return 2, f"{where}{error.strerror or text or type(error).__name__}"
    return 1, f"{type(error).__name__}: {text[:300]} (not foreseen; --debug shows where it happened)"


if __name__ == "__main__":
    sys.exit(main())
