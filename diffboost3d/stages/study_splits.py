"""Which cases each size of a study has, and that finished results keep theirs."""

from __future__ import annotations

from collections.abc import Mapping

from diffboost3d.cases.records import Manifest, Split
from diffboost3d.cases.splits import draw_splits, nested_split, read_splits, validation_count
from diffboost3d.cases.study import Study
from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import DataError, StudyError
from diffboost3d.schema import Config


def splits_of_size(config: Config, prepared: Workspace, manifest: Manifest, size: int | None) -> list[Split]:
    """The splits of a size: parts of those that have the whole training side, or of the given ones.

    No other size has a say in them, so that sizes can be added to a study.

    Raises:
        DataError: fewer cases than the size needs.
    """
    data = config.data
    if data.splits is not None:
        whole = prepared.read_splits()
    else:
        unlabelled = data.unlabelled if size is None else None
        validation = config.compare.validation
        whole = draw_splits(
            manifest.cases, data.folds, None, unlabelled, data.validation_fraction, config.seed, validation
        )
    return [_part(config, split, manifest, fold, size) for fold, split in enumerate(whole)]


def _part(config: Config, whole: Split, manifest: Manifest, fold: int, size: int | None) -> Split:
    if size is None or fold not in config.folds:
        return whole
    validation = config.compare.validation or validation_count(size, config.data.validation_fraction)
    return nested_split(whole, manifest.cases, fold, size, validation, config.data.unlabelled, config.seed)


def refuse_other_cases(
    config: Config, study: Study, variant: str, manifest: Manifest, drawn: Mapping[int | None, list[Split]]
) -> None:
    """Refuse to make finished results anew because their size now has other cases: days of work may lie in them.

    Args:
        config: of the variant.
        drawn: size -> its splits, as they are drawn now.

    Raises:
        StudyError: it would; names the workspace and how to go on.
    """
    kept: dict[tuple[int | None, int], Split] = {}
    for size, splits in drawn.items():
        workspace = Workspace(study.workspace(variant, size))
        found = workspace.read_splits() if workspace.splits_path.is_file() else []
        for fold, split in enumerate(found):
            if fold not in config.folds or not study.has_finished(study.prefix(variant, size, fold)):
                continue
            if _labelled(split) != _labelled(splits[fold]):
                kept[size, fold] = split
    if not kept:
        return
    size, fold = next(iter(kept))
    begun = study.root / "config" / "compare.yaml"
    way = _way_on(config, study, variant, manifest, kept) or f"give the data and settings it was begun with ({begun})"
    raise StudyError(
        f"{study.workspace(variant, size)} has finished jobs of fold {fold} on other cases than are drawn for it now (by "
        f"another version, seed or data); they would be lost. To go on with its cases, {way}; to begin anew, give another "
        "workspace"
    )


def _labelled(split: Split) -> list[list[str]]:
    return [sorted(part) for part in (split.training, split.validation, split.test)]


def _way_on(
    config: Config, study: Study, variant: str, manifest: Manifest, kept: Mapping[tuple[int | None, int], Split]
) -> str:
    """The data.splits that draws those splits again: the file of the largest size there is; "": it doesn't."""
    if config.data.splits is not None:
        return ""
    largest = None if None in {size for size, _ in kept} else max(study.sizes(variant))
    path = Workspace(study.workspace(variant, largest)).splits_path
    try:
        given, _ = read_splits(path, manifest.cases)
        again = {(size, fold): _part(config, given[fold], manifest, fold, size) for size, fold in kept}
    except DataError:
        return ""
    if any(_labelled(again[place]) != _labelled(split) for place, split in kept.items()):
        return ""
    return f"give data.splits={path}" + ("" if largest is None else f" (it serves sizes up to {largest})")
