"""Requirements: pinned, complete, and those of the package."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
COMPLETE = (
    'base.txt',
    'mmcv.txt',
    'ops.txt',
    'test.txt',
    'pytest.txt',
    'lint.txt',
    'docs.txt',
    'yolo.txt',
    'cam.txt',
)


def requirements(*files: str) -> dict[str, Requirement]:
    """What the requirement files install on this Python."""
    found = {}
    for file in files:
        for line in (REPO / 'requirements' / file).read_text().splitlines():
            line = line.split('#')[0].strip()
            if line and not line.startswith('-r'):
                requirement = Requirement(line)
                if not requirement.marker or requirement.marker.evaluate():
                    found[canonicalize_name(requirement.name)] = requirement
    return found


def test_every_requirement_is_pinned():
    listed = requirements('torch.txt', *COMPLETE)
    assert len(listed) > 40
    for name, requirement in listed.items():
        (clause,) = requirement.specifier
        assert clause.operator == '==', name
    # torchvision is linked to CUDA; opencv-python needs libGL.
    assert not {'torchvision', 'opencv-python'} & set(listed)


def test_the_lists_are_complete():
    """--no-deps is safe only if nothing that is needed is left out."""
    listed = requirements('torch.txt', *COMPLETE)
    known = {
        'opencv-python',  # opencv-python-headless gives the same module
        'networkx',  # torch brings it and what follows
        'sympy',
        'jinja2',
        'pip',  # the environment has it
        'imagecorruptions-imaug',  # for the transform Corrupt alone
        'opendatalab',  # for `mim download` of data sets alone
        'openvino-telemetry',  # reports the use of convert_model
    }
    checked = 0
    for name, pin in listed.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name == 'torch' or not pin.specifier.contains(found.version):
            continue
        needs = found.requires or []
        checked += 1
        for need in map(Requirement, needs):
            if need.marker and not need.marker.evaluate({'extra': ''}):
                continue
            assert canonicalize_name(need.name) in {*listed, *known}, (
                f'{name} needs {need.name}'
            )
    assert checked > 20


def test_the_pins_lie_in_the_ranges_of_the_extras():
    if sys.version_info < (3, 11):
        pytest.skip('tomllib came with Python 3.11')
    import tomllib

    project = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
    pins = requirements('torch.txt', *COMPLETE)
    checked = 0
    extras = 'seg', 'det', 'yolo', 'triton', 'onnx', 'openvino', 'cam'
    for extra in extras:
        for need in project['optional-dependencies'][extra]:
            need = Requirement(need)
            (pin,) = pins[need.name].specifier
            assert need.specifier.contains(pin.version)
            checked += 1
    assert checked >= 14
