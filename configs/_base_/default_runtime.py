# What every task shares. `custom_imports` lets any OpenMMLab tool run these
# files: it registers the operators, the backbones and the data checks.
custom_imports = dict(
    imports=['mmrfa.models', 'mmrfa.datasets'], allow_failed_imports=False
)
log_level = 'INFO'
load_from = None
resume = False
