"""What a terminal has shown, as an animated SVG without scripts and fonts: each picture for its time, and the last one for good.

The last picture is what the file shows as it is. CSS hides it while the others are shown, so a program that animates nothing, and
a reader who wants no motion, see the last one. The files of termtosvg, which is made for this too, repeat forever.
"""

from xml.sax.saxutils import escape

import pyte

# Pixels.
FONT, WIDTH, HEIGHT = 14, 8.4, 19
MARGIN = 14
# Seconds: a picture that would be replaced earlier is left out.
SHORTEST = 0.03

STYLE = """
text{font:%dpx ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:#e6edf3}
.b{font-weight:bold}.green{fill:#3fb950}.brown{fill:#d29922}.red{fill:#ff7b72}.blue{fill:#79c0ff}.c{fill:#8b949e}
.p{visibility:hidden;animation:p 1s steps(1)}.l{animation:l %.2fs steps(1)}
@keyframes p{0%%,to{visibility:visible}}@keyframes l{0%%,to{visibility:hidden}}
@media(prefers-reduced-motion:reduce){.p,.l{animation:none}}
"""


def animation(recording, columns, rows, title):
    """The SVG. `recording` has pairs of seconds and text, in a terminal of this size."""
    pictures = list(shown(recording, columns, rows))
    used = max(len(rows) for _, rows, _ in pictures)
    width, height = columns * WIDTH + 2 * MARGIN, used * HEIGHT + 2 * MARGIN
    end = pictures[-1][0]
    parts = Parts()
    frames = []
    for (begin, lines, cursor), following in zip(pictures, pictures[1:] + [None]):
        content = parts.picture(lines, cursor)
        if following is None:
            frames.append(f'<g class="l">{content}</g>')
        else:
            times = f"animation-delay:{begin:.2f}s;animation-duration:{following[0] - begin:.2f}s"
            frames.append(f'<g class="p" style="{times}">{content}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}">'
        f"<title>{escape(title)}</title><style>{STYLE % (FONT, end)}</style><defs>{''.join(parts.definitions)}</defs>\n"
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1}" rx="8" fill="#161b22" stroke="#484f58"/>\n'
        f'<g transform="translate({MARGIN} {MARGIN})">\n' + "\n".join(frames) + "\n</g></svg>\n"
    )


def shown(recording, columns, rows):
    """The pictures: when each begins, its lines, and where the cursor is. A line is a list of column, text and classes."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.Stream(screen)
    ends = [time for time, _ in recording[1:]] + [float("inf")]
    begin = recording[0][0]
    last = None
    for (time, text), end in zip(recording, ends):
        stream.feed(text)
        if end - time < SHORTEST:
            continue
        lines = [segments(screen.buffer[row], columns) for row in range(rows)]
        while not lines[-1] and len(lines) > screen.cursor.y + 1:
            lines.pop()
        picture = (lines, (screen.cursor.x, screen.cursor.y))
        if picture != last:
            yield time - begin, *picture
        last = picture


def segments(row, columns):
    """The parts of a line that have one style and no gap, so that each begins in its column in whatever font."""
    found = []
    for column in range(columns):
        cell = row[column]
        if cell.data == " ":
            continue
        style = " ".join([cell.fg] * (cell.fg != "default") + ["b"] * cell.bold)
        gap = column - (found[-1][0] + len(found[-1][1])) if found else None
        if found and gap <= 1 and found[-1][2] == style:
            found[-1] = (found[-1][0], found[-1][1] + " " * gap + cell.data, style)
        else:
            found.append((column, cell.data, style))
    return found


class Parts:
    """Lines, and lines with others above them, each of which is written once."""

    def __init__(self):
        self.definitions = []
        self.names = {}

    def picture(self, lines, cursor):
        column, row = cursor
        others = [(number, line) for number, line in enumerate(lines) if line and number != row]
        above = self.used("b", "".join(self.line(line, number) for number, line in others))
        at = f'<rect class="c" x="{column * WIDTH:g}" y="{row * HEIGHT + 1}" width="{WIDTH}" height="{HEIGHT - 2}"/>'
        return above + (self.line(lines[row], row) if row < len(lines) else "") + at

    def line(self, line, row):
        return self.used("l", "".join(text(*segment) for segment in line), f' y="{row * HEIGHT}"')

    def used(self, kind, content, place=""):
        if not content:
            return ""
        if content not in self.names:
            self.names[content] = f"{kind}{len(self.names)}"
            self.definitions.append(f'<g id="{self.names[content]}">{content}</g>\n')
        return f'<use href="#{self.names[content]}"{place}/>'


def text(column, content, style):
    classes = f' class="{style}"' if style else ""
    # As wide as in the terminal, in whatever font.
    length = f' textLength="{len(content) * WIDTH:g}"' if len(content) > 1 else ""
    return f'<text x="{column * WIDTH:g}" y="{FONT}"{classes}{length}>{escape(content)}</text>'
