"""The operators a second time: numpy, float64, one loop per output pixel.

Shares no code with the package, so that a slip in a layout, a padding or a
mode shows.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def patches(x, kernel, stride, padding, dilation):
    """(N, C, H, W) -> (N, C, K, Ho, Wo), zero outside the image."""
    n, c, height, width = x.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    ho = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    wo = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    u = np.zeros((n, c, kh * kw, ho, wo))
    for a in range(ho):
        for b in range(wo):
            for i in range(kh):
                for j in range(kw):
                    row, col = a * sh - ph + i * dh, b * sw - pw + j * dw
                    if 0 <= row < height and 0 <= col < width:
                        u[:, :, i * kw + j, a, b] = x[:, :, row, col]
    return u


def batch_norm(y, p, name, training, eps=1e-5):
    """Over axis 1, any number of axes behind it."""
    shape = (1, -1) + (1,) * (y.ndim - 2)
    if training:
        axes = (0, *range(2, y.ndim))
        mean, var = y.mean(axes), y.var(axes)
    else:
        mean, var = p[f'{name}.running_mean'], p[f'{name}.running_var']
    y = (y - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps)
    return y * p[f'{name}.weight'].reshape(shape) + p[f'{name}.bias'].reshape(
        shape
    )


def weighted_sum(y, p, groups):
    """The last convolution, on (N, C, K, Ho, Wo)."""
    weight = p['weight']
    out, per_group = weight.shape[0], weight.shape[1]
    weight = weight.reshape(out, per_group, -1)
    result = np.zeros((y.shape[0], out, *y.shape[3:]))
    for o in range(out):
        first = o // (out // groups) * per_group
        part = y[:, first : first + per_group]
        result[:, o] = np.einsum('nctab,ct->nab', part, weight[o])
    bias = p.get('bias')
    return result if bias is None else result + bias[:, None, None]


def features(x, p, m):
    u = patches(x, m.kernel_size, m.stride, m.padding, m.dilation)
    n, c, k, ho, wo = u.shape
    w = p['feature.weight'].reshape(c, k, k)
    f = np.einsum('ctq,ncqab->nctab', w, u).reshape(n, c * k, ho, wo)
    f = np.maximum(batch_norm(f, p, 'norm', m.training), 0)
    return u, f.reshape(u.shape)


def tiles(y, kernel):
    """(N, C, K, Ho, Wo) -> (N, C, Ho*kh, Wo*kw), one assignment per tap."""
    n, c, _, ho, wo = y.shape
    kh, kw = kernel
    z = np.zeros((n, c, ho * kh, wo * kw))
    for i in range(kh):
        for j in range(kw):
            z[:, :, i::kh, j::kw] = y[:, :, i * kw + j]
    return z


def untile(z, kernel):
    kh, kw = kernel
    return np.stack(
        [z[:, :, i::kh, j::kw] for i in range(kh) for j in range(kw)], 2
    )


def rfa(x, p, m):
    u, f = features(x, p, m)
    n, c, k = f.shape[:3]
    score = p['attn.weight'].reshape(1, c, k, 1, 1) * u.mean(2)[:, :, None]
    e = np.exp(score)
    return weighted_sum(e / e.sum(2, keepdims=True) * f, p, m.groups)


def rfa_unfold(x, p, m):
    u = patches(x, m.kernel_size, m.stride, m.padding, m.dilation)
    n, c, k, ho, wo = u.shape
    score = np.einsum(
        'ctq,ncqab->nctab', p['attn.weight'].reshape(c, k, k), u
    ) + p['attn.bias'].reshape(1, c, k, 1, 1)
    score = batch_norm(
        score.reshape(n, c * k, ho, wo), p, 'norm', m.training
    ).reshape(u.shape)
    e = np.exp(score)
    return weighted_sum(e / e.sum(2, keepdims=True) * u, p, m.groups)


def mlp(pooled, squeeze, expand):
    """(N, C) -> (N, C)."""
    hidden = np.maximum(pooled @ squeeze[:, :, 0, 0].T, 0)
    return hidden @ expand[:, :, 0, 0].T


def conv_same(x, weight):
    """(N, 2, H, W) with (1, 2, k, k) -> (N, H, W)."""
    k = weight.shape[-1]
    u = patches(x, (k, k), (1, 1), (k // 2, k // 2), (1, 1))
    return np.einsum('nctab,ct->nab', u, weight.reshape(2, -1))


def spatial(x, weight):
    return sigmoid(conv_same(np.stack([x.max(1), x.mean(1)], 1), weight))


def coordinate(x, p, training):
    height = x.shape[2]
    joined = np.concatenate([x.mean(3), x.mean(2)], 2)  # (N, C, H + W)
    joined = np.einsum(
        'hc,ncl->nhl', p['gate.squeeze.weight'][..., 0, 0], joined
    )
    joined = joined + p['gate.squeeze.bias'][:, None]
    joined = batch_norm(joined, p, 'gate.norm', training)
    joined = joined * np.clip(joined + 3, 0, 6) / 6
    gates = []
    for name, part in (
        ('h', joined[:, :, :height]),
        ('w', joined[:, :, height:]),
    ):
        weight = p[f'gate.expand_{name}.weight'][..., 0, 0]
        gate = np.einsum('ch,nhl->ncl', weight, part)
        gates.append(sigmoid(gate + p[f'gate.expand_{name}.bias'][:, None]))
    return gates[0][:, :, :, None], gates[1][:, :, None, :]


def rfcbam(x, p, m):
    _, f = features(x, p, m)
    z = tiles(f, m.kernel_size)
    s = sigmoid(mlp(x.mean((2, 3)), p['squeeze.weight'], p['expand.weight']))
    gated = z * s[:, :, None, None] * spatial(z, p['spatial.weight'])[:, None]
    return weighted_sum(untile(gated, m.kernel_size), p, m.groups)


def rfca(x, p, m):
    _, f = features(x, p, m)
    z = tiles(f, m.kernel_size)
    rows, columns = coordinate(z, p, m.training)
    return weighted_sum(untile(z * rows * columns, m.kernel_size), p, m.groups)


def plain(x, p, m):
    u = patches(x, m.kernel_size, m.stride, m.padding, m.dilation)
    return weighted_sum(u, p, m.groups)


def channel(x, p, prefix):
    squeeze, expand = p[f'{prefix}squeeze.weight'], p[f'{prefix}expand.weight']
    s = mlp(x.mean((2, 3)), squeeze, expand)
    return sigmoid(s + mlp(x.max((2, 3)), squeeze, expand))[:, :, None, None]


def cam(x, p, m):
    return plain(x * channel(x, p, 'gate.'), p, m)


def cbam(x, p, m):
    x = x * channel(x, p, 'gate.0.')
    return plain(x * spatial(x, p['gate.1.conv.weight'])[:, None], p, m)


def ca(x, p, m):
    rows, columns = coordinate(x, p, m.training)
    return plain(x * rows * columns, p, m)


def adaptive_pool(x, size):
    height, width = x.shape[2:]
    out = np.zeros((*x.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = i * height // size[0], j * width // size[1]
            bottom = -(-(i + 1) * height // size[0])
            right = -(-(j + 1) * width // size[1])
            out[:, :, i, j] = x[:, :, top:bottom, left:right].mean((2, 3))
    return out


def aw(x, p, m):
    a = adaptive_pool(x, m.kernel_size)
    for name in ('squeeze', 'expand'):
        a = np.einsum('oc,ncij->noij', p[f'{name}.weight'][..., 0, 0], a)
        a = np.maximum(batch_norm(a, p, f'{name}_norm', m.training), 0)
    out, inside = p['weight'].shape[:2]
    maps = len(p['fan_out.bias']) // out
    result = []
    for n in range(len(x)):
        weight = np.empty_like(p['weight'])
        for o in range(out):
            for i in range(inside):
                q = o * maps + i * maps // inside
                gate = a[n, o] * p['fan_out.weight'].ravel()[q]
                gate = sigmoid(gate + p['fan_out.bias'][q])
                weight[o, i] = p['weight'][o, i] * gate
        result.append(plain(x[n : n + 1], {**p, 'weight': weight}, m))
    return np.concatenate(result)


ORACLES = {
    'RFAConv': rfa,
    'RFAConv-unfold': rfa_unfold,
    'RFCBAMConv': rfcbam,
    'RFCAConv': rfca,
    'CAMConv': cam,
    'CBAMConv': cbam,
    'CAConv': ca,
    'AWConv': aw,
}
