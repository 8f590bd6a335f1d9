"""Raw exposure files (level 1b) in the layout of JWST, written row block by row block."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time, TimeDelta

from mrsxr import mrs
from mrsxr.io.asdffile import LOCK
from mrsxr.io.atomic import replacing

from .pointing import V3I_YANG, VPARITY, Aim

N_SAMPLES = {"FASTR1": 1, "SLOWR1": 9}


@dataclass(frozen=True)
class Visit:
    """The facts of one exposure that its header tells."""

    setting: str
    observation: str  # "004"
    exposure: int  # dither, from 1
    n_exposures: int
    offset: tuple[float, float]  # arcsec, ideal frame
    pattern: str  # POINT or EXTENDED
    target: str
    target_ra: float
    target_dec: float
    source_type: str
    background: bool
    start: float  # MJD UTC
    n_integrations: int
    n_groups: int
    readpatt: str
    program: str = "02732"

    @property
    def activity(self) -> str:
        """Activity number, one for each grating."""
        return {"A": "01", "B": "03", "C": "05"}[self.setting[2]]

    @property
    def root(self) -> str:
        """File root, jw02732004001_02101_00001_mirifushort."""
        detector = mrs.DETECTOR_OF_CHANNELS[self.setting[:2]].lower()
        return f"jw{self.program}{self.observation}001_021{self.activity}_{self.exposure:05d}_{detector}"

    @property
    def group_time(self) -> float:
        """Seconds from group to group."""
        return mrs.FRAME_TIME[self.readpatt]

    @property
    def duration(self) -> float:
        """Seconds of the whole exposure, resets between integrations included."""
        return self.group_time * (self.n_groups * self.n_integrations + self.n_integrations - 1)


def primary_header(visit: Visit) -> fits.Header:
    """Return the primary header of an exposure with the keywords of JWST level 1b."""
    start = Time(visit.start, format="mjd", scale="utc")
    end = start + TimeDelta(visit.duration, format="sec")
    middle = start + TimeDelta(0.5 * visit.duration, format="sec")
    day, clock = start.isot.split("T")
    keys = mrs.setting_keywords(visit.setting)
    cards = {
        "DATE": "2026-01-01T00:00:00.000", "ORIGIN": "mrsxr", "TIMESYS": "UTC", "FILENAME": f"{visit.root}_uncal.fits",
        "SDP_VER": "simulated", "TELESCOP": "JWST", "DATAMODL": "Level1bModel",
        "TITLE": "simulated MIRI MRS exposure", "PI_NAME": "mrsxr", "CATEGORY": "SIM",
        "DATE-OBS": day, "TIME-OBS": clock, "DATE-BEG": start.isot, "DATE-END": end.isot,
        "OBS_ID": f"V{visit.program}{visit.observation}001021{visit.activity}",
        "VISIT_ID": f"{visit.program}{visit.observation}001",
        "PROGRAM": visit.program, "OBSERVTN": visit.observation, "VISIT": "001", "VISITGRP": "02", "SEQ_ID": "1",
        "ACT_ID": visit.activity, "EXPOSURE": str(visit.exposure), "EXPSETNG": "SIM",
        "BKGDTARG": visit.background, "TEMPLATE": "MIRI Medium Resolution Spectroscopy",
        "TARGPROP": visit.target, "TARGNAME": visit.target, "TARGTYPE": "FIXED", "TARG_RA": visit.target_ra,
        "TARG_DEC": visit.target_dec, "PROP_RA": visit.target_ra, "PROP_DEC": visit.target_dec,
        "SRCTYAPT": visit.source_type,
        "INSTRUME": "MIRI", "DETECTOR": keys["DETECTOR"], "CHANNEL": keys["CHANNEL"], "BAND": keys["BAND"],
        "EXP_TYPE": "MIR_MRS", "READPATT": visit.readpatt, "NINTS": visit.n_integrations, "NGROUPS": visit.n_groups,
        "NFRAMES": 1, "FRMDIVSR": 1, "GROUPGAP": 0, "NSAMPLES": N_SAMPLES[visit.readpatt], "TSAMPLE": 10.0,
        "TFRAME": visit.group_time, "TGROUP": visit.group_time, "EFFINTTM": visit.group_time * visit.n_groups,
        "EFFEXPTM": visit.group_time * visit.n_groups * visit.n_integrations, "DURATION": visit.duration,
        "INTSTART": 1, "INTEND": visit.n_integrations, "DRPFRMS1": 0, "DRPFRMS3": 0, "NRSTSTRT": 1, "NRESETS": 1,
        "ZEROFRAM": False, "DATAPROB": False, "SCA_NUM": 494 if keys["DETECTOR"] == "MIRIFULONG" else 495,
        "EXPSTART": start.mjd, "EXPMID": middle.mjd, "EXPEND": end.mjd,
        "SUBARRAY": "FULL", "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 1032, "SUBSIZE2": 1024, "FASTAXIS": 1,
        "SLOWAXIS": 2,
        "PATTTYPE": "4-POINT" if visit.n_exposures > 2 else "2-POINT", "PATT_NUM": visit.exposure,
        "NUMDTHPT": visit.n_exposures, "DITHOPFR": f"{visit.pattern}-SOURCE", "DITHDIRC": "NEGATIVE",
        "MRSPRCHN": "ALL", "XOFFSET": visit.offset[0], "YOFFSET": visit.offset[1],
        "APERNAME": "MIRIFU_CHANNEL1A", "PPS_APER": "MIRIFU_CHANNEL1A",
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def science_header(aim: Aim, shape: tuple[int, ...]) -> fits.Header:
    """Return the SCI header: unsigned 16-bit data and the pointing keywords."""
    pointing = aim.pointing
    cards = {
        "XTENSION": "IMAGE", "BITPIX": 16, "NAXIS": 4, "NAXIS1": shape[3], "NAXIS2": shape[2], "NAXIS3": shape[1],
        "NAXIS4": shape[0], "PCOUNT": 0, "GCOUNT": 1, "BSCALE": 1, "BZERO": 32768, "EXTNAME": "SCI", "BUNIT": "DN",
        "RADESYS": "ICRS", "RA_V1": pointing.ra_ref, "DEC_V1": pointing.dec_ref, "PA_V3": pointing.roll_ref,
        "RA_REF": pointing.ra_ref, "DEC_REF": pointing.dec_ref, "ROLL_REF": pointing.roll_ref,
        "V2_REF": pointing.v2_ref, "V3_REF": pointing.v3_ref, "VPARITY": VPARITY, "V3I_YANG": V3I_YANG,
        "VA_SCALE": pointing.va_scale, "VELOSYS": aim.velosys,
    }  # fmt: skip
    return fits.Header(list(cards.items()))


def write_uncal(path: Path, visit: Visit, aim: Aim, blocks: Iterable[tuple[int, np.ndarray]]) -> Path:
    """Write an uncal file; only one block of rows is held in memory.

    Parameters
    ----------
    path : Path
    visit : Visit
    aim : Aim
    blocks : iterable of (first row, array (integration, group, row, x) of uint16 [DN])

    Returns
    -------
    Path of the file
    """
    shape = (visit.n_integrations, visit.n_groups, *mrs.DETECTOR_SHAPE)
    head = fits.PrimaryHDU(header=primary_header(visit)).header
    head["EXTEND"] = True
    start = head.tostring().encode("ascii") + science_header(aim, shape).tostring().encode("ascii")
    size = 2 * int(np.prod(shape))
    with replacing(path, sync=False) as part:
        with open(part, "wb") as file:
            file.write(start)
            file.truncate(len(start) + size + (-size) % 2880)
        data = np.memmap(part, dtype=">i2", mode="r+", offset=len(start), shape=shape)
        for low, block in blocks:
            data[:, :, low : low + block.shape[2]] = (block ^ np.uint16(0x8000)).view(np.int16)
        data.flush()
        del data
        with open(part, "ab") as file:
            file.write(_tables(visit))
    return path


def _tables(visit: Visit) -> bytes:
    """Return the HDUs GROUP, INT_TIMES and ASDF (an empty model tree, which ``jwst`` insists on) as bytes."""
    import asdf

    document = io.BytesIO()
    with LOCK:
        asdf.AsdfFile({"meta": {}}).write_to(document)
    stored = np.frombuffer(document.getvalue(), dtype=np.uint8)
    column = fits.Column(name="ASDF_METADATA", format=f"{stored.size}B", array=stored[None])
    model = fits.BinTableHDU.from_columns([column], name="ASDF")
    groups = fits.BinTableHDU(_group_table(visit), name="GROUP")
    integrations = fits.BinTableHDU(_integration_table(visit), name="INT_TIMES")
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), groups, integrations, model]).writeto(buffer)
    return buffer.getvalue()[2880:]


def _group_table(visit: Visit) -> np.ndarray:
    dtype = [
        ("integration_number", ">i4"), ("group_number", ">i2"), ("end_day", ">i2"), ("end_milliseconds", ">i4"),
        ("end_submilliseconds", ">i2"), ("group_end_time", "S26"), ("number_of_columns", ">i2"),
        ("number_of_rows", ">i2"), ("number_of_gaps", ">i2"), ("completion_code_number", ">i2"),
        ("completion_code_text", "S36"), ("bary_end_time", ">f8"), ("helio_end_time", ">f8"),
    ]  # fmt: skip
    n = visit.n_integrations * visit.n_groups
    table = np.zeros(n, dtype)
    integration, group = np.divmod(np.arange(n), visit.n_groups)
    seconds = visit.group_time * (integration * (visit.n_groups + 1) + group + 1)
    end = Time(visit.start, format="mjd", scale="utc") + TimeDelta(seconds, format="sec")
    table["integration_number"], table["group_number"] = integration + 1, group + 1
    table["end_day"] = (end.mjd - 51544).astype(int)
    table["end_milliseconds"] = ((end.mjd % 1.0) * 86400e3).astype(int)
    table["group_end_time"] = np.char.encode(end.isot, "ascii")
    table["number_of_columns"], table["number_of_rows"] = 1032, 1024
    table["completion_code_text"] = b"Normal Completion"
    table["bary_end_time"] = table["helio_end_time"] = end.mjd
    return table


def _integration_table(visit: Visit) -> np.ndarray:
    names = [f"int_{when}_{scale}" for scale in ("MJD_UTC", "BJD_TDB") for when in ("start", "mid", "end")]
    table = np.zeros(visit.n_integrations, [("integration_number", ">i4"), *((name, ">f8") for name in names)])
    first = visit.start + np.arange(visit.n_integrations) * visit.group_time * (visit.n_groups + 1) / 86400
    length = visit.group_time * visit.n_groups / 86400
    table["integration_number"] = np.arange(visit.n_integrations) + 1
    for scale in ("MJD_UTC", "BJD_TDB"):
        for share, when in ((0.0, "start"), (0.5, "mid"), (1.0, "end")):
            table[f"int_{when}_{scale}"] = first + share * length
    return table
