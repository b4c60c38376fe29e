"""``python -m mmrfa.ops``: which backends can run here, and why not others.

Found out by running every operator once on a small tensor: on the CPU, or for
``triton`` on the GPU if there is one.
"""

import torch

import mmrfa.ops
from mmrfa.layers import AWConv, RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import BACKENDS, forced_backend, use_backend

EXAMPLES = {
    'rfa_conv2d': RFAConv(2, 2, 3),
    'rfa_unfold_conv2d': RFAConv(2, 2, 3, mode='unfold'),
    'rfcbam_conv2d': RFCBAMConv(2, 2, 3),
    'rfca_conv2d': RFCAConv(2, 2, 3),
    'aw_conv2d': AWConv(2, 2, 3),
}


@torch.no_grad()
def main() -> None:
    """Print one line for every operator and backend."""
    forced = forced_backend()
    print(f'torch {torch.__version__}, backend: {forced or "chosen per call"}')
    x = torch.randn(1, 2, 5, 5)
    for name, layer in EXAMPLES.items():
        backends = getattr(mmrfa.ops, name).backends
        for backend in BACKENDS:
            if backend not in backends:
                continue
            gpu = backend == 'triton' and torch.cuda.is_available()
            device = 'cuda' if gpu else 'cpu'
            try:
                with use_backend(backend):
                    layer.to(device)(x.to(device))
                verdict = 'runs'
            except RuntimeError as error:
                verdict = str(error).partition(': ')[2]
            print(f'{name:18} {backend:10} {verdict}')


if __name__ == '__main__':
    main()
