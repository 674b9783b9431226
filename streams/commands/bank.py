"""`interestream bank`: fills the behaviour bank, and removes vectors that nothing refers to any more."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.progress import progress
from streams.settings.load import store_url

bank = typer.Typer(
    help="The behaviour bank: a vector for every distinct behaviour and item, by the lower layers of an LLM.",
    no_args_is_help=True,
)

Llm = Annotated[
    str | None,
    typer.Option(metavar="PATH|NAME", help="The LLM: a folder, or a fetched model. Default: [bank] llm, else SmolLM2."),
]
Cut = Annotated[
    int | None, typer.Option(min=0, help="How many layers count as lower, which are frozen. Default: half of them.")
]
Pooling = Annotated[
    Literal["mean", "last"] | None,
    typer.Option(help="How a text becomes a vector: the mean of its tokens' states, or the last state."),
]
Precision = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(help="Number format in which the lower layers compute. Default: float32."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")]


@bank.command("fill")
def fill(
    store: Store = None,
    llm: Llm = None,
    cut: Cut = None,
    pooling: Pooling = None,
    precision: Precision = None,
    device: Device = "auto",
) -> None:
    """Compute the vectors of behaviours and items in the store that the bank does not have yet.

    Interrupt it at any point and run it again: no vector is computed twice. Several processes may run at once and
    share the work. Each LLM, cut and template has a bank of its own, side by side; the templates are settings, [bank]
    behavior and item.
    """
    from fusion.bank.texts import store_texts
    from fusion.bank.vectors import count, note_size
    from fusion.bank.vectors import fill as run
    from fusion.encoders.split_llm import open_lower_layers
    from fusion.training.distributed import choose_device
    from streams.resolve.bank import choose_recipe
    from streams.store.engine import open_store

    place = choose_device(device)
    engine = open_store(store_url(store), create=False)
    folder, recipe = choose_recipe(llm, cut, pooling, precision)
    with engine.connect() as connection:
        found = store_texts(connection, recipe.template)
    if not found.texts:
        raise InputError("the store holds no behaviours; run `interestream replay LOG` first")
    lower = open_lower_layers(folder, recipe, device=str(place))
    with progress("Filling the bank", len(found.texts), unit="texts") as advance:
        filled = run(engine, lower, found.texts, advance=advance)
    note_size(engine, recipe.id, found.behaviors, found.distinct)
    with engine.connect() as connection:
        held = count(connection, recipe.id)
    print(f"{filled.computed:,} of {filled.asked:,} texts computed; bank {recipe.id} holds {held:,} vectors")
    print(f"  {recipe.llm}, layers 1 to {recipe.cut}, {recipe.pooling} of {recipe.precision} states")
    repeated = 1 - found.distinct / max(found.behaviors, 1)
    print(f"  {found.behaviors:,} behaviours are {found.distinct:,} texts: {100 * repeated:.1f} % repeat another")


@bank.command("gc")
def collect(
    store: Store = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep only this bank (its id, as `interestream stats` shows it); repeat the option to keep more."
        ),
    ] = None,
) -> None:
    """Remove vectors of texts that no behaviour or item in the store has any more; with --keep, also all other banks.

    When an LLM, a cut or a template is no longer used, name the banks to keep and its bank is removed.
    """
    from fusion.bank.texts import collect_garbage as run
    from fusion.bank.vectors import read_recipes
    from interest.store import counters
    from streams.store.engine import open_store

    engine = open_store(store_url(store), create=False)
    with engine.connect() as connection:
        there = read_recipes(connection)
    for name in keep or ():
        if name not in there:
            raise InputError(f"--keep {name}: there is no such bank; the store has: {', '.join(there) or 'none'}")
    gone = run(engine, keep or None, lambda connection: counters.increment(connection, counters.REMOVALS))
    for name, count in gone.items():
        whole = " and the bank with them" if keep and name not in keep else ""
        print(f"bank {name}: {count:,} vectors removed{whole}")
    if not gone:
        print("there is no bank; `interestream bank fill` makes one")
