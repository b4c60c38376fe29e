"""Say what `make demo` reached, and fail if the network did not learn."""

import argparse
import json
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir')
    parser.add_argument('--min-miou', type=float, default=80, help='percent')
    args = parser.parse_args(argv)
    work_dir = Path(args.work_dir).resolve()
    # tools/test.py leaves its metrics in WORK_DIR/test/TIME/TIME.json.
    files = sorted((work_dir / 'test').glob('*/*.json'))
    if not files:
        print(f'error: no test result in {work_dir}/test', file=sys.stderr)
        return 1
    miou = json.loads(files[-1].read_text())['mIoU']
    print(f'mIoU         {miou:.2f} % (at least {args.min_miou:.0f} wanted)')
    print(f'predictions  {work_dir / "pictures"}')
    print(f'curves       {work_dir / "curves.png"}')
    if not miou >= args.min_miou:
        print(
            f'error: the network has not learned: mIoU {miou:.2f} %, '
            f'expected at least {args.min_miou:.0f} %',
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
