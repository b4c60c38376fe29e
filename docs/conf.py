"""The site: the Markdown files of the repository, as they are.

Its root is the repository, so that links are those that GitHub follows. What
only a site has is added here: the menu, the gallery, the reference.
"""

import re
from pathlib import Path

import matplotlib
from sphinx.application import Sphinx

from mmrfa.version import __version__

REPO = Path(__file__).resolve().parents[1]
project, release = 'mmrfa', __version__
author = 'The mmrfa maintainers'
project_copyright = author

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'sphinx_gallery.gen_gallery',
]
root_doc = 'README'
include_patterns = [
    '*.md',
    'docs/*.md',
    'docs/*.rst',
    'docs/examples/**.rst',
    'benchmarks/results/*.md',
    'mmrfa/ops/*/README.md',
    'configs/*/README.md',
    'results/*.md',
]
# Not even looked into.
exclude_patterns = ['.*', 'build', 'data', 'tests', 'work_dirs']

# The menu. On GitHub, README.md has the links.
MENU = {
    'Use': [
        'Start <self>',
        'Install </docs/install>',
        'Any PyTorch network </docs/any-model>',
        'Your own data </docs/own-data>',
        'Configs and training </docs/configs>',
        'Weights </docs/weights>',
        'Predict, look, export </docs/deploy>',
    ],
    'Know': [
        'Operators </docs/operators>',
        'Forms and speed </docs/backends>',
        'Results </docs/results>',
        'Examples </docs/examples/index>',
        'Reference </docs/api>',
    ],
    'Build': [
        'How it is built </docs/structure>',
        'Contributing </CONTRIBUTING>',
        'Changelog </CHANGELOG>',
    ],
}
# What others lead to.
CHILDREN = {
    'docs/operators': '/mmrfa/ops/*/README',
    'docs/configs': '/configs/*/README',
    'docs/backends': '/benchmarks/results/*',
    'docs/results': '/results/*',
}

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # docstrings say more
python_maximum_signature_line_length = 79
napoleon_use_ivar = True
copybutton_exclude = '.linenos, .gp'

sphinx_gallery_conf = dict(
    examples_dirs='docs/gallery',
    gallery_dirs='docs/examples',
    filename_pattern='/plot_',
    within_subsection_order='FileNameSortKey',
    run_stale_examples=True,  # they show the code of today
    abort_on_example_error=True,
    capture_repr=(),
    copyfile_regex='',
    download_all_examples=False,
    show_memory=False,
    show_signature=False,
    write_computation_times=False,
)

html_theme = 'furo'
html_title = f'mmrfa {release}'
html_static_path = ['site.css']
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
matplotlib.use('Agg')


def toctree(caption: str, pages: list[str], *options: str) -> str:
    """A list of pages that shows in the menu alone."""
    lines = [f':caption: {caption}'] if caption else []
    lines += [':hidden:', *options, '', *pages]
    return '\n'.join(['', '```{toctree}', *lines, '```', ''])


def for_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the menu; lead links to what the site has of it."""
    text = source[0]
    if page == root_doc:
        for caption, pages in MENU.items():
            text += toctree(caption, pages)
    if page in CHILDREN:
        text += toctree('', [CHILDREN[page]], ':glob:')
    here = (REPO / page).parent

    def lead(found: re.Match) -> str:
        target = here / found[2]
        if target.is_dir():  # GitHub lists it, a site cannot
            return found[1]
        if target.parent == REPO / 'docs/gallery':
            return f'[{found[1]}](/docs/examples/{target.stem}.rst)'
        return found[0]

    source[0] = re.sub(r'\[([^]]+)\]\(([^)#:\s]+)\)', lead, text)


def escape_stars(app: Sphinx, *args) -> None:
    """Let ``*args, **kwargs:`` in a docstring be text, not emphasis."""
    lines = args[-1]
    for number, line in enumerate(lines):
        name, colon, text = line.partition(':')
        if re.fullmatch(r'[\s\w,*]+', name):
            lines[number] = name.replace('*', r'\*') + colon + text


def front_page(app: Sphinx, error: Exception | None) -> None:
    """Lead whoever opens the folder to the first page."""
    if error is None:
        line = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (Path(app.outdir) / 'index.html').write_text(f'{line}\n')


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.connect('source-read', for_the_site)
    # Before napoleon, which reads the docstrings at 500.
    app.connect('autodoc-process-docstring', escape_stars, priority=400)
    app.connect('build-finished', front_page)
