"""Rows of runs that never were."""

from mmrfa.results.records import Record

DEFAULTS = dict(
    study='camvid',
    form='plain',
    seed=0,
    metric='miou',
    val=30.0,
    test=None,
    steps=2000,
    step_seconds=0.5,
    seconds=1000.0,
    peak_mb=900.0,
    params=1000,
    gflops=1.5,
    date='2026-01-01',
    cpu='a CPU, of two cores',
    threads=1,
    versions='torch 2, mmcv 2',
    commit='abc',
    config='deeplabv3plus_r18-d16_1xb8-2k_camvidhalf-128x128',
    options='{"a.b": 1}',
    recipe='0' * 12,
    checkpoint='f' * 64,
)


def row(**values) -> Record:
    """A row with these values."""
    return Record(**(DEFAULTS | values))
