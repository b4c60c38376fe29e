"""``python -m mmrfa``: which forms of the operators run here, and why not.

Found out by running every operator once on a small tensor, on the CPU and on
the GPU if there is one.
"""

import torch

import mmrfa.ops
from mmrfa.layers import AWConv, RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import forced_backend, use_backend

EXAMPLES = {
    'rfa_conv2d': RFAConv(2, 2, 3),
    'rfa_unfold_conv2d': RFAConv(2, 2, 3, mode='unfold'),
    'rfcbam_conv2d': RFCBAMConv(2, 2, 3),
    'rfca_conv2d': RFCAConv(2, 2, 3),
    'aw_conv2d': AWConv(2, 2, 3),
}


@torch.no_grad()
def main() -> None:
    """Print one line for every operator, form and device."""
    forced = forced_backend()
    print(f'torch {torch.__version__}, backend: {forced or "chosen per call"}')
    devices = ['cpu', *['cuda'] * torch.cuda.is_available()]
    for name, layer in EXAMPLES.items():
        for backend in getattr(mmrfa.ops, name).backends:
            for device in devices:
                try:
                    with use_backend(backend):
                        layer.to(device)(torch.randn(1, 2, 5, 5).to(device))
                    verdict = 'runs'
                except RuntimeError as error:
                    verdict = str(error).partition(': ')[2]
                print(f'{name:18} {backend:10} {device:5} {verdict}')


if __name__ == '__main__':
    main()
