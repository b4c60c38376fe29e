"""What a training step takes: every form of a study beside plain.

    python benchmarks/study_steps.py camvid --out results/steps/camvid

A step is that of the training, with the batch, losses and optimizer of the
config; all forms in turn. Memory is the peak of the tensors that a step makes,
counted. From there, scripts/update_results.py puts both beside the scores.
Needs the data.
"""

import json
import sys
from collections.abc import Callable

from memory import Allocations
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner, set_random_seed
from timing import ROOT, arguments, in_turn, machine, on_cpu

from mmrfa.engine.cli import parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model
from mmrfa.ops.primitives import cpu
from mmrfa.results.studies import Form, find_study
from mmrfa.results.zoo import config_files


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = arguments(__doc__, rounds=5)
    parser.add_argument('study', metavar='STUDY')
    parser.add_argument('--threads', type=int, default=2)
    args = parse_args(parser, argv)

    # Where every weight came from is not asked for here.
    MMLogger.get_current_instance().setLevel('WARNING')
    configs = config_files(ROOT)
    study = find_study(args.study, configs)
    steps, peaks = {}, {}
    for form in study.forms.values():
        steps[form.name] = step_of(form, str(configs[form.config]))
        with Allocations() as counted:
            steps[form.name](None)
        peaks[form.name] = counted.peak
        print(f'{form.name:20} {counted.peak / 2**20:8.0f} MiB', flush=True)
    seconds = in_turn(steps, args.rounds, on_cpu(args.threads), [None])
    for name, value in seconds.items():
        print(f'{name:20} {value:8.3f} s')
    if args.out:
        figures = machine(
            threads=args.threads,
            rounds=args.rounds,
            kernels=cpu.unavailable() or cpu.instruction_set(),
            seconds=seconds,
            peak_bytes=peaks,
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        file = args.out.with_suffix('.json')
        file.write_text(json.dumps(figures, indent=1) + '\n')


def step_of(form: Form, path: str) -> Callable:
    """A training step of a form, on the first batch of its training."""
    config = load_config(path, form.options)
    import_scope(config)
    set_random_seed(0)
    model = build_model(config)
    model.init_weights()
    model.train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    loader = dict(config.train_dataloader, num_workers=0)
    loader['persistent_workers'] = False
    data = next(iter(Runner.build_dataloader(loader, seed=0)))
    return lambda _: model.train_step(data, optimizer)


if __name__ == '__main__':
    sys.exit(run_tool(main))
