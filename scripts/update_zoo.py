"""Write the metafiles, the tables of the zoo's READMEs and model-index.yml.

    update_zoo.py           write them; needs detection (`make ops`)

See mmrfa/results/metafiles.py for what they say and where it comes from.
"""

import sys
from pathlib import Path

from mmengine.logging import MMLogger

from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.cli import run_tool
from mmrfa.results import metafiles
from mmrfa.results.costs import network, parameters
from mmrfa.results.published import paper_tables
from mmrfa.results.tables import compare_costs, put

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write all files."""
    MMLogger.get_current_instance().setLevel('WARNING')
    runs = metafiles.committed_runs(REPO)
    files = {REPO / 'model-index.yml': metafiles.index(REPO)}
    for folder in metafiles.folders(REPO):
        configs = {path.stem: path for path in folder.glob('*.py')}
        params = {
            name: parameters(network(path)) for name, path in configs.items()
        }
        metafile, readme = metafiles.render(folder, params, runs)
        for name, table in paper_tables().items():
            if f'<!-- table: costs of {name} -->' in readme:
                costs = compare_costs(table, configs)
                readme = put(readme, f'costs of {name}', costs)
        files[folder / 'metafile.yml'] = metafile
        files[folder / 'README.md'] = readme
    for path, text in files.items():
        write_whole(text.encode(), path)


if __name__ == '__main__':
    sys.exit(run_tool(main))
