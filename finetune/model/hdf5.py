"""Look at an HDF5 file before anything is read from it: it could make HDF5 read other files, or
fill the memory.
"""

import h5py

LARGEST = 2**33  # bytes of weights


def check_hdf5(file: h5py.File, largest: int = LARGEST) -> None:
    """Refuse what no weight file needs; reads names, links, types and shapes, and no data.

    Every object is visited once, however many hard links lead to it.

    Args:
        file: open for reading.
        largest: bytes that all data sets together may take in memory.

    Raises:
        ValueError: a link that is no hard link, data that lie in other files, data that are not
            real numbers, or more bytes than ``largest``.
    """
    seen = {h5py.h5o.get_info(file.id).addr}
    waiting: list[h5py.Group] = [file]
    total = 0
    while waiting:
        group = waiting.pop()
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{place} links to something that lies elsewhere")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            else:
                total += _checked_bytes(item, place)
    if total > largest:
        raise ValueError(f"its data take {total:,} bytes, at most {largest:,} are expected")


def _checked_bytes(item: h5py.Dataset | h5py.Datatype, place: str) -> int:
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{place} is no data set")
    if item.external or item.is_virtual:
        raise ValueError(f"{place} lies in another file")
    if item.dtype.kind not in "fiu" or item.shape is None:
        raise ValueError(f"{place} has type {item.dtype}; allowed are real numbers")
    return item.size * item.dtype.itemsize
