"""From config to Runner: checked, built once, weights read once."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from test_tools.tool_calls import REPO, TINY_SEG, forget_instances

from mmrfa.checkpoints import reading
from mmrfa.checkpoints.mmengine_loaders import ReadAhead
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.resuming import AUTO, find_whole_checkpoint
from mmrfa.engine.run import _ranks, build_model, build_runner
from mmrfa.errors import InputError
from mmrfa.models import RFAResNet


@pytest.fixture
def config(monkeypatch, sample_root, tmp_path):
    """``config(key=value, ...)`` of a tiny run of one iteration."""
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(sample_root))

    def load(**options):
        forget_instances()
        end = options.pop('max_iters', 1)
        config = load_config(
            str(TINY_SEG),
            {
                'train_cfg.max_iters': end,
                'train_cfg.val_interval': 99,
                'default_hooks.checkpoint.interval': 1,
                **options,
            },
        )
        config.work_dir = str(tmp_path / 'work')
        return config

    return load


@pytest.fixture
def count(monkeypatch):
    """How often the backbone is built, and each file is read."""
    counter = Counter()
    build, load = RFAResNet.__init__, reading.load_checkpoint

    def counted_build(self, *args, **kwargs):
        counter['built'] += 1
        build(self, *args, **kwargs)

    def counted_load(file, name, *args):
        counter[Path(name).name] += 1
        return load(file, name, *args)

    monkeypatch.setattr(RFAResNet, '__init__', counted_build)
    monkeypatch.setattr(reading, 'load_checkpoint', counted_load)
    return counter


def test_built_once_and_read_once(config, count, tmp_path):
    plain = RFAResNet(18)
    plain.init_weights()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    torch.save(dict(a=torch.zeros(1)), tmp_path / 'head.pth')
    init = {
        'model.backbone.init_cfg': dict(
            type='PretrainedResNet', checkpoint=str(tmp_path / 'plain.pth')
        )
    }
    count.clear()
    head = dict(type='Pretrained', checkpoint=str(tmp_path / 'head.pth'))
    runner = build_runner(
        config(**init, **{'model.decode_head.init_cfg': head}), 'none', True
    )
    runner.train()
    assert count == {'built': 1, 'plain.pth': 1, 'head.pth': 1}
    stem = runner.model.backbone.conv1.weight
    assert (stem - plain.conv1.weight).abs().max() < 0.01

    # A run that goes on needs none of what it started from.
    (tmp_path / 'plain.pth').unlink()
    count.clear()
    again = config(**init, resume=True, max_iters=2)
    runner = build_runner(again, 'none', True)
    assert runner.train() is not None
    assert runner.iter == 2
    assert count == {'built': 1, 'iter_1.pth': 1}

    count.clear()
    path = str(tmp_path / 'work/iter_2.pth')
    tested = build_runner(config(load_from=path), 'none', False)
    tested.test()
    assert count == {'built': 1, 'iter_2.pth': 1}
    for key, value in runner.model.state_dict().items():
        assert torch.equal(tested.model.state_dict()[key], value), key


def test_a_seed_means_what_it_means_to_mmengine(config):
    """Same weights, and the same random numbers behind them."""
    cfg = config(**{'randomness.seed': 5})
    import_scope(cfg)
    with DefaultScope.overwrite_default_scope('mmseg'):
        stock = Runner.from_cfg(cfg)
        stock._init_model_weights()
        expected = torch.rand(3)
    forget_instances()
    ours = build_runner(cfg, 'none', True)
    ours._init_model_weights()
    assert torch.equal(torch.rand(3), expected)
    for key, value in stock.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[key], value), key


def test_without_a_seed_runs_differ(config):
    nets = []
    for _ in range(2):
        cfg = config(**{'randomness.seed': None})
        nets.append(build_runner(cfg, 'none', True).model)
    weights = [net.backbone.layer1[0].conv1.weight for net in nets]
    assert not torch.equal(*weights)


def test_the_seed_that_is_logged_gives_the_run_again(config):
    first = build_runner(config(**{'randomness.seed': None}), 'none', True)
    cfg = config(**{'randomness.seed': first.seed})
    forget_instances()
    again = build_runner(cfg, 'none', True)
    for key, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key


def test_deterministic_as_far_as_torch_can(config):
    """What has no such kernel warns: MMEngine would have it raise."""
    try:
        build_runner(
            config(**{'randomness.deterministic': True}), 'none', True
        )
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_unknown_runner_type(config, tmp_path):
    with pytest.raises(InputError, match="runner_type, got 'Walker'"):
        build_runner(config(runner_type='Walker'), 'none', True)
    assert not (tmp_path / 'work').exists()


def test_nothing_to_resume_from(config, tmp_path):
    """A run that starts again starts as its config says."""
    other = RFAResNet(18, attention_conv=dict(type='RFAConv'))
    state = {f'backbone.{k}': v for k, v in other.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'start.pth')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/iter_9.pth').symlink_to(tmp_path / 'gone.pth')
    options = dict(load_from=str(tmp_path / 'start.pth'), resume=AUTO)
    assert find_whole_checkpoint(config(), ReadAhead()) == (None, [])
    runner = build_runner(config(**options), 'none', True)
    runner.load_or_resume()
    assert torch.equal(runner.model.backbone.conv1.weight, other.conv1.weight)
    assert runner.iter == 0


@pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm', 'mpi'])
def test_ranks(launcher, monkeypatch):
    """The tools themselves set LOCAL_RANK to 0 where it is missing."""
    for number, name in enumerate(
        (
            *('RANK', 'LOCAL_RANK', 'SLURM_PROCID', 'SLURM_LOCALID'),
            *('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        )
    ):
        monkeypatch.setenv(name, str(number))
    assert (
        _ranks(launcher)
        == {
            'none': ['0', '0'],
            'pytorch': ['0', '1'],
            'slurm': ['2', '3'],
            'mpi': ['4', '5'],
        }[launcher]
    )
    for name in 'RANK', 'LOCAL_RANK':
        monkeypatch.delenv(name)
    if launcher == 'pytorch':
        assert _ranks(launcher) == ['0', '0']


def test_building_leaves_the_config(monkeypatch):
    """Else a run's copy of it is not that of the zoo."""
    config = load_config(f'{REPO}/configs/yolov8/yolov8_n_1xb8-40e_bccd.py')
    before = config.to_dict()
    build_model(config)
    assert config.to_dict() == before
