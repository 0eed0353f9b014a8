"""REGIA_EXTRA_ARGS: more arguments for vLLM, but none that would open another door or run other code."""

from __future__ import annotations

import shlex

from regia_machine.exits import Exit, Unfit

_OWN = (
    "--model", "--model-tag", "--revision", "--tokenizer", "--tokenizer-revision", "--code-revision",
    "--served-model-name", "--max-model-len", "--gpu-memory-utilization", "--max-num-seqs", "--quantization",
    "--reasoning-parser", "--download-dir", "--hf-token", "--hf-config-path", "--uvicorn-log-level",
)  # fmt: skip
"""What the machine decides itself, mostly from a variable of its own."""
_DOORS = (
    "--host", "--port", "--uds", "--grpc", "--headless", "--api-key", "--root-path", "--config",
    "--data-parallel-address", "--data-parallel-rpc-port", "--data-parallel-external-lb",
    "--data-parallel-hybrid-lb", "--data-parallel-rank", "--nnodes", "--node-rank", "--master-addr",
    "--master-port", "--kv-events-config", "--kv-transfer-config", "--tool-server", "--otlp-traces-endpoint",
    "--collect-detailed-traces",
)  # fmt: skip
"""What listens or sends somewhere else."""
_CODE = (
    "--trust-remote-code", "--middleware", "--tool-parser-plugin", "--reasoning-parser-plugin",
    "--io-processor-plugin", "--logits-processors", "--worker-cls", "--worker-extension-cls", "--scheduler-cls",
)  # fmt: skip
"""What loads code that is not vLLM's."""
_WORDS = (
    "--enable-log-requests", "--enable-log-outputs", "--enable-log-deltas", "--log-config-file",
    "--enable-prompt-tokens-details-log", "--profiler-config",
)  # fmt: skip
"""What would write people's words to a log."""
_REFUSED = (*_OWN, *_DOORS, *_CODE, *_WORDS)
_REFUSED_FAMILIES = ("--ssl-", "--allow", "--cors-", "--data-parallel-rpc-")
_REFUSED_SHORT = ("-dpa", "-dpp", "-dpe", "-dph", "-dpn")
_REFUSED_LETTERS = ("-q", "-n", "-r")
"""A value may follow these without a space."""


def read(text: str) -> tuple[str, ...]:
    """Split as a shell does. Raises Unfit for what is refused; it names the option, never its value."""
    try:
        arguments = tuple(shlex.split(text))
    except ValueError as e:
        raise _wrong(f"it cannot be split as a shell does ({e})") from None
    if arguments and not arguments[0].startswith("-"):
        raise _wrong("it has to begin with an option, such as --enable-prefix-caching")
    for argument in arguments:
        if _refused(argument):
            raise _wrong(f"{_name(argument)} is not allowed here; leave it out")
    return arguments


def _refused(argument: str) -> bool:
    if not argument.startswith("--"):
        return argument.startswith(_REFUSED_LETTERS) or argument.partition("=")[0] in _REFUSED_SHORT
    name = _name(argument)
    # argparse takes the beginning of an option for the whole, so --ho would be --host.
    begins_one = any(refused.startswith(name) for refused in _REFUSED)
    return begins_one or name.startswith(_REFUSED_FAMILIES)


def _name(argument: str) -> str:
    """The option as vLLM reads it: `--Ssl_keyfile=x` and `--config.a+` without value, key and underscores."""
    for mark in "=.+":
        argument = argument.partition(mark)[0]
    return argument.lower().replace("_", "-")


def _wrong(what: str) -> Unfit:
    return Unfit(Exit.ENVIRONMENT, f"REGIA_EXTRA_ARGS is wrong: {what}.")
