"""
What each operator looks at
===========================

:func:`mmrfa.inspect` runs a network once and gives the weights that its
operators used. Here every operator sees a photograph with the parameters that
it begins with: this is how an operator *can* weigh, not what training would
make of it.
"""

from functools import reduce

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

import mmrfa
from mmrfa.inspection import evenness
from mmrfa.layers import OPERATORS, RFAConv

with get_sample_data('grace_hopper.jpg') as file:
    photo = Image.open(file).convert('RGB').crop((90, 20, 450, 380))
photo = photo.resize((120, 120))
x = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
x = (x / 255 - 0.5) / 0.25
torch.manual_seed(0)

# %%
# One operator, nine taps
# -----------------------
#
# RFAConv weighs each tap of each window: nine maps, which sum to one in every
# window. A tap counts for more where its own weight times the mean of the
# window is large. ``attn`` is drawn wider here than a network begins with, so
# that there is something to see.

layer = RFAConv(3, 8, 3, padding=1)
torch.nn.init.normal_(layer.attn.weight, std=0.7)
taps = mmrfa.inspect(layer, x)['']['taps']
assert torch.allclose(taps.sum(2), torch.ones(1, 3, 120, 120), atol=1e-5)

red = taps[0, 0].detach()  # nine maps of the red channel
figure, axes = plt.subplots(3, 3, figsize=(6, 6), layout='constrained')
for number, (axis, weights) in enumerate(zip(axes.flat, red)):
    shown = axis.imshow(weights, cmap='magma', vmin=0, vmax=red.max())
    axis.set_title(f'row {number // 3}, column {number % 3}', fontsize=8)
    axis.axis('off')
figure.colorbar(shown, ax=axes, shrink=0.6, label='weight of the tap')

# %%
# Where are windows weighed unevenly?
# -----------------------------------
#
# The entropy of the nine weights, as a share of its greatest value: 1 is a
# plain mean of the window, and dark is where the operator chooses.

figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout='constrained')
axes[0].imshow(photo)
axes[0].set_title('photograph', fontsize=9)
shown = axes[1].imshow(evenness(taps)[0].mean(0), cmap='magma', vmax=1)
axes[1].set_title('how evenly a window is weighed', fontsize=9)
figure.colorbar(shown, ax=axes[1], shrink=0.8)
for axis in axes:
    axis.axis('off')

# %%
# All operators
# -------------
#
# What there is differs: weights of taps, of pixels, of rows and columns, of
# channels, or of the kernel.

every = {}
for operator in OPERATORS:
    every[operator.__name__] = mmrfa.inspect(operator(3, 8, 3, padding=1), x)
    found = every[operator.__name__]['']
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    print(f'{operator.__name__:11} {shapes}')

# %%
# Their products, averaged over the channels. Of the operators that weigh taps
# it is shown how much the taps of a window differ; of CAMConv and AWConv,
# which do not tell places of the image apart, the weights of the three
# channels, and of the kernels of the eight output channels.

figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout='constrained')
axes.flat[0].imshow(photo)
axes.flat[0].set_title('photograph', fontsize=9)
for axis, (name, layers) in zip(axes.flat[1:], every.items()):
    product = reduce(torch.mul, layers[''].values())
    if name == 'AWConv':  # N, O, C, kh, kw
        what, shown = 'kernels', product[0].mean(1).flatten(1)
    elif product.dim() == 5:  # N, C, K, Ho, Wo
        what, shown = 'spread of the taps', product[0].mean(0).std(0)
    else:  # N, C, H, W
        what = 'channels' if name == 'CAMConv' else 'pixels'
        shown = product[0].mean(0) if what == 'pixels' else product[0, :, :, 0]
    axis.imshow(shown, cmap='magma', aspect='auto')
    axis.set_title(f'{name}: {what}', fontsize=9)
for axis in axes.flat:
    axis.axis('off')
