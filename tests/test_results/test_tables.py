"""Tables filled from crafted runs; a real one is in test_tools."""

import pytest

from mmrfa.errors import InputError
from mmrfa.results.published import paper_table, paper_tables
from mmrfa.results.runs import METRICS, collect_runs
from mmrfa.results.tables import compare_scores, put
from mmrfa.results.zoo import TAGS

from .crafted_runs import CONFIGS, craft

R18 = 'resnet18_4xb32-100e_in1k'
R18_RFA = 'resnet18-rfa_4xb32-100e_in1k'
ROW = 'ResNet-18', 'RFAConv'


def cells(text: str) -> dict[tuple, tuple]:
    """What a text of tables says: by model, conv and metric, the rest."""
    found = {}
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip('|').split('|')]
        if len(row) == 8 and row[0] not in ('Model', '---'):
            found[row[0], row[1], row[3]] = tuple(row[4:])
    return found


class Shown(dict):
    """Cells of the tables that the runs below a folder fill."""

    def __init__(self, folder, *names: str) -> None:
        runs, self.notes = collect_runs(folder, CONFIGS)
        self.text = '\n'.join(
            compare_scores(paper_table(name), CONFIGS, runs) for name in names
        )
        super().__init__(cells(self.text))


def test_published_tables_are_whole():
    """Rows differ and no value lies outside what its column can hold."""
    assert len(paper_table('imagenet').rows) == 12
    for table in paper_tables().values():
        assert table.columns[:2] == ['model', 'conv']
        assert table.source['paper'].startswith('https://')
        keys = [tuple(row.values())[:3] for row in table.rows]
        assert len(set(keys)) == len(keys)
        for column in {*table.columns} - {'model', 'conv', 'schedule'}:
            known = {*METRICS, 'params', 'gflops', 'time'}
            assert column.removesuffix('_gain') in known
            assert column in table.decimals
            values = [row[column] for row in table.rows]
            assert all(v is None or 0 < v < 100 for v in values)
        for pattern in table.configs.values():
            assert pattern.format('') in CONFIGS


def test_tags_are_those_of_the_configs():
    assert set(TAGS.values()) == {
        'rfa', 'rfcbam', 'rfca', 'cam', 'cbam', 'ca', 'aw'
    }  # fmt: skip
    for conv, tag in TAGS.items():
        assert f'resnet18-{tag}_4xb32-100e_in1k' in CONFIGS, conv


def test_seeds_mean_and_spread(tmp_path):
    for seed, top1 in enumerate((70.0, 71.0, 72.6)):
        metrics = {'accuracy/top1': top1, 'accuracy/top5': 90.0}
        # found in another order than that of the seeds
        craft(tmp_path / f'a{2 - seed}', R18_RFA, metrics, seed)
    craft(tmp_path / 'b', R18, {'accuracy/top1': 70.0}, seed=7)
    shown = Shown(tmp_path, 'imagenet')
    # mean 71.2, squares of the deviations 1.44 + 0.04 + 1.96 = 3.44, / 2
    expected = ('71.23', '71.20 ± 1.31', '-0.03', '0, 1, 2')
    assert shown[(*ROW, 'Top-1')] == expected
    expected = ('90.29', '90.00 ± 0.00', '-0.29', '0, 1, 2')
    assert shown[(*ROW, 'Top-5')] == expected
    # The paper's gain is 71.23 - 69.59.
    expected = ('1.64', '1.20', '-0.44', '0, 1, 2')
    assert shown[(*ROW, 'Top-1, gain')] == expected
    expected = ('69.59', '70.00', '+0.41', '7')
    assert shown['ResNet-18', 'plain', 'Top-1'] == expected
    assert shown['ResNet-18', 'plain', 'Top-5'][1] == '-'
    assert ('ResNet-18', 'plain', 'Top-1, gain') not in shown
    assert 'instead of' not in shown.text


def test_detection_units_and_missing_values(tmp_path):
    name = 'faster-rcnn_r101{}_fpn_1x_coco'
    for op, ap in (('', 0.391), ('-aw', 0.4)):
        metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_s': -1.0}
        craft(tmp_path / f'run{op}', name.format(op), metrics)
    shown = Shown(tmp_path, 'aw_coco', 'coco_openmmlab')
    model = 'Faster R-CNN ResNet-101-FPN', 'AWConv', 'box AP, gain'
    assert shown[model] == ('0.63', '0.90', '+0.27', '0')
    model = 'Faster R-CNN R101-FPN 1x', 'plain', 'box AP'
    assert shown[model] == ('39.4', '39.10', '-0.30', '0')
    runs, _ = collect_runs(tmp_path, CONFIGS)
    assert [run.score('aps') for run in runs] == [None, None]


@pytest.mark.parametrize(
    'thresholds,expected', [(['50'], None), (['50', '75', '95'], 60.0)]
)
def test_voc_mean_of_one_threshold_is_not_ap(tmp_path, thresholds, expected):
    metrics = {f'pascal_voc/AP{t}': 0.6 for t in thresholds}
    metrics['pascal_voc/mAP'] = 0.6
    craft(tmp_path, 'faster-rcnn_r50_fpn_1x_voc0712', metrics)
    (run,), _ = collect_runs(tmp_path, CONFIGS)
    assert run.score('ap50') == 60.0
    assert run.score('ap') == expected


def test_a_table_that_cannot_be_read_has_the_rows_of_the_zoo(tmp_path):
    name = 'deeplabv3plus_r18-{}-d16_4xb4-20k_voc12aug-512x512'
    craft(tmp_path, name.format('rfca'), {'mIoU': 61.5})
    shown = Shown(tmp_path, 'voc12_segmentation')
    row = 'DeepLabV3+ R18-D16', 'RFCAConv', 'mIoU'
    assert shown[row] == ('-', '61.50', '-', '0')
    for conv, tag in TAGS.items():
        row = 'DeepLabV3+ R18-D16', conv, 'mIoU'
        assert (row in shown) == (name.format(tag) in CONFIGS)


def test_other_settings_stay_apart(tmp_path):
    metrics = {'accuracy/top1': 50.0}
    change = {'optim_wrapper.optimizer.lr': 0.2}
    craft(tmp_path / 'changed', R18_RFA, metrics, time='20260102', **change)
    craft(tmp_path / 'plain', R18, {'accuracy/top1': 70.0})
    shown = Shown(tmp_path, 'imagenet')
    assert shown[(*ROW, 'Top-1')][1] == '50.00'
    assert f'`{R18_RFA}` *' in shown.text
    assert 'optim_wrapper.optimizer.lr 0.2 instead of 0.1' in shown.text
    assert shown[(*ROW, 'Top-1, gain')][1] == '-'  # twin of another recipe
    # As soon as there is a run of the recipe, it alone counts.
    craft(tmp_path / 'exact', R18_RFA, {'accuracy/top1': 71.0})
    shown = Shown(tmp_path, 'imagenet')
    assert shown[(*ROW, 'Top-1')] == ('71.23', '71.00', '-0.23', '0')
    assert shown[(*ROW, 'Top-1, gain')][1] == '1.00'
    assert 'instead of' not in shown.text


def test_where_the_data_lie_is_no_setting(tmp_path):
    options = {
        'train_dataloader.dataset.data_root': '/elsewhere',
        'train_dataloader.num_workers': 1,
        'default_hooks.logger.interval': 1,
    }
    craft(tmp_path, R18, {'accuracy/top1': 70.0}, **options)
    (run,), _ = collect_runs(tmp_path, CONFIGS)
    assert run.changes == ()


def test_weights_that_a_run_starts_from_are_a_setting(tmp_path):
    top1 = {'accuracy/top1': 70.0}
    start = dict(load_from='voc.pth')
    for name, options in {
        'a': start,
        'b': {**start, 'resume': 'auto'},
        'c': {**start, 'resume': True},  # what it went on from
    }.items():
        craft(tmp_path / name, R18, top1, time=f'2026010{name}', **options)
    runs, _ = collect_runs(tmp_path, CONFIGS)
    said = ('load_from voc.pth instead of (none)',)
    assert [run.changes for run in runs] == [said, said, ()]


def test_of_one_seed_the_newest_run(tmp_path):
    # The work dirs sort the other way round.
    craft(tmp_path / 'b', R18, {'accuracy/top1': 1.0}, time='20260101_0')
    craft(tmp_path / 'a', R18, {'accuracy/top1': 2.0}, time='20260102_0')
    shown = Shown(tmp_path, 'imagenet')
    row = 'ResNet-18', 'plain', 'Top-1'
    assert shown[row][1:] == ('2.00', '-67.59', '0')


def test_seed_that_was_drawn_is_in_the_log(tmp_path):
    for folder, seed in (('a', 11), ('b', 12)):
        place = craft(
            tmp_path / folder, R18, {'accuracy/top1': 1.0}, seed=None
        )
        (place / 'x.log').write_text(
            'Runtime environment:\n    cudnn_benchmark: True\n'
            f'    seed: {seed}\n    numpy_random_seed: 5\n'
        )
    runs, _ = collect_runs(tmp_path, CONFIGS)
    assert [run.seed for run in runs] == [11, 12]


def test_fewer_processes_are_another_recipe(tmp_path):
    """A step of them sees fewer images than the config's name says."""
    for number in 1, 4:
        place = craft(tmp_path / f'{number}', R18, {'accuracy/top1': 1.0})
        text = f'    Distributed launcher: pytorch\n    GPU number: {number}\n'
        (place / 'x.log').write_text(text)
    runs, _ = collect_runs(tmp_path, CONFIGS)
    changes = {run.changes for run in runs}
    assert changes == {(), ('1 processes instead of 4',)}


def test_what_does_not_count_is_named(tmp_path):
    metrics = {'accuracy/top1': 70.0}
    craft(tmp_path / 'good', R18, metrics)
    craft(tmp_path / 'early', R18_RFA, metrics, step=99)
    craft(tmp_path / 'other', R18_RFA, metrics)
    (tmp_path / f'other/{R18_RFA}.py').rename(tmp_path / 'other/mine.py')
    craft(tmp_path / 'lost', R18_RFA, metrics)
    (tmp_path / f'lost/{R18_RFA}.py').unlink()
    runs, notes = collect_runs(tmp_path, CONFIGS)
    assert [run.config for run in runs] == [R18]
    early, lost, other = notes  # in the order of their folders
    assert 'is not finished, evaluated at 99 of 100' in early
    assert 'holds no config' in lost
    assert 'mine is no config of the zoo' in other


def test_a_work_dir_of_two_configs(tmp_path):
    craft(tmp_path, R18, {'accuracy/top1': 1.0}, time='a')
    craft(tmp_path, R18_RFA, {'accuracy/top1': 2.0}, time='b')
    runs, _ = collect_runs(tmp_path, CONFIGS)
    found = {run.config: run.score('top1') for run in runs}
    assert found == {R18: 1.0, R18_RFA: 2.0}


def test_scalars_cut_short(tmp_path):
    place = craft(tmp_path / 'run', R18, {'accuracy/top1': 70.0})
    scalars = place / 'vis_data/scalars.json'
    text = scalars.read_text()
    scalars.write_text(text + '{"lr": 0.1, "lo')  # being written
    (run,), _ = collect_runs(tmp_path, CONFIGS)
    assert run.score('top1') == 70.0
    for line in ('garbage', '[1, 2]'):
        scalars.write_text(f'{line}\n{text}')
        with pytest.raises(InputError, match='scalars.json: .* in line 1'):
            collect_runs(tmp_path, CONFIGS)


def test_nothing_run_gives_dashes_and_the_papers_numbers(tmp_path):
    shown = Shown(tmp_path, *paper_tables())
    assert shown['ResNet-18', 'RFCAConv', 'Top-1'][0] == '72.01'
    assert shown['YOLOv8n', 'RFCAConv', 'APl'][0] == '53.5'
    assert shown['YOLOv5s', 'RFCAConv', 'box AP, gain'][0] == '2.1'
    assert all(row[1:] == ('-', '-', '-') for row in shown.values())
    for table in paper_tables().values():
        assert f'## {table.title}\n' in shown.text
        for row in table.rows:
            model = f'{row["model"]} {row.get("schedule", "")}'.strip()
            assert any(key[:2] == (model, row['conv']) for key in shown)


def test_a_table_goes_between_its_marks():
    page = 'a\n<!-- table: b -->\nold\n<!-- end of table -->\n'
    page += '<!-- table: c -->\nold\n<!-- end of table -->\nd\n'
    expected = 'a\n<!-- table: b -->\n\n| new |\n\n<!-- end of table -->\n'
    assert (
        put(page, 'b', '| new |\n')
        == expected + page[page.index('<!-- table: c') :]
    )
    assert put(page, 'none', '| new |\n') == page
