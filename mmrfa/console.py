"""``mmrfa COMMAND ...``: the tools of the package, wherever it is installed.

Each is a script of ``tools/``, with the same options; ``-h`` behind it lists
them.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from mmrfa.engine.cli import run_tool

# By command: the script, and what it does.
COMMANDS = {
    'train': ('train.py', 'train what a config describes'),
    'test': ('test.py', 'test a checkpoint'),
    'study': ('train_study.py', 'train forms times seeds, and compare'),
    'predict': ('predict.py', 'look at images, a video or a camera'),
    'export': ('export.py', 'ONNX, torch.export, AOTInductor, OpenVINO'),
    'attention': (
        'analysis_tools/show_attention.py',
        'draw what the operators weigh',
    ),
    'cam': (
        'analysis_tools/show_cam.py',
        'draw which places speak for a class',
    ),
    'curves': ('analysis_tools/plot_curves.py', 'draw the curves of a run'),
    'pictures': (
        'analysis_tools/show_predictions.py',
        'draw what a test predicted beside the truth',
    ),
    'flops': ('analysis_tools/get_flops.py', 'count parameters, operations'),
    'config': ('misc/print_config.py', 'print a whole config'),
    'check-data': ('misc/check_data.py', 'look at all data of a config'),
    'sample': (
        'dataset_converters/make_sample.py',
        'generate a small data set',
    ),
    'convert-resnet': (
        'model_converters/resnet_to_rfa.py',
        'start an operator from an ordinary ResNet',
    ),
    'convert-authors': (
        'model_converters/rfaconv_to_mmrfa.py',
        'read a checkpoint of the RFAConv authors',
    ),
    'paper-tables': (
        'analysis_tools/paper_tables.py',
        "print the papers' tables beside finished runs",
    ),
}


def main() -> int:
    """Run the command that ``sys.argv`` names; the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else '-h'
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name == 'forms':
        from mmrfa.__main__ import main as tell

        return run_tool(tell)
    if name not in COMMANDS:
        print(
            f'error: mmrfa: expected one of {", ".join(COMMANDS)}, forms, got '
            f'{name}',
            file=sys.stderr,
        )
        return 2
    script = folder() / COMMANDS[name][0]
    # Seen by the tool as its name and options.
    sys.argv = [f'mmrfa {name}', *sys.argv[2:]]
    spec = spec_from_file_location(f'mmrfa_{name}', script)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    return run_tool(tool.main)


def usage() -> str:
    """What there is, a line each."""
    lines = [f'  {name:16} {text}' for name, (_, text) in COMMANDS.items()]
    lines.append(f'  {"forms":16} say which forms of the operators run here')
    head = 'usage: mmrfa COMMAND ...   (mmrfa COMMAND -h: its options)\n'
    return '\n'.join([head, *lines])


def folder() -> Path:
    """Where the tools lie: in the installed package, or in the clone."""
    package = Path(__file__).parent
    shipped = package / '.mim' / 'tools'
    return shipped if shipped.is_dir() else package.parent / 'tools'
