"""ImageNet checkpoints of the RFAConv paper's authors, for RFAResNet."""

from torch import Tensor

from mmrfa.checkpoints.authors import rename_authors
from mmrfa.checkpoints.report import Report
from mmrfa.errors import InputError
from mmrfa.models.backbones import RFAResNet


def convert_authors(
    state: dict[str, Tensor], name: str
) -> tuple[dict[str, Tensor], dict, Report]:
    """Rename the parameters of an authors' network to RFAResNet's.

    Args:
        state (dict[str, Tensor]): their names, without ``module.``.
        name (str): of the checkpoint, for error messages.

    Returns:
        tuple[dict[str, Tensor], dict, Report]: all parameters of an
        ``RFAResNet``, its ``depth`` and ``attention_conv``, and what became
        of every name.

    Raises:
        InputError: not such a network: depth, operator, a name or a shape
            does not fit.
    """
    renamed, network, report = rename_authors(state, name)
    wanted = RFAResNet(**network).state_dict()
    kind = (
        f'a ResNet-{network["depth"]} with {network["attention_conv"]["type"]}'
    )
    for key, new in list(report.converted.items()):
        if key.startswith('fc.'):
            report.dropped[key] = 'classification head, not in the backbone'
        elif new not in wanted:
            report.dropped[key] = (
                f'no such name in a ResNet-{network["depth"]}'
            )
        elif renamed[new].shape != wanted[new].shape:
            raise InputError(
                f'checkpoint {name}: expected {key} of shape '
                f'{tuple(wanted[new].shape)} in {kind}, got '
                f'{tuple(state[key].shape)}'
            )
        if key in report.dropped:
            del report.converted[key]
    converted = {key: renamed[key] for key in wanted if key in renamed}
    missing = [key for key in wanted if key not in converted]
    if missing:
        raise InputError(
            f'checkpoint {name}: expected all parameters of {kind}, '
            f'{len(missing)} are missing (in our names): '
            f'{", ".join(missing[:3])}{" ..." if missing[3:] else ""}'
        )
    return converted, network, report
