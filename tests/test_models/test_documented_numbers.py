"""The documents say what the logs of benchmarks say."""

import json
from pathlib import Path

REPO = Path(__file__).parents[2]
STATES = ('neutral', 'estimated', 'calibrated')


def test_document_has_the_measured_numbers():
    text = (REPO / 'docs/weights.md').read_text()
    log = REPO / 'benchmarks/results/start_from_plain.json'
    result = json.loads(log.read_text())
    plain = result['plain']['mIoU']
    assert f'plain network, {plain:.2f}.' in ' '.join(text.split())
    assert len(result['operators']) == 8
    for name, row in result['operators'].items():
        assert abs(row['mIoU'] - plain) < 1e-3
        gaps = [row[f'train_features_{state}'][-1] for state in STATES]
        if name in ('RFAConv', 'RFCBAMConv', 'RFCAConv'):
            assert ' | '.join(f'{gap:.4f}' for gap in gaps) in text
        else:
            assert max(gaps) < 1e-6


def test_measured_on_a_gpu():
    log = json.loads((REPO / 'benchmarks/results/cuda_h200.json').read_text())
    assert log['machine']['gpu'] == 'NVIDIA H200' and log['left_out']
    text = (REPO / 'mmrfa/ops/rfa/README.md').read_text()
    seen = {'compiled': [], 'fused': []}
    for case in log['layers']:
        cells = [f'{case["channels"]} @ {case["size"]}x{case["size"]}']
        for name in ('inference', 'training'):
            spent = case[name]
            over = {form: spent[form] / spent['plain'] for form in spent}
            cells += [
                f'{spent["compiled"] * 1e6:.0f}, {over["compiled"]:.1f}',
                f'{over["fused"]:.1f}',
                f'{over["reference"]:.1f}',
            ]
            for form in seen if name == 'inference' else ():
                seen[form].append(over[form])
        assert f'| {" | ".join(cells)} |' in text
    assert {way['way'] for way in log['ways']} == {'memory'}
    words = ' '.join((REPO / 'docs/backends.md').read_text().split())
    low, high = min(seen['compiled']), max(seen['compiled'])
    assert f'{low:.1f} to {high:.1f} times `nn.Conv2d` in inference' in words
    low, high = min(seen['fused']), max(seen['fused'])
    assert f'`fused` takes {low:.0f} to {high:.0f} times' in words
