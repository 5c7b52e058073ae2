"""The command line. `metarl COMMAND --help` shows every option with its default and unit.

Commands: `list`, `train AGENT --family ID`, `train --resume RUN`, `eval RUN... --k 3 --split test`,
`report RUN... --out DIR`, `benchmark SUITE`, `compare A B`, `online AGENT --family ID`, `watch RUN`, `check-family ID`,
`check-agent NAME`, `quickstart`.
"""

from __future__ import annotations

import inspect
import os
import select
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

import metarl
from metarl.cli.benchmark import run_benchmark
from metarl.cli.commands import (
    loaded,
    quoted,
    refuse,
    run_check_agent,
    run_check_family,
    run_report,
    run_watch,
)
from metarl.cli.compare import run_compare
from metarl.cli.listing import learners, run_list
from metarl.cli.online import run_online
from metarl.cli.options import (
    BenchmarkOptions,
    CheckAgentOptions,
    CheckFamilyOptions,
    CompareOptions,
    EvalOptions,
    ListOptions,
    OnlineOptions,
    QuickstartOptions,
    ReportOptions,
    ResumeOptions,
    TrainOptions,
    WatchOptions,
    check_options,
)
from metarl.cli.quickstart import run_quickstart
from metarl.cli.rows import run_eval_or_rows
from metarl.cli.training import defaults_like, run_resume, run_train
from metarl.contract.agent_contract import declared
from metarl.contract.family_probe import is_built_in
from metarl.errors import (
    AgentWarning,
    DivergedWarning,
    FamilyWarning,
    InvalidValueError,
    MetaRLError,
    did_you_mean,
    notes_of,
    printable,
    verbatim,
)
from metarl.families.opengl import choose_renderer, rendering
from metarl.families.registry import agent_class, agents
from metarl.named import load_source
from metarl.runs.train import Interrupted

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "list": (ListOptions, run_list),
    "eval": (EvalOptions, run_eval_or_rows),
    "report": (ReportOptions, run_report),
    "benchmark": (BenchmarkOptions, run_benchmark),
    "compare": (CompareOptions, run_compare),
    "online": (OnlineOptions, run_online),
    "watch": (WatchOptions, run_watch),
    "check-family": (CheckFamilyOptions, run_check_family),
    "check-agent": (CheckAgentOptions, run_check_agent),
    "quickstart": (QuickstartOptions, run_quickstart),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `metarl` command. Invalid input prints one sentence and exits with code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _plain_warnings():
            _dispatch(arguments)
            sys.stdout.flush()
    except MetaRLError as error:
        _print_error("; ".join([str(error), *notes_of(error)]))
        raise SystemExit(2) from None
    except Interrupted as stop:
        sources = "".join(f" --load {shlex.quote(source)}" for source in loaded)
        _print_error(f"{stop}; continue with: metarl train --resume {quoted(stop.run or '')}{sources}")
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        _print_error("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader is gone: flushing at exit must not fail
        raise SystemExit(1) from None
    except Exception as error:  # an unexpected error: its traceback follows
        if notes := notes_of(error):
            _print_error("; ".join([f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": "), *notes]))
        raise


def _print_error(sentence: str) -> None:
    print(f"metarl: {printable(sentence)}", file=sys.stderr)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader has ended, as after `| head`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show metarl's own warnings as one sentence, without the source line that raised them."""
    original = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> str:
        own = issubclass(category, (AgentWarning, DivergedWarning, FamilyWarning))
        text = printable(str(message))
        return f"metarl: {text}\n" if own else original(text, category, *args, **kwargs)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = original


def _load_sources(arguments: list[str]) -> list[str]:
    """Import the arguments of `--load`, at any position; returns the other arguments."""
    loaded.clear()
    rest, is_source = [], False
    for argument in arguments:
        if is_source or argument.startswith("--load="):
            _load_source(argument.removeprefix("--load="))
            is_source = False
        elif argument == "--load":
            is_source = True
        else:
            rest.append(argument)
    if is_source:
        raise InvalidValueError("--load", verbatim("nothing"), "a module or a .py file")
    return rest


def _load_source(source: str) -> None:
    """Import one argument of `--load`. An exception of the user's file prints a sentence and keeps its traceback."""
    try:
        with rendering():
            load_source(source)
    except MetaRLError:
        raise
    except Exception as error:
        _print_error(f"{source} raised {type(error).__name__} while it was loaded:")
        raise
    if source not in loaded:
        loaded.append(source)


def _parse(kind: Any, arguments: list[str], command: str, default: Any = None) -> Any:
    """Parse and check the options of a command."""
    for name in ("--out", "--resume"):
        if f"{name}=" in arguments or (name, "") in pairwise(arguments):
            raise InvalidValueError(name, "", "the name of a file or directory")  # Path("") is the current one
    about: dict[str, Any] = {"prog": f"metarl {command}", "description": inspect.cleandoc(kind.__doc__ or "")}
    about |= {} if default is None else {"default": default}
    options = tyro.cli(kind, args=arguments, **about)
    check_options(options)
    return options


def _dispatch(arguments: list[str]) -> None:
    if "watch" in arguments:  # before any import of MuJoCo
        choose_renderer()
    arguments = _load_sources(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(f"metarl {metarl.__version__}: meta-reinforcement learning on Gymnasium and PyTorch\n")
        print("usage: metarl COMMAND [OPTIONS]      (metarl COMMAND --help shows defaults and units)")
        print("       --load FILE.py or MODULE, at any position, imports the code of your families and agents\n")
        for name, what in [("train AGENT", TrainOptions), *((n, c[0]) for n, c in COMMANDS.items())]:
            print(f"  {name:14}{(what.__doc__ or '').splitlines()[0]}")
        return
    if arguments[0] == "--version":
        print(metarl.__version__)
        return
    command, rest = arguments[0], arguments[1:]
    if command == "train":
        _dispatch_train(rest)
    elif command in COMMANDS:
        options, run = COMMANDS[command]
        if (
            command in ("eval", "watch", "check-agent", "online")
            and rest
            and rest[0] in agents
            and not Path(rest[0]).exists()
        ):
            config = _config_class(rest[0])
            options = make_dataclass(
                options.__name__, [("agent", config, field(default=config()))], bases=(options,), frozen=True
            )
            options.__doc__ = COMMANDS[command][0].__doc__
        run(_parse(options, rest, command))
    else:
        raise InvalidValueError("command", command, did_you_mean(command, [*COMMANDS, "train"]))


def _config_class(name: str) -> type[Any]:
    """Class of an agent's hyperparameters, which become options of the command."""
    cls = agent_class(name)
    if not is_built_in(cls):
        refuse("agent", name, declared(cls, name))
    config: type[Any] = cls.Config
    return config


def _dispatch_train(rest: list[str]) -> None:
    """Run `train AGENT`, with the agent's hyperparameters as options, or `train --resume RUN`."""
    if rest and not rest[0].startswith("-"):
        name = rest[0]
        flat: Any = Annotated[_config_class(name), tyro.conf.OmitArgPrefixes]
        like = defaults_like(name, rest[1:])
        options = make_dataclass(
            "Options", [("config", flat, field(default=like["config"]))], bases=(TrainOptions,), frozen=True
        )
        options.__doc__ = TrainOptions.__doc__
        run_train(name, _parse(options, rest[1:], f"train {name}", options(**like)))
        return
    if not any(r.startswith("--resume") for r in rest):
        print("usage: metarl train AGENT --family ID [OPTIONS]   or   metarl train --resume RUN\n")
        names = learners()
        print(f"AGENT is one of: {', '.join(names)}   (metarl train AGENT --help shows its options)")
        if rest and rest[0] in ("-h", "--help"):
            return
        raise InvalidValueError("agent", verbatim("missing"), did_you_mean("", names))
    run_resume(_parse(ResumeOptions, rest, "train"))


if __name__ == "__main__":
    main()
