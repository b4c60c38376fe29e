"""What became of every name of a checkpoint."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """The names of a conversion, each in one place.

    Attributes:
        converted (dict[str, str]): name in the file, and what it became.
        dropped (dict[str, str]): name in the file, and why it is not used.
        missing (dict[str, str]): name that the file does not have, and what
            stands there instead.
    """

    converted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line a name."""
        lines = []
        for title, names, sign in (
            ('converted', self.converted, ' ->'),
            ('dropped', self.dropped, ':'),
            ('missing', self.missing, ':'),
        ):
            lines.append(f'{title}: {len(names)}')
            lines += [f'  {key}{sign} {text}' for key, text in names.items()]
        return '\n'.join(lines)
