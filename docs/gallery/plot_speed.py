"""
How fast the forms are
======================

Every operator has several forms with the same numbers. Here they are timed on
the machine that made these pages, which others may have used at the same
time: measure on yours. Figures with their logs are in
:doc:`/docs/backends`.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.benchmark import Timer

from mmrfa.layers import RFAConv
from mmrfa.ops import rfa_conv2d, use_backend
from mmrfa.ops.primitives.cpu import unavailable

torch.manual_seed(0)
x = torch.randn(2, 64, 56, 56)
plain = nn.Conv2d(64, 64, 3, padding=1).eval()
layer = RFAConv(64, 64, 3, padding=1).eval()
forms = [form for form in rfa_conv2d.backends if form != 'compiled']
if unavailable() is None:
    forms.insert(0, 'compiled')
print(forms)

# %%
# The same numbers
# ----------------

with torch.no_grad(), use_backend('reference'):
    expected = layer(x)
for form in forms:
    with torch.no_grad(), use_backend(form):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)

# %%
# Seconds
# -------
#
# The median of some calls in inference, as a multiple of ``nn.Conv2d``.


def milliseconds(module: nn.Module) -> float:
    """Of one call."""
    with torch.no_grad():
        timer = Timer('f(x)', globals=dict(f=module, x=x))
        return timer.blocked_autorange(min_run_time=0.3).median * 1e3


times = {'nn.Conv2d': milliseconds(plain)}
for form in forms:
    with use_backend(form):
        times[form] = milliseconds(layer)
for name, value in times.items():
    print(f'{name:10} {value:7.2f} ms')

figure, axis = plt.subplots(figsize=(6, 2.4), layout='constrained')
ratios = [value / times['nn.Conv2d'] for value in times.values()]
bars = axis.barh(list(times), ratios, color=['#888', *['#4363d8'] * 9])
axis.bar_label(bars, fmt=' %.1f')
axis.margins(x=0.1)
axis.invert_yaxis()
axis.set_xlabel('time / nn.Conv2d; 64 channels, 56x56, one thread')
