"""Files as MMEngine leaves them, of runs that never were."""

import json
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmrfa.results.zoo import config_files

REPO = Path(__file__).parents[2]
CONFIGS = config_files(REPO)


@cache
def read(name: str) -> Config:
    return Config.fromfile(CONFIGS[name], import_custom_modules=False)


def craft(
    folder: Path,
    name: str,
    metrics: dict,
    seed: int | None = 0,
    step: int | None = None,
    time: str = '20260101_000000',
    **options,
) -> Path:
    """Files as a training run leaves them; the folder with ``vis_data``."""
    config = read(name).copy()
    config.merge_from_dict({**options, 'randomness': dict(seed=seed)})
    place = folder / time
    (place / 'vis_data').mkdir(parents=True)
    text = ''.join(f'{k} = {v!r}\n' for k, v in config.to_dict().items())
    (folder / f'{name}.py').write_text(text)
    (place / 'vis_data/config.py').write_text(text)
    plan = config.train_cfg
    last = plan.get('max_epochs') or plan.get('max_iters')
    step = last if step is None else step
    lines = [
        dict(lr=0.1, loss=0.5, time=0.1, step=1),
        dict.fromkeys(metrics, 0.01) | dict(time=0.1, step=step - 1),
        dict(lr=0.1, loss=0.4, time=0.1, step=step),
        metrics | dict(data_time=0.1, time=0.1, step=step),
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (place / 'vis_data/scalars.json').write_text(text)
    return place
