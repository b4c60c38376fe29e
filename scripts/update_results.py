"""Write the tables and figures of results/README.md from its rows and steps.

update_results.py       write them
"""

import sys
from pathlib import Path

from mmengine.logging import MMLogger

from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.cli import run_tool
from mmrfa.results import page
from mmrfa.results.figures import draw
from mmrfa.results.records import read_records
from mmrfa.results.zoo import config_files

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write all of it."""
    MMLogger.get_current_instance().setLevel('WARNING')
    folder = REPO / 'results'
    records = read_records(folder)
    configs = config_files(REPO)
    studies = page.started(records, configs)
    page.check_rows(studies, records, configs)
    readme = folder / 'README.md'
    text = readme.read_text(encoding='utf-8')
    steps, repeats = page.read_steps(folder), page.read_repeats(folder)
    text = page.render(text, studies, records, steps, repeats)
    for study in studies:
        draw(study, records, folder, steps.get(study.name))
    write_whole(text.encode(), readme)


if __name__ == '__main__':
    sys.exit(run_tool(main))
