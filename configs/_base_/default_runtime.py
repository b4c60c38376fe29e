# What every task shares. `custom_imports` lets any OpenMMLab tool run these
# files: it registers operators, backbones, data sets and data checks.
custom_imports = dict(imports=['mmrfa.models'], allow_failed_imports=False)
log_level = 'INFO'
load_from = None
resume = False
