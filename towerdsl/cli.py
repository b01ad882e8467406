"""The command line: `towerdsl compile | check | explain | draw | verify | bench | maps | diff | inspect | specs`.

Exit codes: 0 fine, 1 a mistake in the spec, a claim that does not hold, or a file that cannot be read or written, 2 a
mistake on the command line. Results go to stdout, mistakes to stderr. Nothing here imports torch, but for
`verify`, `bench`, `maps`, `inspect`, and `draw` where it evaluates a condition.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from towerdsl import __version__, files
from towerdsl.diagnostics import Diagnostic, TowerError, visible
from towerdsl.passes.static import Setting

DESCRIPTION = "A spec says what is averaged with what; towerdsl compiles it to readable PyTorch source."
#: A value of `--set` that stands for itself, as in `--set kind=rotary`.
WORD = re.compile(r"\w[\w.-]{0,79}(\(\w{1,79}\))?")
SPEC_HELP = "a .yaml file, a name that `towerdsl specs` lists, or a folder with a public config.json"


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode still shows the rest
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except TowerError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # whoever read us has seen enough; python flushes stdout once more at exit, so that goes nowhere
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{_short(str(error.filename))}: " if error.filename else ""
        print(Diagnostic("file", where + (error.strerror or str(error)).lower()).render(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="towerdsl", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"towerdsl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        found.set_defaults(run=run)
        return found

    def takes_spec(
        command: argparse.ArgumentParser,
        set_help: str = "override a size of the spec",
        many: str | None = None,
        name: str = "SPEC",
    ) -> None:
        help = f"{SPEC_HELP}; without one, the whole library" if many else SPEC_HELP
        command.add_argument("spec", metavar=name, nargs=many, help=help)
        command.add_argument(
            "--set", metavar="NAME=VALUE", action="append", default=[], type=_setting, dest="settings", help=set_help
        )

    def takes_kernel(command: argparse.ArgumentParser) -> None:
        command.add_argument("--kernel", metavar="NAME", help="compute every attention with this kernel")

    def takes_device(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--device", metavar="NAME", default="cpu", help="what kernels are chosen for: cpu (the default) or cuda"
        )

    compiling = command("compile", _compile, "write the model as Python source")
    takes_spec(compiling)
    compiling.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: to stdout)")
    compiling.add_argument("--standalone", action="store_true", help="write source that needs torch and nothing else")
    takes_kernel(compiling)
    takes_device(compiling)
    inference_help = "write the form that is not trained: the same values, faster on a CPU"
    compiling.add_argument("--inference", action="store_true", help=inference_help)

    checking = command("check", _check, "report every mistake in a spec")
    takes_spec(checking)

    explaining = command(
        "explain", _explain, "show the plan: what each attention averages, its kernel and why, its cost"
    )
    takes_spec(explaining, "override a size of the spec, or give a free length (n=4096) to see the cost in numbers")
    explaining.add_argument(
        "others", metavar="SPEC", nargs="*", help="more specs to compare it with, one row each (with --table)"
    )
    table_help = "one row for each spec: complexity of a layer, sequential operations, longest path"
    explaining.add_argument("--table", action="store_true", help=table_help)
    takes_kernel(explaining)
    takes_device(explaining)
    explaining.add_argument("--json", action="store_true", help="write the same facts as JSON")

    drawing = command("draw", _draw, "draw the model as a graph, with who sees whom in each attention")
    takes_spec(drawing, "override a size of the spec, or give a free length (n=32) for the pictures of who sees whom")
    drawing.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: to stdout)")
    format_help = "svg (the default; blocks fold at a click), or mermaid, a flowchart for a README"
    drawing.add_argument("--format", choices=("svg", "mermaid"), default="svg", help=format_help)
    depth_help = "open so many levels of blocks at first (default: what leads to an attention)"
    drawing.add_argument("--depth", metavar="N", type=_count, help=depth_help)
    fold_help = "close the blocks with this name or path (layer.*.feed_forward)"
    drawing.add_argument("--fold", metavar="PATTERN", action="append", default=[], help=fold_help)
    takes_kernel(drawing)
    takes_device(drawing)

    seed_help = "of random weights and inputs (default: 0)"
    verifying = command("verify", _verify, "check that each attention is the weighted average that it claims to be")
    takes_spec(
        verifying, "override a size of the spec, or give a free length (n=32); small ones are found otherwise", "?"
    )
    takes_kernel(verifying)
    verifying.add_argument("--seed", metavar="N", type=_seed, default=0, help=seed_help)
    verifying.add_argument("--json", action="store_true", help="write what was measured as JSON")

    benching = command("bench", _bench, "time each attention on every kernel that can compute it")
    takes_spec(benching, "override a size of the spec, or give a free length (n=4096); long ones are found otherwise")
    takes_kernel(benching)
    benching.add_argument("--repeats", metavar="K", type=_count, default=10, help="timed calls of each (default: 10)")
    benching.add_argument("--json", action="store_true", help="write what was measured as JSON")

    mapping = command("maps", _maps, "run a model and write pictures of what its attentions weigh")
    takes_spec(mapping, "override a size of the spec, or give a free length (n=32) of random inputs")
    mapping.add_argument("-o", "--output", metavar="FOLDER", required=True, help="where the pictures are written")
    mapping.add_argument("--weights", metavar="FILE", help="a checkpoint (default: random weights)")
    inputs_help = "a .safetensors or .npz file with the inputs by name (default: random inputs)"
    mapping.add_argument("--inputs", metavar="FILE", help=inputs_help)
    mapping.add_argument(
        "--at", metavar="PATTERN", default="*", help="attentions by the names of modules: 'layer.*.attention'"
    )
    mapping.add_argument("--heads", metavar="K,..", type=_numbers, help="heads, each with its own picture")
    mapping.add_argument("--rows", metavar="K,..", type=_numbers, help="queries, counted along all of their axes")
    mapping.add_argument("--batch", metavar="K", type=_number, default=0, help="which entry of the batch (default: 0)")
    mapping.add_argument("--labels", metavar="FILE", help="names of the positions (words, sentences), one in each line")
    mapping.add_argument("--image", metavar="FILE", help="the photo that the model sees, to lay the weights over")
    mapping.add_argument("--around", metavar="NODE", type=_number, help="of a large graph: the node in the middle")
    mapping.add_argument("--seed", metavar="N", type=_seed, default=0, help=seed_help)
    mapping.add_argument("--format", choices=("png", "svg"), default="png", help="of the pictures (default: png)")
    explore_help = "write a page to point at too: layers, heads and queries, beside the model (explorer.html)"
    mapping.add_argument("--explore", action="store_true", help=explore_help)

    comparing = command("diff", _diff, "show in which fields the averages of two specs differ")
    comparing.add_argument("first", metavar="A", help=SPEC_HELP)
    takes_spec(comparing, "override a size of those that have it", name="B")
    comparing.add_argument("--json", action="store_true", help="write the differences as JSON")

    inspecting = command("inspect", _inspect, "show what is in a checkpoint, and which spec it fits")
    inspecting.add_argument("source", metavar="SOURCE", help="a checkpoint file, or a folder with one")
    inspecting.add_argument("--json", action="store_true", help="write the same as JSON")

    listing = command("specs", _specs, "list the spec library, or show the sizes, formats and configurations of one")
    listing.add_argument("spec", metavar="NAME", nargs="?", help="a name of the list")
    listing.add_argument("--json", action="store_true", help="write the list as JSON")
    listing.add_argument(
        "--fields", action="store_true", help="write a table (Markdown) of what every attention of the library averages"
    )
    return parser


# --- settings --------------------------------------------------------------------------------------------------


def _setting(text: str) -> tuple[str, str]:
    """NAME=VALUE --> (name, value). Raises ArgumentTypeError."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"write NAME=VALUE, not `{_short(text)}`")
    return name, value


def _count(text: str) -> int:
    """A number of at least 1. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"write a whole number of at least 1, not `{_short(text)}`")
    return int(text)


def _number(text: str) -> int:
    """A number of at least 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"write a whole number of at least 0, not `{_short(text)}`")
    return int(text)


def _seed(text: str) -> int:
    """A whole number that random numbers may start from. Raises ArgumentTypeError."""
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"write a whole number of at most 18 digits, not `{_short(text)}`")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    """`0,3` --> (0, 3). Raises ArgumentTypeError."""
    return tuple(dict.fromkeys(_number(part.strip()) for part in text.split(",")))


def _sizes(pairs: Sequence[tuple[str, str]]) -> dict[str, Setting]:
    """The sizes that `--set` gives; of one name the last counts. Raises TowerError."""
    found: dict[str, Setting] = {}
    wrong = []
    for name, text in dict(pairs).items():
        value: Setting | None = _value(text)
        if text.startswith("[") and text.endswith("]"):
            items = [_value(item.strip()) for item in text[1:-1].split(",") if text[1:-1].strip()]
            value = [item for item in items if item is not None]
            value = value if len(value) == len(items) else None
        if value is None:
            wrong.append(f"`{_short(f'{name}={text}')}`")
        else:
            found[name] = value
    if wrong:
        message = f"--set takes a number, a word, true, false or a list, not {' or '.join(wrong)}"
        raise TowerError([Diagnostic("setting", message, help="write `--set depth=6`")])
    return found


def _value(text: str) -> int | float | bool | str | None:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text if WORD.fullmatch(text) else None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- commands --------------------------------------------------------------------------------------------------


def _compile(arguments: argparse.Namespace) -> int:
    from towerdsl.compiler import compile_spec, files_read

    if arguments.output is not None:
        files.apart(arguments.output, files_read(Path(arguments.spec)))
    compiled = compile_spec(
        Path(arguments.spec), _sizes(arguments.settings), arguments.kernel, arguments.inference, arguments.device
    )
    source = compiled.source(arguments.standalone)
    if arguments.output is None:
        sys.stdout.write(source)
    else:
        files.write(arguments.output, source)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from towerdsl.compiler import plan, understand
    from towerdsl.explain.work import Calls, volume
    from towerdsl.ir.parameters import parameter_shapes

    path, sizes = Path(arguments.spec), _sizes(arguments.settings)
    resolved, model = understand(path, sizes)
    if model is None:
        print(f"{resolved.spec.source.name}: ok (parts for other specs, checked in full where they are used)")
        return 0
    root = plan(resolved, model, bool(sizes)).model.root
    number = sum(found.modules for found in Calls().occurrences(root))
    attentions = f"{number:,} attention{'' if number == 1 else 's'}" if number else "no attention"
    parameters = sum(volume(shape) for _, shape, learned in parameter_shapes(root) if learned)
    print(f"{model.source_name}: ok ({attentions}, {parameters:,} parameters)")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from towerdsl.explain import explain, render, text, to_data

    if arguments.table or arguments.others:
        return _explain_table(arguments)
    explained = explain(Path(arguments.spec), _sizes(arguments.settings), arguments.kernel, arguments.device)
    if arguments.json:
        print(json.dumps(to_data(explained), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render(explained)
    else:
        sys.stdout.write(text(explained))
    return 0


def _explain_table(arguments: argparse.Namespace) -> int:
    from towerdsl.explain import complexity, published_form, table

    sizes = _sizes(arguments.settings)
    if arguments.kernel:
        message = "a table is of what the attentions are, on any kernel"
        raise TowerError([Diagnostic("setting", message, help="leave out --kernel")])
    if not arguments.table:
        message = "several specs are compared in a table; one alone is explained in full"
        raise TowerError([Diagnostic("setting", message, help="add --table")])
    rows = [row for spec in (arguments.spec, *arguments.others) for row in complexity(Path(spec), sizes)]
    if arguments.json:
        print(json.dumps([row.to_data() for row in rows], indent=2, ensure_ascii=False))
    else:
        sys.stdout.write(table(published_form(rows)))
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    from towerdsl.compiler import files_read
    from towerdsl.drawing import draw

    if arguments.output is not None:
        files.apart(arguments.output, files_read(Path(arguments.spec)))
    drawing = draw(
        Path(arguments.spec),
        _sizes(arguments.settings),
        arguments.kernel,
        arguments.device,
        arguments.depth,
        arguments.fold,
    )
    text = drawing.svg if arguments.format == "svg" else drawing.mermaid
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        files.write(arguments.output, text)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.spec is None:
        return _verify_library(arguments)
    from towerdsl.claims import render, text, to_data, verify_spec

    verified = verify_spec(Path(arguments.spec), _sizes(arguments.settings), arguments.kernel, arguments.seed)
    if arguments.json:
        print(json.dumps(to_data(verified), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render(verified)
    else:
        sys.stdout.write(text(verified))
    return 0 if verified.ok else 1


def _verify_library(arguments: argparse.Namespace) -> int:
    if arguments.settings or arguments.kernel:
        message = "--set and --kernel are for one spec: name it"
        print(f"towerdsl verify: error: {message}", file=sys.stderr)
        return 2
    from towerdsl.claims import library_text, render_library, to_data, verify_library

    found = []
    for entry in verify_library(arguments.seed):
        if sys.stderr.isatty():
            print(f"\r\033[K{entry[1]}", end="", file=sys.stderr, flush=True)
        found.append(entry)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        entries = [
            {"group": group, "name": name, **({"mistake": v} if isinstance(v, str) else to_data(v))}
            for group, name, v in found
        ]
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render_library(found)
    else:
        sys.stdout.write(library_text(found))
    return 0 if all(not isinstance(v, str) and v.ok for _, _, v in found) else 1


def _bench(arguments: argparse.Namespace) -> int:
    from towerdsl.bench import bench, render, text, to_data

    shown = sys.stderr.isatty()

    def tell(what: str) -> None:
        if shown:
            print(f"\r\033[K{_short(what)}", end="", file=sys.stderr, flush=True)

    benched = bench(Path(arguments.spec), _sizes(arguments.settings), arguments.kernel, arguments.repeats, tell=tell)
    tell("")
    if arguments.json:
        print(json.dumps(to_data(benched), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render(benched)
    else:
        sys.stdout.write(text(benched))
    return 0


def _maps(arguments: argparse.Namespace) -> int:
    from towerdsl import api
    from towerdsl.claims import draw
    from towerdsl.compiler import compile_spec, divided, files_read
    from towerdsl.maps import command

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(text)

    a = arguments
    chosen = command.choice(a.at, a.heads, a.rows, a.batch, path(a.labels), path(a.image), a.around, path(a.inputs))
    spec = Path(a.spec)
    settings, lengths = divided(spec, _sizes(a.settings))
    sizes: dict[str, Any] = dict(settings)
    if a.inputs is not None and lengths:
        message = f"the file of inputs says how long `{next(iter(lengths))}` is"
        raise TowerError([Diagnostic("setting", message, help="leave out --set for lengths")])
    if a.weights is None:
        model = draw.build(api.compile(spec, **sizes), a.seed)
    else:
        model = api.load(spec, a.weights, **sizes)
    compiled = compile_spec(spec, sizes)
    maps = command.look(model, compiled, lengths, path(a.inputs), a.seed, chosen)
    reads = [*files_read(spec), *(x for x in (a.weights, a.inputs, a.labels, a.image) if x is not None)]
    for file in command.write(maps, chosen, Path(a.output), f".{a.format}", reads):
        print(file, flush=True)
    if a.explore:
        from towerdsl.drawing import draw as drawn

        print(command.explore(maps, chosen, Path(a.output), compiled.model.name, drawn(spec, sizes).svg, reads))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from towerdsl.compare import diff, render, text, to_data

    found = diff(Path(arguments.first), Path(arguments.spec), _sizes(arguments.settings))
    if arguments.json:
        print(json.dumps(to_data(found), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        render(found)
    else:
        sys.stdout.write(text(found))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from towerdsl.contents import contents

    found = contents(Path(arguments.source))
    print(json.dumps(found.to_data(), indent=2, ensure_ascii=False) if arguments.json else found)
    return 0


def _specs(arguments: argparse.Namespace) -> int:
    from towerdsl.lang import library

    if arguments.spec is not None:
        from towerdsl.contents import spec_text

        print(spec_text(arguments.spec))
        return 0
    if arguments.fields:
        from towerdsl.compare import markdown, rows

        print(markdown(list(rows())))
        return 0
    root = library.library_folder()
    found = [(path.relative_to(root).parent.as_posix(), name, path) for name, path in library.library().items()]
    entries = [{"group": group, "name": name, **_about(path)} for group, name, path in found]
    if arguments.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    models = [e for e in entries if not e["shared"]]
    shared = [e for e in entries if e["shared"]]
    width = max((len(str(e["name"])) for e in entries), default=0)
    group = None
    for entry in models:
        if entry["group"] != group:
            group = entry["group"]
            print(f"{'' if entry is models[0] else chr(10)}{group}")
        print("\n".join(_listed(entry, width)))
    if shared:
        names = f"shared blocks, for `use`: {', '.join(str(e['name']) for e in shared)}"
        print("\n" + textwrap.fill(names, 98, subsequent_indent="  "))
    return 0


def _listed(entry: dict[str, object], width: int) -> list[str]:
    """An entry of the list: its paper beside its name, what it is about below."""
    pad = " " * (width + 4)
    lines = [str(entry[key]) for key in ("paper", "about") if entry[key]]
    wrapped = [x for line in lines for x in textwrap.wrap(line, max(40, 98 - len(pad)))] or [""]
    return [f"  {entry['name']!s:<{width}}  {wrapped[0]}".rstrip(), *(pad + line for line in wrapped[1:])]


def _about(path: Path) -> dict[str, object]:
    """What the head of a library file says, read without its expressions: a long list comes at once."""
    import yaml

    try:
        head = yaml.load(path.read_bytes(), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError, ValueError):
        head = None
    head = head if isinstance(head, dict) else {}
    paper, about = (visible(" ".join(str(head[k]).split()), "") if head.get(k) else None for k in ("paper", "about"))
    return {"paper": paper, "about": about, "shared": not (head.get("flow") or head.get("outputs"))}


if __name__ == "__main__":
    sys.exit(main())
