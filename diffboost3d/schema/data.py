"""Keys of the input: the data folder, the prepared grid, intensities and edges, and what `inspect` says of them."""

from __future__ import annotations

from dataclasses import dataclass

from diffboost3d.schema.keys import key, section


@dataclass
class BidsConfig:
    images: list[str] = key(
        [],
        "Kinds of images, one a channel, in order: suffix after all entities but sub, ses and run, e.g. [T1w] or [T1w, ce-gd_T1w]; []: the only "
        "kind there is.",
    )
    label: str | None = key(
        None,
        "Kind of label, e.g. dseg, label-lesion_mask or manual/dseg (its folder in derivatives first); null: the only kind "
        "there is.",
    )


@dataclass
class DataConfig:
    root: str | None = key(None, "Folder with the images and labels, or a CSV file of their paths.")
    name: str | None = key(None, "Name of the data set; null takes it from dataset.json or the folder.")
    modality: str | None = key(None, "CT, MRI, Ultrasound, ...; null takes it from dataset.json.")
    layout: str = key(
        "auto",
        "How the folder is laid out; auto recognises it.",
        choices=("auto", "msd", "nnunet", "plain", "pictures", "flat", "folder_per_case", "bids", "csv", "dicom"),
    )
    series: list[str] = key(
        [],
        "Layout dicom: which series are used, a pattern (regular expression) on the series description or folder name for each "
        "image channel, in order; a study is one case then; []: every series is a case.",
    )
    bids: BidsConfig = section(BidsConfig)
    labels: dict[str, int] | None = key(
        None, "Label names and values, background 0 included; null: dataset.json, else the values found."
    )
    colours: dict[str, list[int]] | None = key(
        None,
        "Red, green and blue (0 to 255) of labels by name, for viewers and DICOM-SEG; null: a palette, as for labels not named.",
    )
    channels: list[str] | None = key(
        None,
        "Names of the image channels, in the order of the files (or of the volumes of a 4D file); null: dataset.json's. Another "
        "number than the files have is refused. A channel called CT is in HU.",
    )
    label_groups: dict[str, list[str]] | None = key(
        None,
        "Labels that count as one, everywhere: name of the group and names of its labels, e.g. {prostate: [peripheral, "
        "transition]}. The files stay as they are; predictions have the smallest value of the group; null: none.",
    )
    ignore_label: int | None = key(
        None,
        "Value, in the label files, of voxels that nobody labelled: they are in no loss and in no score, e.g. 255; null: none.",
        low=1,
    )
    patients: str = key(
        "case",
        "What makes a patient: 'case' (as the folder tells, as BIDS does, else every case), 'consecutive_numbers' (runs of following "
        "file numbers are one), a regular expression whose first group is the patient, or a CSV file with columns id, patient.",
    )
    near_duplicates: str = key(
        "auto",
        "Images that are nearly the same become one patient, so that no split parts them; auto: keep_together for pictures of which "
        "neither the folder nor `patients` nor `splits` tells who they are of, else none.",
        choices=("auto", "none", "keep_together"),
    )
    similarity: float = key(
        0.95, "Least correlation, averaged to 32 x 32, of images that are nearly the same.", low=0.5, high=1
    )
    detail_similarity: float = key(
        0.4,
        "Least correlation of their detail too, since pictures of one scanner have much else in common.",
        low=-1,
        high=1,
    )
    similarity_flips: bool = key(False, "Find images that are mirrored left-right too.")
    pixel_spacing_mm: list[float] | None = key(
        None,
        "Size of the pixels of pictures in mm, one number or width and height, the same for all: distances are then in mm; null: in "
        "pixels.",
        low=0.0001,
        length=(1, 2),
    )
    folds: int = key(3, "Number of cross-validation folds.", low=2)
    labelled: int | None = key(
        None, "Labelled training cases kept in each fold, the others serve unlabelled; null keeps all.", low=1
    )
    unlabelled: int | None = key(None, "Unlabelled training images kept in each fold; null keeps all.", low=0)
    validation_fraction: float = key(
        0.2, "Validation cases, as a share of the labelled training cases; at least one.", low=0.01, high=0.5
    )
    splits: str | None = key(None, "JSON file that pins the splits of all folds; null draws them by patient.")


@dataclass
class IntensityConfig:
    kind: str = key(
        "auto",
        "How intensities become [-1, 1]; auto: ct_window for CT, else percentiles.",
        choices=("auto", "ct_window", "percentiles"),
    )
    window_hu: list[float] = key([-160.0, 240.0], "CT window, low and high, in HU.", length=(2,))
    percentiles: list[float] = key([0.5, 99.5], "Percentiles of the volume.", low=0, high=100, length=(2,))


@dataclass
class EdgeConfig:
    operator: str = key(
        "soft",
        "What draws the edges: soft (gradient ridges in 3D), canny (thin and binary, in 3D), hed (a trained network, slice "
        "by slice; needs hed_weights).",
        choices=("soft", "canny", "hed"),
    )
    sigmas_mm: list[float] = key([1.0, 2.0], "Scales of the soft edges, in mm.", low=0.01)
    quantile: float = key(
        0.98, "Edge strength at this quantile of the volume becomes 1 (soft, canny).", low=0.5, high=1.0
    )
    thin: bool = key(True, "Thin the edges to their ridges by non-maximum suppression (soft only).")
    canny_sigma_mm: float = key(1.0, "Gaussian before canny, in mm; at least about a voxel.", low=0.01)
    canny_thresholds: list[float] = key(
        [0.25, 0.5],
        "Low and high threshold of canny; 1 is the edge strength at `quantile`.",
        low=0,
        high=1,
        length=(2,),
    )
    hed_weights: str | None = key(
        None, "ControlNetHED.pth, or the same weights as .safetensors, for operator=hed; nothing is downloaded."
    )
    hed_size: int = key(384, "Pixels to which hed enlarges the longer side of a slice on the way.", low=16)
    channels: str = key(
        "maximum",
        "How the edges of several image channels become one map: their maximum or mean at each voxel, or the first channel's.",
        choices=("maximum", "mean", "first"),
    )


@dataclass
class N4Config:
    mask: str = key(
        "otsu",
        "Where n4 looks: what is brighter than Otsu's threshold, or all voxels above 0.",
        choices=("otsu", "positive"),
    )
    shrink: int = key(4, "The image is made coarser by this factor for n4, along axes that are long enough.", low=1)
    iterations: list[int] = key(
        [50, 50, 50, 50], "Iterations of n4 at each level; each level has twice the control points.", low=1
    )
    control_points: int = key(4, "Control points along each axis at the first level.", low=4)
    convergence: float = key(0.001, "n4 ends a level where the field changes less than this.", low=0)
    fwhm: float = key(0.15, "Width of the Gaussian that sharpens the histogram, in its logarithm.", low=0.001)
    wiener_noise: float = key(0.01, "Noise of the Wiener filter in that.", low=0)


@dataclass
class PrepareConfig:
    spacing_mm: list[float] | None = key(
        None,
        "Target spacing in mm along R, A, S; null: the median over the cases. Pictures (2D) keep their grid with null; else the "
        "first two are their pixels' width and height, in pixels where data.pixel_spacing_mm is null ([2, 2, 1]: half the size).",
        low=0.01,
        length=(3,),
    )
    image_interpolation: str = key("bspline", "Image resampling.", choices=("linear", "bspline"))
    label_interpolation: str = key("gaussian", "Label resampling.", choices=("nearest", "gaussian"))
    colour: str = key(
        "grey",
        "Pictures with true colours (Doppler, drawn marks): read as their luminance, with a finding, or refused. Grey stored as "
        "colour is grey always.",
        choices=("grey", "refuse"),
    )
    intensity: IntensityConfig = section(IntensityConfig)
    edges: EdgeConfig = section(EdgeConfig)
    bias_field: str = key(
        "none",
        "Correction of the shading of MR images (channels in HU are left): none, or n4. What is synthetic gets its case's shading "
        "again.",
        choices=("none", "n4"),
    )
    n4: N4Config = section(N4Config)
    channel_grids: str = key(
        "same",
        "Image channels on another grid than the first: same: the case is skipped; resample: they are moved to it, linearly.",
        choices=("same", "resample"),
    )
    workers: int = key(0, "Threads that prepare cases at the same time; 0: one for each core.", low=0)


@dataclass
class InspectConfig:
    json: str | None = key(None, "File for all that was seen, as JSON; null: only the table on screen.")
    strict: bool = key(False, "Exit status 1 where there are problems; else 0.")
    workers: int = key(0, "Threads that read cases, one case at a time each; 0: one for each core.", low=0)
    listed: int = key(5, "Lines that the table shows of each kind of problem or note.", low=1)
    label_fit: bool = key(
        True,
        "Read the labelled cases a second time, to see whether labels are mirrored or shifted against their images.",
    )
    least_cases: int = key(6, "Labelled cases that this needs; a label is judged by the other cases.", low=3)
    fit_voxels: int = key(1000000, "Larger images are made smaller for it, by means, to at most this.", low=1000)
    flip_gain: float = key(
        0.1,
        "Mirrored labels: least gain in mean log probability, in nats a voxel; also at least the deviation of that number in the set.",
        low=0,
    )
    shift_gain: float = key(0.15, "Shifted labels: least gain, alike; also at least three times that deviation.", low=0)
    shift_voxels: int = key(3, "Shifts of fewer voxels along every axis don't count.", low=1)
    shift_reach: int = key(
        12, "Shifts of more voxels along an axis are not tried (at most a quarter of the image).", low=1
    )
    outlier: float = key(4.0, "A gain must be so many robust deviations above the median of the set.", low=0)
    spacing_ratio: float = key(
        1.5, "Times as fine or coarse as the median along an axis, from which a spacing is another one.", low=1
    )
    few: float = key(
        0.25,
        "Up to this share of the cases an odd spacing or a missing label is a problem; of more it is the nature of the set.",
        low=0,
        high=1,
    )
    anisotropy: float = key(3.0, "Slice thickness over pixel width from which slices are called thick.", low=1)
    near_duplicate: float = key(
        0.98, "Correlation of images made small (16 a side) from which they are called alike.", low=0, high=1
    )
