# What configs need to build on those of mmyolo.
custom_imports = dict(
    imports=['mmrfa.models', 'mmrfa.models.mmyolo'],
    allow_failed_imports=False,
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
