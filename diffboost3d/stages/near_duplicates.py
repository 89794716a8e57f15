"""Images that are nearly the same, found among prepared cases and made one patient, for splits that don't part them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.duplicates import described, in_words, joined
from diffboost3d.cases.layouts import Folder
from diffboost3d.cases.records import Case
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of, read_prepared
from diffboost3d.imaging.fingerprints import Likeness, fingerprint, near_duplicates
from diffboost3d.schema import DataConfig


def kept_together(
    data: DataConfig, workspace: Workspace, folder: Folder, cases: Sequence[Case], workers: int
) -> list[Case]:
    """The cases, with one patient for those whose images are nearly the same; writes and tells which these are."""
    if not _is_wanted(data, folder, cases):
        workspace.duplicates_path.unlink(missing_ok=True)  # of an earlier run
        return list(cases)

    def one(case: Case) -> NDArray[np.float32]:
        return fingerprint(read_prepared(workspace.prepared(case.id)), case.grid.slice_axis)

    with ThreadPoolExecutor(workers) as pool:
        prints = list(pool.map(one, cases))
    likeness = Likeness(data.similarity, data.detail_similarity, data.similarity_flips)
    twins = near_duplicates(prints, likeness)
    told = described(cases, twins, likeness)
    write_json(workspace.duplicates_path, told)
    for line in in_words(told):
        workspace.log(line)
    return joined(cases, twins)


def _is_wanted(data: DataConfig, folder: Folder, cases: Sequence[Case]) -> bool:
    if data.near_duplicates != "auto":
        return data.near_duplicates == "keep_together"
    unknown = data.patients == "case" and data.splits is None and not any(pair.patient for pair in folder.pairs)
    return unknown and all(ending_of(case.image) in PICTURE_ENDINGS for case in cases)
