"""Plain columns of a data set: undecoded media, and class names instead of class ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def with_plain_columns(rows: Dataset) -> Dataset:
    """Set media columns to `decode=False` and turn class ids into class names."""
    from datasets import Audio, Image, Video

    features = {name: _undecoded(feature, (Image, Audio, Video)) for name, feature in rows.features.items()}
    changed = {name: feature for name, feature in features.items() if feature != rows.features[name]}
    for name, feature in changed.items():
        rows = rows.cast_column(name, feature)
    for name, feature in rows.features.items():
        if _has_classes(feature):
            order = rows.column_names
            values = [_ids_to_names(value, feature) for value in rows[name]]
            # The new column is added before the old one is removed: a data set without columns has no rows.
            rows = rows.add_column(f"{name} by name", values, feature=_name_feature(feature))
            rows = rows.remove_columns(name).rename_column(f"{name} by name", name).select_columns(order)
    return rows


def _undecoded(feature: Any, media: tuple[type, ...]) -> Any:
    from datasets import LargeList, List

    if isinstance(feature, media):
        return type(feature)(**{"decode": False})
    if isinstance(feature, (List, LargeList)):
        return type(feature)(_undecoded(feature.feature, media))
    if isinstance(feature, dict):
        return {name: _undecoded(inner, media) for name, inner in feature.items()}
    return feature


def _has_classes(feature: Any) -> bool:
    from datasets import ClassLabel, LargeList, List

    if isinstance(feature, (List, LargeList)):
        return _has_classes(feature.feature)
    if isinstance(feature, dict):
        return any(_has_classes(inner) for inner in feature.values())
    return isinstance(feature, ClassLabel)


def _ids_to_names(value: Any, feature: Any) -> Any:
    """Replace every class id in a value of this feature by the class name."""
    from datasets import ClassLabel

    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        # In `datasets`, -1 means that there is no label.
        return None if value == -1 else feature.names[value]
    if isinstance(feature, dict):
        return {name: _ids_to_names(value[name], inner) for name, inner in feature.items()}
    return [_ids_to_names(inner, feature.feature) for inner in value] if _has_classes(feature) else value


def _name_feature(feature: Any) -> Any:
    """Return the feature of the values of `_ids_to_names`."""
    from datasets import ClassLabel, LargeList, List, Value

    if isinstance(feature, ClassLabel):
        return Value("string")
    if isinstance(feature, (List, LargeList)):
        return type(feature)(_name_feature(feature.feature))
    if isinstance(feature, dict):
        return {name: _name_feature(inner) for name, inner in feature.items()}
    return feature
