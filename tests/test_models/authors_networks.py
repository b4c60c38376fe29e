"""The six networks of the RFAConv authors, for their parameter names.

Written from a description of behaviour and names, slow and plain on purpose:
patches by hand, the spread layout by ``pixel_shuffle``.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(channels, stride):
    return nn.Sequential(
        nn.Conv2d(
            channels, channels * 9, 3, stride, 1, groups=channels, bias=False
        ),
        nn.BatchNorm2d(channels * 9),
        nn.ReLU(),
    )


def shuffled(y):
    """(N, C * 9, H, W) to (N, C, 3 H, 3 W)."""
    return F.pixel_shuffle(y, 3)


class RFA(nn.Module):
    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.get_weight = nn.Sequential(
            nn.AvgPool2d(3, stride, 1),
            nn.Conv2d(channels, channels * 9, 1, groups=channels, bias=False),
        )
        self.generate_feature = conv_bn(channels, stride)
        self.conv = nn.Sequential(nn.Conv2d(channels, out_channels, 3, 3))

    def forward(self, x):
        score = self.get_weight(x)
        n, _, h, w = score.shape
        alpha = score.view(n, -1, 9, h, w).softmax(2).view_as(score)
        return self.conv(shuffled(alpha * self.generate_feature(x)))


class SE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, 16, bias=False),
            nn.ReLU(),
            nn.Linear(16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.fc(x.mean((2, 3)))[:, :, None, None]


class RFCBAM(nn.Module):
    def __init__(self, channels, out_channels, stride, se='se'):
        super().__init__()
        self.generate = conv_bn(channels, stride)
        self.get_weight = nn.Sequential(
            nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.Sigmoid()
        )
        self.se_name = se
        setattr(self, se, SE(channels))
        self.conv = nn.Sequential(nn.Conv2d(channels, out_channels, 3, 3))

    def forward(self, x):
        z = shuffled(self.generate(x))
        pooled = torch.cat([z.max(1, True)[0], z.mean(1, True)], 1)
        spatial = self.get_weight(pooled)
        return self.conv(z * getattr(self, self.se_name)(x) * spatial)


class LogRFCBAM(RFCBAM):
    """With the name that the released logs have."""

    def __init__(self, *args):
        super().__init__(*args, se='cam')


class CA(nn.Module):
    """Coordinate attention, then a convolution."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        hidden = max(8, channels // 32)
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, channels, 1)
        self.conv_w = nn.Conv2d(hidden, channels, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, 1)
        )

    def forward(self, x):
        h = x.size(2)
        rows = x.mean(3, True)
        columns = x.mean(2, True).permute(0, 1, 3, 2)
        y = self.bn1(self.conv1(torch.cat([rows, columns], 2)))
        y = y * F.relu6(y + 3) / 6
        a_h = self.conv_h(y[:, :, :h]).sigmoid()
        a_w = self.conv_w(y[:, :, h:].permute(0, 1, 3, 2)).sigmoid()
        return self.conv(x * a_h * a_w)


class RFCA(CA):
    def __init__(self, channels, out_channels, stride):
        super().__init__(channels, out_channels, stride)
        self.generate = conv_bn(channels, stride)
        self.conv = nn.Sequential(nn.Conv2d(channels, out_channels, 3, 3))

    def forward(self, x):
        return super().forward(shuffled(self.generate(x)))


class CAM(nn.Module):
    def __init__(self, channels, out_channels, stride):
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.conv = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, 1)
        )

    def gated(self, x):
        top = self.mlp(F.adaptive_max_pool2d(x, 1))
        return x * (top + self.mlp(F.adaptive_avg_pool2d(x, 1))).sigmoid()

    def forward(self, x):
        return self.conv(self.gated(x))


class CBAM(CAM):
    def __init__(self, *args):
        super().__init__(*args)
        self.spatital = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        x = self.gated(x)
        pooled = torch.cat([x.max(1, True)[0], x.mean(1, True)], 1)
        return self.conv(x * self.spatital(pooled).sigmoid())


class Block(nn.Module):
    def __init__(self, operator, channels, out_channels, stride):
        super().__init__()
        self.conv1 = operator(channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride > 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class Network(nn.Module):
    """A ResNet-18 or -34 that also gives the features of its stages."""

    def __init__(self, operator, depth):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
        channels = 64
        for i, count in enumerate(blocks):
            out = 64 * 2**i
            stage = [Block(operator, channels, out, 1 if i == 0 else 2)]
            stage += [Block(operator, out, out, 1) for _ in range(count - 1)]
            setattr(self, f'layer{i + 1}', nn.Sequential(*stage))
            channels = out
        self.fc = nn.Linear(512, 1000)

    def features(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        outs = []
        for i in range(1, 5):
            x = getattr(self, f'layer{i}')(x)
            outs.append(x)
        return outs

    def forward(self, x):
        return self.fc(self.features(x)[-1].mean((2, 3)))


OPERATORS = dict(
    RFAConv=RFA,
    RFCBAMConv=RFCBAM,
    RFCAConv=RFCA,
    CAMConv=CAM,
    CBAMConv=CBAM,
    CAConv=CA,
)


def random_network(operator, depth, seed=0):
    """A network with random weights and statistics, none of them neutral.

    Scores of the attention are made large enough for uneven attention.
    """
    torch.manual_seed(seed)
    net = Network(operator, depth).eval()
    for key, value in net.state_dict().items():
        if key.endswith('running_mean'):
            value.normal_(0, 0.3)
        elif key.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif key.endswith('num_batches_tracked'):
            value.fill_(7)
        elif value.dim() == 1:
            value.normal_(0.3, 0.3)
        elif value.dim() == 4 and value.size(1) == 1 or '_weight' in key:
            value.normal_(0, 0.7)
        elif '.mlp.' in key or '.fc.' in key or 'conv_' in key:
            value.normal_(0, 2 * value.size(1) ** -0.5)
    return net
