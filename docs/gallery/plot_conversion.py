"""
A conversion that loses nothing
===============================

:func:`mmrfa.convert_convs` puts operators into a network that may be trained
already. In eval mode it then computes what it did before, and training goes
on from there with an attention that can move.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn

from mmrfa import convert_convs, plan_convs

with get_sample_data('grace_hopper.jpg') as file:
    photo = Image.open(file).convert('L').crop((90, 20, 450, 380))
photo = photo.resize((96, 96))
x = torch.from_numpy(np.array(photo))[None, None] / 255
torch.manual_seed(0)

# %%
# A network to start from
# -----------------------
#
# A small one that learns, in a moment, to draw edges: the length of the
# gradient of the photograph.

across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
sobel = torch.stack([across, across.T]).view(2, 1, 3, 3) / 4
edges = nn.functional.conv2d(x, sobel, padding=1).norm(dim=1, keepdim=True)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.SiLU(),
    nn.Conv2d(8, 8, 3, padding=1),
    nn.SiLU(),
    nn.Conv2d(8, 1, 3, padding=1),
)


def train(network: nn.Module, steps: int) -> list[float]:
    """Train in eval mode, so that norms keep their moments."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(network(x), edges)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


before = train(net.eval(), 100)

# %%
# What would be replaced
# ----------------------

print(plan_convs(net, 'RFAConv', sample=x))

# %%
# The same function
# -----------------

rfa = convert_convs(net, 'RFAConv', sample=x)
difference = (rfa(x) - net(x)).abs().max() / net(x).abs().max()
print(f'largest difference, relative: {difference.item():.1e}')
assert difference < 1e-4

# %%
# And on from there
# -----------------
#
# The curve goes on where the plain network stopped: nothing has to be learned
# again. (One photograph shows that, and not which network is better.)

after = train(rfa, 100)
assert after[0] < 1.1 * before[-1]  # no step back
figure, axis = plt.subplots(figsize=(6, 3), layout='constrained')
axis.semilogy(before, label='plain')
axis.semilogy(range(100, 200), after, label='converted to RFAConv')
axis.set(xlabel='step', ylabel='mean squared error')
axis.legend()

figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.7), layout='constrained')
pictures = dict(photograph=x, wanted=edges, computed=rfa(x).detach())
for axis, (name, picture) in zip(axes, pictures.items()):
    axis.imshow(picture[0, 0], cmap='gray')
    axis.set_title(name, fontsize=9)
    axis.axis('off')
