"""Look at all data of a config: files, masks, boxes, shares of classes."""

import argparse
import sys
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path

from mmrfa.checkpoints.writing import (
    check_folder,
    check_target,
    written_aside,
)
from mmrfa.datasets.data_root import LOADERS, check_data_roots, leaves
from mmrfa.datasets.inspection import (
    look_at_boxes,
    look_at_coco,
    look_at_image,
    look_at_labels,
    look_at_mask,
)
from mmrfa.deploy.sources import names_of
from mmrfa.engine.cli import add_config_arguments, parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.naming import naming
from mmrfa.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='write the suspicious images to this folder, small',
    )
    args = parse_args(parser, argv)
    if args.show_dir is not None:
        check_folder(Path(args.show_dir))
    config = load_config(args.config, args.cfg_options)
    import_scope(config)
    for loader in LOADERS:
        with naming(config, loader, 'cannot be read'):
            check_data_roots(config, [loader])
    listed, seen = [], set()
    for loader in LOADERS:
        for settings in leaves((config.get(loader) or {}).get('dataset')):
            parts = 'data_root', 'ann_file', 'data_prefix', 'indices'
            key = repr([settings.get(part) for part in parts])
            if key not in seen:
                seen.add(key)
                coco = coco_files(settings)
                listed.append((loader, coco, build(loader, settings, coco)))
    datasets = [dataset for *_, dataset in listed]
    pictures = small_pictures(datasets, args.show_dir) if args.show_dir else {}
    found = sum(check(*each, pictures) for each in listed)
    if found:
        raise InputError(f'{found} files are suspicious, see above')


def coco_files(settings: dict) -> list[str]:
    """The file of COCO annotations that a data set is listed in, if one."""
    file = Path(
        settings.get('data_root') or '', settings.get('ann_file') or ''
    )
    return [str(file)] if file.suffix == '.json' else []


def build(loader: str, settings: dict, coco: list[str]):
    """Build one data set, to read what it lists.

    Args:
        loader (str): its name, for the error.
        settings (dict): of the data set.
        coco (list[str]): its file of COCO annotations, if it has one.

    Returns:
        BaseDataset: without a pipeline.

    Raises:
        InputError: it cannot be built.
    """
    from mmengine.registry import DATASETS

    try:
        return DATASETS.build(dict(settings, pipeline=[], lazy_init=False))
    except Exception as error:  # it can raise anything
        lines = [str(error), *chain(*map(look_at_coco, coco))]
        raise InputError(
            f'{loader}: cannot be read: {"; ".join(lines)}'
        ) from error


def check(
    loader: str, coco: list[str], dataset, pictures: dict[str, Path]
) -> int:
    """Look at one data set and print what it is like.

    Args:
        loader (str): its name, for the output.
        coco (list[str]): its file of COCO annotations, if it has one.
        dataset (BaseDataset): without a pipeline.
        pictures (dict[str, Path]): where the small picture of an image goes.

    Returns:
        int: how many files are suspicious.
    """
    from mmengine.utils import ProgressBar

    suspicious: dict[str, list[str]] = {}
    classes = dataset.metainfo.get('classes') or ()
    for path in coco:
        wrong = look_at_coco(path)
        if not wrong and classes:
            labels = getattr(dataset, 'cat2label', {})
            wrong = look_at_labels(path, classes, labels)
        if wrong:
            suspicious[path] = wrong
    shares, sizes, names = Counter(), Counter(), Counter()
    bar = ProgressBar(len(dataset), file=sys.stderr)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path = info['img_path']
        names[path] += 1
        pixels, wrong = look_at_image(path)
        shape = None if pixels is None else pixels.shape[:2]
        sizes[shape] += 1
        counts = Counter()
        if info.get('seg_map_path'):  # None in COCO's
            counts, more = look_at_mask(
                info['seg_map_path'],
                shape,
                len(classes),
                trained_as=partial(trained_as, info),
            )
            wrong += more
        elif 'instances' in info:
            counts, more = look_at_boxes(info['instances'], shape)
            wrong += more
        elif 'gt_label' in info:
            counts = Counter([int(info['gt_label'])])
        shares += counts
        if names[path] == 2:
            wrong.append('is listed twice')
        if wrong:
            suspicious.setdefault(path, []).extend(wrong)
            if path in pictures and pixels is not None:
                save_small(pixels, pictures[path])
        bar.update()
    print(file=sys.stderr)
    report(loader, len(dataset), classes, shares, sizes, suspicious)
    return len(suspicious)


def trained_as(info: dict, number: int) -> int:
    """The label that mmseg's LoadAnnotations makes of a number in a mask."""
    if info.get('reduce_zero_label'):
        number = 255 if number in (0, 255) else number - 1
    return (info.get('label_map') or {}).get(number, number)


def small_pictures(datasets: list, folder: str) -> dict[str, Path]:
    """Where the small picture of each image goes.

    Args:
        datasets (list[BaseDataset]): that list the images.
        folder (str): for the pictures.

    Returns:
        dict[str, Path]: by path of the image, no two the same.

    Raises:
        InputError: one would take the place of an image.
    """
    images = list(
        dict.fromkeys(
            dataset.get_data_info(index)['img_path']
            for dataset in datasets
            for index in range(len(dataset))
        )
    )
    found = {}
    for image, name in zip(images, names_of([*map(Path, images)])):
        found[image] = Path(folder) / f'{name}.jpg'
        check_target(image, found[image])
    return found


def save_small(pixels, target: Path) -> None:
    """Write an image with sides of 256 pixels at most."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((256, 256))
    with written_aside(target) as part:
        image.save(part)


def report(
    loader: str,
    count: int,
    classes: list[str],
    shares: Counter,
    sizes: Counter,
    suspicious: dict[str, list[str]],
) -> None:
    """Print the summary of one data set."""
    print(f'{loader}: {count} images')
    print('  sizes, the most frequent:')
    for size, number in sizes.most_common(5):
        text = 'unreadable' if size is None else f'{size[0]}x{size[1]}'
        print(f'    {text}: {number}')
    total = sum(shares.values()) or 1
    print('  classes:')
    for label in sorted({*shares, *range(len(classes))}):
        known = 0 <= label < len(classes)
        name = classes[label] if known else 'no class'
        number = shares[label]
        print(f'    {label} {name}: {number} ({number / total:.2%})')
    print(f'  suspicious: {len(suspicious)}')
    for path, problems in suspicious.items():
        print(f'    {path}: {"; ".join(problems)}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
