"""The page of results: from rows to tables, and what is committed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmrfa.errors import InputError
from mmrfa.results import page
from mmrfa.results.figures import (
    FIGURES,
    costs_of,
    draw,
    draw_predictions,
    figure_of,
    figures,
)
from mmrfa.results.pictures import median_seed, picture_file, strips
from mmrfa.results.records import (
    curve,
    read_kept_scalars,
    read_records,
    scalars_file,
    scores_of,
    write_scalars,
)
from mmrfa.results.statistics import Difference, difference
from mmrfa.results.studies import find_study, twins

from .crafted_runs import CONFIGS, REPO
from .rows import row

RESULTS = REPO / 'results'
RECORDS = read_records(RESULTS)


def test_the_page_is_what_the_script_writes():
    """So every number on it comes from a row."""
    text = (RESULTS / 'README.md').read_text()
    studies = page.started(RECORDS, CONFIGS)
    steps, repeats = page.read_steps(RESULTS), page.read_repeats(RESULTS)
    assert page.render(text, studies, RECORDS, steps, repeats) == text, (
        'run scripts/update_results.py'
    )
    for study in studies:
        for kind in FIGURES:
            assert (RESULTS / figure_of(study, kind)).is_file()


def test_rows_of_other_studies_are_refused():
    studies = page.started(RECORDS, CONFIGS)
    page.check_rows(studies, RECORDS, CONFIGS)
    first = next(r for r in RECORDS if r.study == 'clothing10')
    with pytest.raises(InputError, match='studies out of camvid.* got none'):
        page.check_rows(studies, [replace(first, study='none')], CONFIGS)
    with pytest.raises(InputError, match='of clothing10 .*plain; .* got none'):
        page.check_rows(studies, [replace(first, form='none')], CONFIGS)
    for change, words in (
        (dict(options='{"a": 1}'), 'expected options {}'),
        (dict(metric='miou'), 'expected metric top1, as .*, got miou'),
        (dict(test=None), 'expected scored test, as .*, got val'),
        (dict(recipe='0' * 12), 'expected recipe .*, got 000000000000'),
    ):
        other = replace(first, **change)
        with pytest.raises(
            InputError, match=f'runs.csv: clothing10, .*{words}'
        ):
            page.check_rows(studies, [other], CONFIGS)


def settling(name, metric):
    lines = read_kept_scalars(RESULTS / f'settling/{name}.jsonl.gz')
    return curve(lines, metric)


def test_how_the_recipes_were_settled():
    words = ' '.join((RESULTS / 'README.md').read_text().split())
    cut, short, weighted = (
        settling(name, 'miou')
        for name in ('2000-steps', '1000-steps', '1000-steps-weighted')
    )
    assert f'after 1000 steps mIoU was {short[1000]:.2f}, and' in words
    assert f'{weighted[1000]:.2f} where rare classes count more' in words
    assert f'at {max(cut)}, stood at {cut[max(cut)]:.2f}.' in words
    cells = settling('bccd-yolov8-40-epochs', 'ap50')
    after = f'AP50 {cells[40]:.2f} ({cells[15]:.2f} after 15 of them)'
    assert max(cells) == 40 and f'for 40 epochs had {after}' in words
    top = settling('clothing10-15-epochs-64-pixels', 'top1')
    before = f'top-1 {top[15]:.2f} ({top[14]:.2f} an epoch before)'
    assert max(top) == 15 and f'15 epochs of 64 pixels had {before}' in words
    assert 'so both YOLOs have 40;' in words and 'so it has 20.' in words
    epochs = dict(bccd_yolov8=40, bccd_yolov5=40, clothing10=20)
    for study, count in epochs.items():
        for form in find_study(study, CONFIGS).forms.values():
            config = Config.fromfile(CONFIGS[form.config])
            assert config.train_cfg.max_epochs == count, form.config


def test_what_the_readme_says():
    words = ' '.join((REPO / 'README.md').read_text().split())

    def told(form, verdict, seeds, sign=1, study='camvid'):
        found = difference(RECORDS, study, form, 'plain')
        assert (len(found.values), found.verdict) == (seeds, verdict), form
        low, high = sorted(sign * end for end in found.interval)
        return f'{sign * found.mean:.2f}', f'{low:.2f} to {high:.2f}'

    rfcbam, at = told('RFCBAMConv', 'better', 8)
    text = f'RFCBAMConv gained {rfcbam} points of mIoU (95 % interval {at}, 8 '
    rfca, at = told('RFCAConv', 'better', 8)
    text += f'seeds), RFCAConv {rfca} ({at}) and '
    rfa, at = told('RFAConv', 'better', 8)
    text += f'RFAConv {rfa} ({at}). '
    cbam, at = told('CBAMConv', 'worse', 5, -1)
    text += f'CBAMConv lost {cbam} ({at}, 5 seeds), and '
    text += 'plain networks with a fifth more steps, what RFAConv costs on a '
    longer, at = told('plain longer', 'open', 5)
    assert text + f'CPU, gained {longer} ({at}).' in words
    most, at = told('RFCBAMConv', 'better', 5, study='clothing10')
    text = f'clothing10, 5 seeds, RFCBAMConv gained {most} points of top-1 '
    more, its = told('RFAConv', 'better', 5, study='clothing10')
    text += f'({at}), RFAConv {more} ({its}) and '
    more, at = told('RFCAConv', 'better', 5, study='clothing10')
    assert f'{text}RFCAConv {more} ({at}).' in words
    less, at = told('RFCAConv', 'worse', 3, -1, 'bccd_yolov5')
    text = f'3 seeds, RFCAConv lost {less} points of AP50 ({at}) and RFAConv '
    less, at = told('RFAConv', 'open', 3, -1, 'bccd_yolov5')
    text += f'{less} ({at}), which is open; in YOLOv8n, 5 seeds, '
    more, at = told('RFAConv', 'open', 5, study='bccd_yolov8')
    text += f'RFAConv gained {more} ({at}) and '
    more, at = told('RFCAConv', 'open', 5, study='bccd_yolov8')
    assert f'{text}RFCAConv {more} ({at}), both open.' in words
    study = find_study('camvid', CONFIGS)
    longest = study.forms['plain longer'].options['train_cfg.max_iters']
    assert (
        longest
        == 1.2
        * Config.fromfile(
            CONFIGS[study.forms['plain'].config]
        ).train_cfg.max_iters
    )


def test_all_studies_are_complete():
    told = (RESULTS / 'README.md').read_text()
    runs = re.findall(r'^(\d+) of (\d+) runs, ', told, re.MULTILINE)
    assert len(runs) == 6
    assert all(done == wanted for done, wanted in runs)
    words = (REPO / 'docs/results.md').read_text()
    assert '**All six studies are complete**' in words


def test_recipes_start_as_the_start_study_says():
    """On our own data; the papers' recipes, and YOLO, start as published."""
    study = find_study('camvid_start', CONFIGS)
    wanted = {}
    for operator in ('RFAConv', 'RFCBAMConv', 'RFCAConv', 'AWConv'):
        found = difference(
            RECORDS, study.name, f'{operator} neutral', operator
        )
        assert found.seeds == tuple(range(5))
        wanted[operator] = 'neutral' if found.interval[0] > 0 else None
    checked = set()
    for name, path in CONFIGS.items():
        model = Config.fromfile(path).get('model', {})
        layer = model.get('attention_conv') or model.get('backbone', {}).get(
            'attention_conv'
        )
        # The study of the start sets it itself.
        if layer is None or '2k_camvidhalf' in name:
            continue
        ours = not name.startswith('yolo') and any(
            data in name for data in ('camvid', 'bccd', 'clothing10')
        )
        start = wanted.get(layer['type']) if ours else None
        assert layer.get('start') == start, name
        checked.add((layer['type'], ours))
    assert {(operator, True) for operator in wanted} <= checked
    assert ('RFCBAMConv', False) in checked


@pytest.mark.parametrize(
    ('folder', 'record'),
    [
        pytest.param(folder, record, id='-'.join(map(str, record.key)))
        for folder in (RESULTS, *sorted(RESULTS.glob('repeats/*')))
        for record in read_records(folder)
    ],
)
def test_a_row_is_what_its_scalars_say(folder, record):
    lines = read_kept_scalars(scalars_file(folder, *record.key))
    scores = [record.val, record.test]
    for told, found in zip(scores, scores_of(lines, record.metric)):
        assert told == (
            None if found is None else pytest.approx(found, abs=1e-3)
        )
    form = find_study(record.study, CONFIGS).forms[record.form]
    assert form.config == record.config
    steps = [line for line in lines if 'loss' in line]
    assert steps[-1].get('iter', steps[-1]['step']) == record.steps


def test_a_seed_gives_its_figure_again():
    """On one kind of machine, digit by digit; on another it does not."""
    repeats = page.read_repeats(RESULTS)
    first, second = (r for r in repeats if r.study == 'camvid_start')
    (row_of_it,) = (r for r in RECORDS if r.key == first.key)
    assert first.key == second.key and first.cpu == second.cpu
    assert first.cpu != row_of_it.cpu and first.recipe == row_of_it.recipe
    logged = [
        [
            (line['step'], line.get('loss'), line.get('mIoU'))
            for line in read_kept_scalars(scalars_file(folder, *first.key))
        ]
        for folder in (RESULTS / 'repeats/1', RESULTS / 'repeats/2')
    ]
    assert logged[0] == logged[1] and len(logged[0]) > 20
    words = ' '.join((RESULTS / 'README.md').read_text().split())
    apart = first.score - row_of_it.score
    assert f'part by {apart:.2f} points in the end' in words


def test_runs_of_a_cpu_and_of_a_gpu():
    words = ' '.join((RESULTS / 'README.md').read_text().split())
    studies = ('camvid', 'camvid_finetune', 'clothing10')
    by_key = {r.key: r for r in RECORDS if r.study in studies}
    others = [r for r in by_key.values() if r.cpu != 'NVIDIA H200']
    assert {r.study for r in others} <= {'clothing10'}
    last = [r for r in others if r.seed == 4]
    assert last == [
        r for k, r in by_key.items() if k[::2] == ('clothing10', 4)
    ]
    early = [r for r in others if r.seed < 4]
    assert 'plain' not in {r.form for r in early}
    assert {r.seed for r in early} == {2, 3}
    text = f'on clothing10 {len(others)} are of a CPU: those of seed 4, and '
    assert f'{text}{len(early)} of seeds 2 and 3, whose plain twins' in words
    again = [r for r in page.read_repeats(RESULTS) if r.study == 'camvid']
    assert all(r.recipe == by_key[r.key].recipe for r in again)
    for cpu, count in (('AMD EPYC', 6), ('NVIDIA H200', 2)):
        there = [r for r in again if r.cpu == cpu]
        most = max(abs(r.score - by_key[r.key].score) for r in there)
        assert len(there) == count
        assert f'they are up to {most:.1f} points from the rows.' in words
    assert len(again) == 8
    # Tuning on started as the repeats where it is of the same commit.
    of_gpu = {r.commit for r in again if r.cpu == 'NVIDIA H200'}
    tuned = [r for r in by_key.values() if r.study == 'camvid_finetune']
    late = {(r.seed, r.form) for r in tuned if r.commit in of_gpu}
    assert {form for seed, form in late if seed == 2} == {'RFCAConv'}
    assert len([form for seed, form in late if seed == 3]) == 3
    assert 'start from the repeat, of seed 2 RFCAConv alone:' in words


def test_tuning_on_does_not_gain():
    words = ' '.join((REPO / 'docs/results.md').read_text().split())
    found = [
        difference(RECORDS, 'camvid_finetune', form, 'plain')
        for form in ('RFAConv', 'RFCAConv')
    ]
    assert [len(each.values) for each in found] == [5, 5]
    assert {each.verdict for each in found} == {'open'}
    most = max(abs(value) for each in found for value in each.values)
    assert f'tuned likewise, to {most:.1f} points in every seed' in words


def test_forms_and_their_twins():
    study = find_study('camvid_start', CONFIGS)
    others = twins(study)
    assert others['plain'] == []
    assert others['RFAConv'] == ['plain']
    assert others['RFAConv neutral'] == ['plain', 'RFAConv']
    table = twins(find_study('imagenet', CONFIGS))
    assert table['RFAConv, ResNet-34'] == ['plain, ResNet-34']
    camvid = twins(find_study('camvid', CONFIGS))
    assert camvid['RFAConv'] == ['plain', 'plain wide', 'plain longer']
    assert camvid['plain wide'] == ['plain']


def test_across_studies():
    """Of two studies: 3 of 4 pairs above, and 4 of 4; one run says nothing."""
    studies = [find_study(name, CONFIGS) for name in ('camvid', 'clothing10')]
    scores = {
        ('camvid', 'plain'): (10.0, 20.0),
        ('camvid', 'RFAConv'): (15.0, 25.0),
        ('clothing10', 'plain'): (70.0, 70.0),
        ('clothing10', 'RFAConv'): (71.0, 71.0),
        ('clothing10', 'CAConv'): (69.0, 69.0),
        ('clothing10', 'CAMConv'): (71.0,),
    }
    records = [
        row(study=study, form=form, seed=seed, test=value)
        for (study, form), values in scores.items()
        for seed, value in enumerate(values)
    ]
    text = page.across(studies, records)
    assert '| RFAConv | 2 | 0.88 | 0.50 to 1.00 |' in text
    assert '| CAConv | 1 | 0.00 | 0.00 to 0.00 |' in text
    assert 'plain' not in text and 'CAMConv' not in text
    assert page.across(studies, records[:2]) is None
    for other in ('camvid_start', 'camvid_finetune'):
        mine = [replace(r, study=other) for r in records[:4]]
        assert page.across([find_study(other, CONFIGS)], mine) is None


def test_tables_and_figures(tmp_path):
    """Mean and interval of 1 and 3 by hand: 2, 12.71 * sqrt(2) / sqrt(2)."""
    study = find_study('camvid_start', CONFIGS)
    records = [
        row(study=study.name, form=form, seed=seed, val=value)
        for form, values in {
            'plain': (20.0, 22.0),
            'RFAConv': (21.0, 25.0),
        }.items()
        for seed, value in enumerate(values)
    ]
    steps = dict(
        seconds=dict(plain=0.5, RFAConv=0.6),
        peak_bytes=dict(plain=100, RFAConv=101),
    )
    lines = page.table(study, records, steps).splitlines()
    cells = {
        (each[0], each[7]): each[1:]
        for each in (
            [c.strip() for c in x.strip('|').split('|')] for x in lines
        )
    }
    assert cells['plain', '-'][:2] == ['2', '21.00 ± 1.41']
    against = cells['RFAConv', 'plain']
    assert against[:2] == ['2', '23.00 ± 2.83']
    assert against[4:6] == ['1.20', '1.01']
    assert against[-4:] == ['+2.00', '-10.71 to +14.71', '2 of 2', 'open']
    assert cells['AWConv', 'plain'][:2] == ['0', '-']
    assert cells['AWConv', 'plain'][4:6] == ['-', '-']
    assert '| 1.20 |' not in page.table(study, records, None)
    assert ('', 'AWConv') in cells
    assert 'about 12.7 points' in page.detectable(study, records)
    assert page.detectable(study, records[:3]) is None
    before = 'head\n' + page.START + 'obsolete'
    repeat = row(study=study.name, form='plain', val=21.5, cpu='another')
    text = page.render(before, [study], records, {}, [repeat])
    first, second = text.split('## Trained once more')[1].splitlines()[-2:]
    assert '| plain | 0 | mIoU, val: 20.00 | a CPU, of two cores |' in first
    assert '| plain | 0 | mIoU, val: 21.50 | another |' in second
    assert text.startswith('head\n' + page.START + '\n## How the attention')
    assert 'obsolete' not in text
    assert '4 of 45 runs, 1.1 h in all, a CPU, of two cores, 1 thread' in text
    for record in records:
        path = scalars_file(tmp_path, *record.key)
        write_scalars(path, [dict(mIoU=record.val, step=400)])
    widths = []
    for given in (None, steps):
        draw(study, records, tmp_path, given)
        for kind in FIGURES:
            assert (tmp_path / figure_of(study, kind)).stat().st_size > 5000
        widths.append(Image.open(tmp_path / figure_of(study, 'costs')).width)
    assert widths[0] < widths[1]  # time stands beside the operations


def test_findings_in_words():
    """Of 2, 2 and 2.1 the mean is 2.03, the interval 4.303 / sqrt(3) sd."""
    study = find_study('bccd_yolov5', CONFIGS)
    scores = {
        'plain': (10.0, 10.5, 11.0),
        'RFAConv': (12.0, 12.5, 13.1),
        'CAConv': (8.0, 8.5, 8.9),
        'RFCAConv': (10.5, 10.0, 11.0),
    }
    records = [
        row(study=study.name, form=form, seed=seed, test=value)
        for form, values in scores.items()
        for seed, value in enumerate(values)
    ]
    steps = dict(
        seconds=dict(plain=0.5, RFAConv=0.6, RFCAConv=1.0),
        peak_bytes=dict(plain=100, RFAConv=101, RFCAConv=200),
    )
    assert page.findings(study, records, steps).splitlines() == [
        '- CAConv loses 2.03 points of AP50 against plain '
        '(1.89 to 2.18, 3 seeds)',
        '- RFAConv gains 2.03 points of AP50 against plain '
        '(1.89 to 2.18, 3 seeds); a step takes 1.20 times as long and 1.01 '
        'times the memory',
        '- not to be told from plain: RFCAConv',
    ]
    fewer = [r for r in records if r.seed < 2]
    assert '2 seeds of 3, so it may' in page.findings(study, fewer, None)
    assert 'times as long' not in page.findings(study, fewer, None)
    assert 'nothing can be' in page.findings(study, fewer[::2], steps)


def test_costs():
    """A fifth more steps of the same length take a fifth more time."""
    by_form = {
        form: [row(form=form, steps=count, gflops=3.0)]
        for form, count in (('plain', 1000), ('RFAConv', 1200), ('CAConv', 1))
    }
    steps = dict(seconds=dict(plain=0.5, RFAConv=0.5))
    of_work, of_time = costs_of(by_form, steps).values()
    assert of_work == dict.fromkeys(by_form, 3.0)
    assert of_time == {'plain': 1.0, 'RFAConv': pytest.approx(1.2)}
    assert len(costs_of(by_form, None)) == 1


@pytest.mark.parametrize(
    ('values', 'planned', 'says'),
    [
        ((1.0, 1.1), 2, 'better'),
        ((1.0, 1.1), 5, 'better so far'),
        ((-1.0, -1.1), 3, 'worse so far'),
        ((-1.0, 1.1), 5, 'open'),
    ],
)
def test_few_seeds_say_so(values, planned, says):
    found = Difference(values, seeds=tuple(range(len(values))))
    assert page.told(found, planned)[-1] == says


def test_predictions_of_the_median_seed(tmp_path):
    study = find_study('camvid', CONFIGS)
    scores = {
        'plain': (30.0, 30.0, 30.0, 30.0),
        'RFAConv': (31.0, 29.0, 33.0, 32.0),
        'RFCAConv': (31.0,),
        'AWConv': (31.0, 30.0, 30.0, 30.0),
    }
    records = [
        row(study=study.name, form=form, seed=seed, test=value)
        for form, values in scores.items()
        for seed, value in enumerate(values)
    ]
    assert median_seed(study, records) == 0  # of -1, 1, 2, 3
    assert median_seed(study, records[:4]) is None
    assert median_seed(find_study('camvid_start', CONFIGS), records) is None
    for number, form in enumerate(('plain', 'RFAConv', 'RFCAConv'), 1):
        masks = np.hstack([np.zeros((6, 4)), np.full((6, 4), number)])
        picture = Image.fromarray(masks.astype(np.uint8))
        picture.putpalette([9, 9, 9, *range(9)])
        path = picture_file(tmp_path, study.name, form, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    found = strips(study, 0, records, tmp_path)
    assert [*found] == ['truth', 'plain', 'RFAConv', 'RFCAConv']
    assert (found['truth'] == 9).all() and found['truth'].shape == (6, 4, 3)
    assert (found['RFCAConv'] == [6, 7, 8]).all()
    (tmp_path / 'figures').mkdir()
    draw_predictions(study, records, tmp_path)
    drawn = figure_of(study, figures(study, records)[-1])
    assert (tmp_path / drawn).stat().st_size > 2000
