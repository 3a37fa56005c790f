"""`finetune cache`: the stored activations."""

from finetune.cli.options import JsonOption, print_json


def ls(as_json: JsonOption = False) -> None:
    """List what is stored: backbone, cut, size, photos and bytes."""
    from finetune.activations.store import shelves
    from finetune.data.catalog import cache_dir

    found = shelves(cache_dir())
    if as_json:
        return print_json({"cache": str(cache_dir()), "shelves": found})
    for shelf in found:
        fields, pixels = shelf["fields"], shelf["fields"]["pixels"]
        views = " augmented" if pixels["augment"] else ""
        print(
            f"{shelf['key'][:12]}  {fields['backbone']:<12}{fields['cut']:<18}{pixels['size']:>4} px{views}  "
            f"{shelf['rows']:>7,} rows  {shelf['bytes'] / 2**20:>8,.1f} MiB  {fields['dtype']}"
        )
    print(f"{sum(shelf['bytes'] for shelf in found) / 2**20:,.1f} MiB in {cache_dir()}")
