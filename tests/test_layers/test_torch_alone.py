"""Operators and layers need torch and nothing else."""

import re
import subprocess
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
sys.path[:0] = {paths!r}
import torch
import mmrfa, mmrfa.ops, mmrfa.layers
for operator in mmrfa.layers.OPERATORS:
    torch.manual_seed(0)
    net = torch.nn.Sequential(operator(3, 8, 3, padding=1), torch.nn.ReLU(),
                              torch.nn.Conv2d(8, 1, 1))
    x = torch.randn(8, 3, 8, 8)
    target = x.mean(1, keepdim=True)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(30):
        loss = (net(x) - target).pow(2).mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], (operator, losses)
import mmrfa.checkpoints.authors
plain = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(3, 8, 3))
x = torch.randn(1, 3, 8, 8)
net = mmrfa.convert_convs(plain, 'RFAConv', where='1', sample=x)
assert isinstance(net[1], mmrfa.layers.RFAConv)
loaded = sorted(m for m in sys.modules if m.split('.')[0] in
                ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'))
assert not loaded, loaded
try:
    import mmrfa.models
except ImportError as error:
    print(error)
"""


def needed_by_torch() -> set[str]:
    """Top-level names of torch and of everything it requires."""
    installed = {
        re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d
        for d in distributions()
    }
    todo, names = ['torch'], set()
    if installed['torch'].version.startswith('2.1.'):
        todo.append('packaging')  # imported without being asked for
    seen = set()
    while todo:
        name = todo.pop()
        if name in seen or name not in installed:
            continue
        seen.add(name)
        dist = installed[name]
        names |= {f.parts[0] for f in dist.files or [] if '..' not in f.parts}
        for requirement in dist.requires or []:
            if 'extra ==' not in requirement:
                wanted = re.match(r'[\w.-]+', requirement)[0]
                todo.append(re.sub('[-_.]+', '-', wanted).lower())
    return names


def test_trains_without_any_openmmlab_package(tmp_path):
    """A bare interpreter that sees torch, what torch needs, and mmrfa."""
    site = Path(distribution('torch').locate_file(''))
    bare = tmp_path / 'site'
    bare.mkdir()
    for name in needed_by_torch():
        if (site / name).exists():
            (bare / name).symlink_to(site / name)
    (bare / 'mmrfa').symlink_to(ROOT / 'mmrfa')
    # which versions it wants stands in its metadata
    (metadata,) = site.glob('mmrfa-*.dist-info')
    (bare / metadata.name).symlink_to(metadata)
    result = subprocess.run(
        [sys.executable, '-I', '-S', '-c', CODE.format(paths=[str(bare)])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 'package onedl-mmengine (module mmengine) is not' in result.stdout
    assert re.search('pip install "onedl-mmengine.*>=', result.stdout)
