"""Configs whose data cannot become code: YAML, environment variables."""

import functools
import os
import re

# Characters that end a string of Python, or begin an escape.
_ESCAPED = {'\\': r'\\', "'": r'\'', '"': r'\"', '\n': r'\n', '\r': r'\r'}


@functools.cache
def read_configs_safely() -> None:
    """Make MMEngine's reading of configs safe, for the whole process.

    YAML can call any function; its plain values and MMEngine's tuples remain.
    Values of the environment are pasted into the source of a config
    (``'{{$NAME:default}}'``); they stay inside the quotes around them.
    """
    import yaml
    from mmengine.config import Config
    from mmengine.fileio import register_handler
    from mmengine.fileio.handlers import YamlHandler

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor(
        'tag:yaml.org,2002:python/tuple',
        lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
    )

    @register_handler(['yaml', 'yml'])
    class SafeYamlHandler(YamlHandler):
        def load_from_fileobj(self, file, **_):
            return yaml.load(file, Loader)

    substitute = Config._substitute_env_variables

    def substitute_escaped(filename: str, temp_config_name: str) -> dict:
        with open(filename, encoding='utf-8') as file:
            names = re.findall(r'\{\{[\'"]?\s*\$(\w+)\s*:', file.read())
        before = {n: os.environ[n] for n in names if n in os.environ}
        try:
            for name, value in before.items():
                escaped = value.translate(str.maketrans(_ESCAPED))
                # MMEngine inserts it by re.sub, which takes escapes as well.
                os.environ[name] = escaped.replace('\\', '\\\\')
            substitute(filename, temp_config_name)
        finally:
            os.environ.update(before)
        return before

    Config._substitute_env_variables = staticmethod(substitute_escaped)
