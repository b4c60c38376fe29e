"""Convert an ImageNet checkpoint of the RFAConv authors for RFAResNet.

Finds operator (RFAConv, RFCBAMConv, RFCAConv, CAMConv, CBAMConv, CAConv) and
depth by itself and reports every name. Use the result with
init_cfg=dict(type='Pretrained', checkpoint='DST').
"""

import argparse
import sys

from mmrfa.checkpoints.reading import load_checkpoint_file, state_dict_of
from mmrfa.checkpoints.writing import check_target, save
from mmrfa.engine.cli import add_trust, parse_args, run_tool
from mmrfa.engine.config import require_packages


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('src', help='checkpoint of the authors')
    parser.add_argument('dst', help='checkpoint to write')
    add_trust(parser)
    args = parse_args(parser, argv)
    require_packages()
    from mmrfa.models.authors import convert_authors

    check_target(args.src, args.dst)
    state = state_dict_of(load_checkpoint_file(args.src), args.src)
    converted, network, report = convert_authors(state, args.src)
    save(dict(meta=dict(backbone=network), state_dict=converted), args.dst)
    print(report)
    operator = network['attention_conv']['type']
    print(f'ResNet-{network["depth"]} with {operator}: wrote {args.dst}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
