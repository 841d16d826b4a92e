"""The command `excamera`: one module a subcommand, every error one line, heavy imports only when work begins."""

from __future__ import annotations

import click

from excamera_dask.allocation import keep_freed_memory
from excamera_dask.cli.aws.cluster import cluster
from excamera_dask.cli.aws.functions import aws_lambda
from excamera_dask.cli.bench import bench
from excamera_dask.cli.compare import compare
from excamera_dask.cli.decode import decode
from excamera_dask.cli.demo import demo
from excamera_dask.cli.doctor import doctor
from excamera_dask.cli.encode import encode
from excamera_dask.cli.info import info
from excamera_dask.cli.plan import plan
from excamera_dask.cli.rendezvous import rendezvous
from excamera_dask.cli.step import step
from excamera_dask.cli.terminal.failures import (
    INTERRUPTED,
    end_undisturbed,
    explain,
    keep_interrupts,
    terminate_like_interrupt,
)
from excamera_dask.cli.terminal.streams import (
    escaped_streams,
    finish_stdout,
    give_stdout_up,
    steady_streams,
)
from excamera_dask.installation import check_packages
from excamera_dask.version import __version__

EPILOG = """\b
Exit codes:
  0    done
  1    an input cannot be read, an output cannot be written, or a worker failed
  2    wrong usage
  70   an error of excamera itself (EXCAMERA_DEBUG=1 shows the traceback)
  130  interrupted (Ctrl-C); nothing half-written is left behind
"""


@click.group(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="excamera")
@click.pass_context
def cli(context: click.Context) -> None:
    """Encode video to VP8 with many small workers, without a key frame at every cut.

    \b
    excamera encode in.mp4 -o out.webm        on this machine's cores
    excamera compare in.mp4 out.webm          PSNR and SSIM of the result
    excamera doctor --warm-up                 check the installation, compile the kernels
    """
    if context.invoked_subcommand != "doctor":  # which has more to say of it
        check_packages()


COMMANDS = (
    encode,
    plan,
    decode,
    info,
    compare,
    bench,
    doctor,
    step,
    demo,
    aws_lambda,
    cluster,
    rendezvous,
)

for command in COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code (the console script hands it to the system)."""
    steady_streams()
    terminate_like_interrupt()
    keep_interrupts()
    keep_freed_memory()
    with escaped_streams():
        code = _run(arguments)
    if code == INTERRUPTED and arguments is None:  # the process is the command's own
        end_undisturbed()
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        cli.main(arguments, prog_name="excamera", standalone_mode=False)
        finish_stdout()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BaseException as error:
        code, message = explain(error)
        if message:
            click.echo(f"excamera: {message}", err=True)
        give_stdout_up()
        return code
    return 0
