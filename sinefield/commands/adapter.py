"""sinefield adapter: pack, info and merge."""

import argparse

from sinefield.commands.arguments import add_out, whole
from sinefield.commands.command import Answer, Command, Parser

EITHER = "adapter: .safetensors or .sine"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    pack = actions.add_parser("pack", help="quantise an adapter into one small file", allow_abbrev=False)
    pack.add_argument("adapter", help="adapter: .safetensors")
    add_out(pack, "packed adapter: .sine")
    pack.add_argument("--bits", type=whole, required=True, help="bits an entry before entropy coding, 1 to 8")
    pack.add_argument("--quantiser", default="kmeans", help="kmeans or uniform (kmeans)")
    info = actions.add_parser("info", help="list an adapter's layers, ranks and sizes", allow_abbrev=False)
    info.add_argument("adapter", help=EITHER)
    merge_help = "write a base model's weights with the adapter in them"
    merge = actions.add_parser("merge", help=merge_help, allow_abbrev=False)
    merge.add_argument("adapter", help=EITHER)
    merge.add_argument("base", help="base model: a .safetensors file or a folder of them")
    add_out(merge, "file or folder to make, as the base is")
    for action, function in ((pack, _pack), (info, _info), (merge, _merge)):
        action.set_defaults(action_run=function)
        # Given after the action too; it must not undo what was given before.
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")


def run(options: argparse.Namespace) -> Answer:
    return options.action_run(options)


def _info(options: argparse.Namespace) -> Answer:
    from sinefield.adapters.file import describe_adapter

    return describe_adapter(options.adapter)


def _merge(options: argparse.Namespace) -> Answer:
    from sinefield.adapters.file import merge_files

    report = merge_files(options.adapter, options.base, options.out, options.overwrite)
    return report, f"{options.out}: {report['layers']} layers merged, {report['files']} files"


def _pack(options: argparse.Namespace) -> Answer:
    from sinefield.adapters.file import pack_adapter

    report = pack_adapter(options.adapter, options.out, options.bits, options.quantiser, options.overwrite)
    error = "" if report["delta_error"] is None else f"; ΔW is off by {100 * report['delta_error']:.3g} %"
    smaller = report["float_bytes"] / report["bytes"]
    return report, f"{options.out}: {report['bytes']:,} bytes, {smaller:.1f} times smaller than float32{error}"


COMMAND = Command(
    help="pack, describe or merge an adapter saved by sinefield.adapters",
    example="sinefield adapter pack adapter.safetensors adapter.sine --bits 4",
    arguments=arguments,
    run=run,
)
