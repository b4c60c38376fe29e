"""docs/weights.md says what the log of the benchmark says."""

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
